"use strict";
// Browser of samples. Model text is hostile: it reaches the page only as text nodes, and what would
// hide, reorder or imitate text is shown as an escape.

const PER_PAGE = 20;
const SHOWN = 1200; // characters of a text before "show more"
const MORE = 50000;
const MODE_NAMES = { think: "Think", no_think: "No-think" };
const FLAGS = [[1, "malformed"], [2, "cut off"], [4, "reasoning markers"]];
const UNSAFE = /(?![\n\t\u200c\u200d])[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu;

const byId = (id) => document.getElementById(id);
const pause = () => new Promise((resolve) => setTimeout(resolve));

function element(tag, text, className) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function visible(text) {
  return text.replace(UNSAFE, (c) => {
    const code = c.codePointAt(0);
    return code > 0xffff ? `\\u{${code.toString(16)}}` : `\\u${code.toString(16).padStart(4, "0")}`;
  });
}

const percent = (share, digits = 0) => (share == null ? "n/a" : `${(100 * share).toFixed(digits)} %`);
const counted = (n, noun) => `${n.toLocaleString("en")} ${noun}${n === 1 ? "" : "s"}`;

// ---- Data

async function unpack(id) {
  const packed = atob(byId(id).textContent);
  const bytes = new Uint8Array(packed.length);
  for (let i = 0; i < packed.length; i++) bytes[i] = packed.charCodeAt(i);
  const plain = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(plain).text());
}

class Stage {
  constructor(name, columns) {
    Object.assign(this, columns, { name, texts: new Map() });
    const { prompts, replies, firsts } = this;
    this.size = prompts.id.length;
    this.start = new Uint32Array(this.size + 1); // of a prompt's replies
    this.at = new Uint32Array(this.size); // of a prompt in its block of texts
    this.block = new Uint32Array(this.size);
    this.flags = new Uint8Array(this.size);
    // Mean score by pass; NaN where there are no replies.
    this.score = this.passes.map(() => new Float32Array(this.size));
    this.length = new Float32Array(this.size); // of the longest reply, tokens
    for (let k = 0, block = -1, at = 0; k < this.size; k++) {
      if (k === firsts[block + 1]) [block, at] = [block + 1, 0];
      [this.block[k], this.at[k]] = [block, at];
      at += 1 + replies.count[k];
      this.start[k + 1] = this.start[k] + replies.count[k];
      const sums = this.passes.map(() => [0, 0]);
      for (let n = this.start[k]; n < this.start[k + 1]; n++) {
        sums[replies.pass[n]][0] += replies.score[n];
        sums[replies.pass[n]][1] += 1;
        this.flags[k] |= replies.flags[n];
        this.length[k] = Math.max(this.length[k], replies.tokens[n]);
      }
      sums.forEach(([sum, count], p) => (this.score[p][k] = sum / count));
    }
  }

  async load(block) {
    if (!this.texts.has(block)) {
      const id = `${this.name}-${block}`;
      this.texts.set(block, unpack(id).then((texts) => (byId(id).remove(), texts)));
    }
    return this.texts.get(block);
  }

  // The prompt and its replies, in the order of the columns.
  async of(k) {
    const texts = await this.load(this.block[k]);
    return texts.slice(this.at[k], this.at[k] + 1 + this.replies.count[k]);
  }
}

// ---- What is shown

const state = { stage: null, matches: [], page: 0, query: null, run: 0 };
const stages = new Map();

const OUTCOMES = {
  "free-right": (s, k) => s.score[0][k] > s.right,
  "free-wrong": (s, k) => s.score[0][k] <= s.right,
  both: (s, k) => s.score[1][k] > s.right && s.score[2][k] > s.right,
  think: (s, k) => s.score[1][k] > s.right && s.score[2][k] <= s.right,
  "no-think": (s, k) => s.score[1][k] <= s.right && s.score[2][k] > s.right,
  neither: (s, k) => s.score[1][k] <= s.right && s.score[2][k] <= s.right,
};
const ORDERS = {
  "p-high": (s) => (a, b) => s.prompts.p_think[b] - s.prompts.p_think[a] || a - b,
  "p-low": (s) => (a, b) => s.prompts.p_think[a] - s.prompts.p_think[b] || a - b,
  long: (s) => (a, b) => s.length[b] - s.length[a] || a - b,
};

function filtered(stage) {
  const tests = [];
  for (const name of ["suite", "subject", "source"]) {
    const chosen = byId(`filter-${name}`).value;
    const codes = stage.prompts[name].codes;
    if (chosen !== "") tests.push((k) => codes[k] === Number(chosen));
  }
  const level = byId("filter-level").value;
  if (level !== "") tests.push((k) => String(stage.prompts.level[k]) === level);
  const mode = byId("filter-mode").value;
  if (mode !== "") tests.push((k) => stage.prompts.chosen[k] === Number(mode));
  const outcome = OUTCOMES[byId("filter-outcome").value];
  if (outcome) tests.push((k) => outcome(stage, k));
  const form = Number(byId("filter-form").value);
  if (form) tests.push((k) => stage.flags[k] & form);
  const found = [];
  for (let k = 0; k < stage.size; k++) if (tests.every((test) => test(k))) found.push(k);
  const order = ORDERS[byId("filter-order").value];
  return order ? found.sort(order(stage)) : found;
}

// Prompts among `candidates` that hold the query, block by block; null where a later run began.
async function searched(stage, candidates, query, run) {
  const wanted = new Uint8Array(stage.size);
  const blocks = new Set();
  for (const k of candidates) {
    wanted[k] = 1;
    blocks.add(stage.block[k]);
  }
  let done = 0;
  for (const block of blocks) {
    const texts = await stage.load(block);
    if (run !== state.run) return null;
    const first = stage.firsts[block];
    const end = stage.firsts[block + 1] ?? stage.size;
    for (let k = first; k < end; k++) {
      if (!wanted[k]) continue;
      const stop = stage.at[k] + 1 + stage.replies.count[k];
      let holds = query.test(stage.prompts.answer[k]);
      for (let i = stage.at[k]; !holds && i < stop; i++) holds = query.test(texts[i]);
      wanted[k] = holds ? 1 : 0;
    }
    byId("found").textContent = `Searching: ${percent(++done / blocks.size)}`;
    await pause();
  }
  return candidates.filter((k) => wanted[k]);
}

async function update() {
  const run = ++state.run;
  const { stage } = state;
  const words = byId("search").value.trim();
  state.query = words ? new RegExp(words.replace(/[.*+?^${}()|[\]\\\/-]/g, "\\$&"), "i") : null;
  let found = filtered(stage);
  if (state.query) found = await searched(stage, found, state.query, run);
  if (found === null) return;
  [state.matches, state.page] = [found, 0];
  await show();
}

async function show() {
  const { stage, matches, page, run } = state;
  const pages = Math.max(Math.ceil(matches.length / PER_PAGE), 1);
  const rows = matches.slice(page * PER_PAGE, (page + 1) * PER_PAGE);
  const cards = await Promise.all(rows.map(async (k) => card(stage, k, await stage.of(k))));
  if (run !== state.run) return;
  byId("cards").replaceChildren(...cards);
  byId("found").textContent =
    `${counted(matches.length, "prompt")} of ${stage.size.toLocaleString("en")}`;
  byId("page").value = page + 1;
  byId("page").max = pages;
  byId("pages").textContent = `of ${pages.toLocaleString("en")}`;
  byId("previous").disabled = page === 0;
  byId("next").disabled = page === pages - 1;
}

function turn(page, focus) {
  const last = Math.max(Math.ceil(state.matches.length / PER_PAGE), 1) - 1;
  state.page = Math.min(Math.max(page || 0, 0), last);
  return show().then(() => focus && byId("found").scrollIntoView());
}

// ---- One prompt

function card(stage, k, [prompt, ...texts]) {
  const { prompts } = stage;
  const names = ["suite", "source", "subject"].map((n) => prompts[n].names[prompts[n].codes[k]]);
  const made = element("article");
  const title = element("h3", `Prompt ${prompts.id[k]}`);
  const about = [`level ${prompts.level[k]}`, ...new Set(names.filter(Boolean))].join(" · ");
  title.append(element("small", visible(about)));
  const line = element("p", undefined, "about");
  const answer = element("span", "Answer ");
  answer.append(element("bdi", visible(prompts.answer[k].slice(0, 2000))));
  const p = prompts.p_think[k];
  const choice = element("span", `p(think) ${percent(p, 1)}`);
  if (p != null) choice.append(bar(p));
  line.append(answer, choice, element("span", `p(neither tag) ${percent(prompts.p_neither[k], 2)}`));
  made.append(title, textBlock(prompt), line);
  const sides = element("div", undefined, "sides");
  for (const pass of [1, 2, 0]) {
    const own = [];
    for (let n = stage.start[k]; n < stage.start[k + 1]; n++) {
      if (stage.replies.pass[n] === pass) own.push(n);
    }
    if (own.length) sides.append(side(stage, k, pass, own, texts));
  }
  made.append(sides);
  return made;
}

function bar(share) {
  const outer = element("span", undefined, "bar");
  outer.setAttribute("aria-hidden", "true");
  outer.append(element("span"));
  outer.firstChild.style.width = `${100 * share}%`;
  return outer;
}

function side(stage, k, pass, own, texts) {
  const name = stage.passes[pass];
  const chosen = stage.modes[stage.prompts.chosen[k]];
  const made = element("section", undefined, `side ${name}${chosen === name ? " chosen" : ""}`);
  const title = element("h4", MODE_NAMES[name] ?? "Free choice");
  if (chosen === name) title.append(element("small", "chosen by the policy"));
  const facts = element("p", undefined, "facts");
  const body = element("div");
  let at = 0;
  const render = () => {
    const n = own[at];
    const right = stage.replies.score[n] > stage.right;
    const tokens = stage.replies.tokens[n];
    const said = [right ? "✓ right" : "✗ wrong"];
    if (stage.replies.score[n] % 1) said.push(`score ${stage.replies.score[n].toFixed(2)}`);
    const mode = MODE_NAMES[stage.modes[stage.replies.mode[n]]] ?? "no mode";
    if (name === "free") said.push(mode.toLowerCase());
    if (tokens >= 0) said.push(counted(tokens, "token"));
    for (const [bit, word] of FLAGS) if (stage.replies.flags[n] & bit) said.push(word);
    facts.replaceChildren(element("span", said[0], right ? "right" : "wrong"));
    facts.append(said.slice(1).map((fact) => ` · ${fact}`).join(""));
    if (own.length > 1) facts.append(stepper());
    body.replaceChildren(textBlock(texts[n - stage.start[k]]));
  };
  const stepper = () => {
    const next = element("button", `reply ${at + 1} of ${own.length}`, "plain");
    next.type = "button";
    const whose = `${MODE_NAMES[name] ?? "Free choice"}, prompt ${stage.prompts.id[k]}`;
    next.setAttribute("aria-label", `${whose}: reply ${at + 1} of ${own.length}, show the next`);
    next.addEventListener("click", () => {
      at = (at + 1) % own.length;
      render();
      facts.querySelector("button").focus();
    });
    return next;
  };
  render();
  made.append(title, facts, body);
  return made;
}

// Text with matches marked, and the rest of a long one on demand.
function textBlock(text) {
  const made = element("div", undefined, "text");
  const first = state.query ? text.search(state.query) : -1;
  let from = first > SHOWN / 2 ? first - 200 : 0;
  let end = Math.min(from + SHOWN, text.length);
  const render = () => {
    const shown = element("pre");
    shown.dir = "auto";
    if (from) shown.append("… ");
    const part = text.slice(from, end);
    const split = state.query ? part.split(new RegExp(`(${state.query.source})`, "gi")) : [part];
    split.forEach((piece, i) => shown.append(i % 2 ? element("mark", visible(piece)) : visible(piece)));
    made.replaceChildren(shown);
    if (!from && end >= text.length) return;
    const left = text.length - (end - from);
    const more = element("button", `Show more (${counted(left, "character")})`, "plain");
    more.type = "button";
    more.addEventListener("click", () => {
      [from, end] = [0, Math.min(Math.max(end, 0) + MORE, text.length)];
      render();
      made.querySelector("button")?.focus();
    });
    made.append(more);
  };
  render();
  return made;
}

// ---- Controls

function options(id, entries) {
  const select = byId(id);
  const before = select.value;
  const every = element("option", select.dataset.any);
  every.value = "";
  select.replaceChildren(every);
  for (const [value, text] of entries) {
    const option = element("option", visible(text).slice(0, 80) || "(none)");
    option.value = value;
    select.append(option);
  }
  select.value = entries.some(([value]) => String(value) === before) ? before : "";
  select.closest("label").hidden = entries.length < 2;
}

async function choose(name) {
  if (!stages.has(name)) stages.set(name, new Stage(name, await unpack(`${name}-columns`)));
  const stage = (state.stage = stages.get(name));
  for (const column of ["suite", "subject", "source"]) {
    options(`filter-${column}`, stage.prompts[column].names.map((text, i) => [i, text]));
  }
  const levels = [...new Set(stage.prompts.level)].sort((a, b) => a - b);
  options("filter-level", levels.map((level) => [level, String(level)]));
  const notes = [];
  if (stage.keptCharacters) {
    notes.push(`Texts are cut to ${counted(stage.keptCharacters, "character")} here.`);
  }
  if (stage.leftOut) {
    const left = stage.leftOut.toLocaleString("en");
    notes.push(`Sampled with a dial or to no known prompt, and in the files only: ${left}.`);
  }
  byId("sample-notes").textContent = notes.join(" ");
  await update();
}

async function begin() {
  const names = [...document.querySelectorAll("[data-stage]")].map((e) => e.dataset.stage);
  let timer = 0;
  byId("search").addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(update, 200);
  });
  for (const select of document.querySelectorAll("#filters select")) {
    const changed = select.id === "filter-stage" ? () => choose(select.value) : update;
    select.addEventListener("change", changed);
  }
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  byId("filters").addEventListener("reset", () => setTimeout(update));
  byId("previous").addEventListener("click", () => turn(state.page - 1, true));
  byId("next").addEventListener("click", () => turn(state.page + 1, true));
  byId("page").addEventListener("change", (event) => turn(Number(event.target.value) - 1, true));
  await choose(byId("filter-stage").value || names[0]);
}

if (document.querySelector("[data-stage]")) {
  begin().catch((error) => (byId("found").textContent = `The samples cannot be shown: ${error}`));
}

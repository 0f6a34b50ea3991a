// Text of the model and of the user is only ever set as text, never as markup.
"use strict";
const $ = (id) => document.getElementById(id);
const turns = [];
let model = "", running = null;

function add(parent, tag, className, text = "") {
  const element = document.createElement(tag);
  element.className = className;
  element.textContent = text;
  parent.append(element);
  return element;
}

function headers() {
  const found = { "Content-Type": "application/json" };
  if ($("key").value) found.Authorization = `Bearer ${$("key").value}`;
  return found;
}

async function loadModel() {
  const answer = await fetch("/v1/models", { headers: headers() });
  $("name").textContent = answer.ok ? (model = (await answer.json()).data[0].id) : "Enter the key of this server.";
}

function request() {
  const body = { model, stream: true, stream_options: { include_usage: true } };
  body.messages = $("whole").checked ? turns : turns.slice(-1);
  const mode = $("mode").value;
  if (mode === "threshold") body.think_threshold = Number($("threshold").value);
  else if (mode) body.chat_template_kwargs = { enable_thinking: mode === "think" };
  if ($("budget").value && mode !== "no_think") body.thinking_token_budget = Number($("budget").value);
  if ($("temperature").value) body.temperature = Number($("temperature").value);
  return body;
}

async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (held + value).split("\n\n");
    held = parts.pop();
    for (const part of parts) if (part !== "data: [DONE]") yield JSON.parse(part.slice(6));
  }
}

async function ask() {
  const began = performance.now(), article = add($("log"), "article", "reply");
  const thought = add(article, "details", "");
  thought.hidden = true;
  add(thought, "summary", "", "Thought");
  const reasoning = add(thought, "div", "text"), content = add(article, "div", "text");
  const facts = add(article, "div", "facts", "…");
  let routing = {}, first = 0, usage = null, finish = "";
  running = new AbortController();
  try {
    const answer = await fetch("/v1/chat/completions", {
      method: "POST", headers: headers(), body: JSON.stringify(request()), signal: running.signal,
    });
    if (!answer.ok) throw new Error((await answer.json()).error.message);
    for await (const chunk of events(answer)) {
      if (chunk.error) throw new Error(chunk.error.message);
      if (chunk.usage) usage = chunk.usage;
      for (const choice of chunk.choices) {
        first ||= performance.now() - began;
        routing = choice.routing || routing;
        finish = choice.finish_reason || finish;
        if (choice.delta.reasoning) {
          thought.hidden = false;
          reasoning.textContent += choice.delta.reasoning;
        }
        if (choice.delta.content) content.textContent += choice.delta.content;
      }
      $("log").scrollTop = $("log").scrollHeight;
    }
    turns.push({ role: "assistant", content: content.textContent });
  } catch (error) {
    finish = "stopped";
    turns.pop();  // a question without a reply is no part of the conversation
    if (error.name !== "AbortError") add(article, "div", "error text", error.message);
  }
  running = null;
  const told = [routing.mode || "no mode", `lane ${routing.lane}`, `decided by the ${routing.decided_by}`];
  if (routing.p_think !== undefined && routing.p_think !== null) told.push(`p(think) ${routing.p_think.toFixed(3)}`);
  if (usage) told.push(`${usage.completion_tokens} tokens, ${usage.completion_tokens_details.reasoning_tokens} of them thought`);
  told.push(`first token ${Math.round(first)} ms`, `all ${Math.round(performance.now() - began)} ms`, finish);
  if (routing.handed_over) told.push("answer to the core's thought");
  facts.textContent = routing.lane ? told.join(" · ") : "";
  $("log").scrollTop = $("log").scrollHeight;
}

$("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const text = $("prompt").value.trim();
  if (!text || running) return;
  turns.push({ role: "user", content: text });
  add($("log"), "article", "user text", text);
  $("prompt").value = "";
  $("send").hidden = true;
  $("stop").hidden = false;
  if (!model) await loadModel();
  await ask();
  $("send").hidden = false;
  $("stop").hidden = true;
  $("prompt").focus();
});
$("stop").addEventListener("click", () => running && running.abort());
$("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey) {
    event.preventDefault();
    $("form").requestSubmit();
  }
});
$("mode").addEventListener("change", () => { $("threshold-field").hidden = $("mode").value !== "threshold"; });
$("key").addEventListener("change", loadModel);
loadModel();

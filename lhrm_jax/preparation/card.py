"""The index of prepared data and its card: what was read, removed and kept."""

import collections
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from datatrove.pipeline.base import PipelineStep

from lhrm_jax.data import sources
from lhrm_jax.data.shards import INDEX, Group, Index, Shard, fingerprint
from lhrm_jax.preparation import chat_filter, reading
from lhrm_jax.preparation.rows import QUERY, REMOVED
from lhrm_jax.preparation.shard_writing import GROUPS, load_tokenizer
from lhrm_jax.storage.folder import Folder

_REASONS, _EXAMPLES = 5, 3


class WriteIndex(PipelineStep):
  """Writes `index.json`, last of all, after `card.json` and `card.md`; one task."""

  type, name = "Writer", "index and data card"

  def __init__(
    self, work: str, out: str, tokenizer: str, suites: Sequence[str], steps: Sequence[str]
  ):
    """Args:
    work: folder of the preparation.
    out: folder of the prepared data.
    tokenizer: model whose tokenizer encoded the rows.
    suites: evaluations whose questions were removed.
    steps: names of the steps that removed rows, in order.
    """
    super().__init__()
    self._work, self._out, self._tokenizer = work, out, tokenizer
    self._suites, self._steps = tuple(suites), tuple(steps)

  def run(self, data=None, rank: int = 0, world_size: int = 1) -> Iterator[Any]:
    work, out = Folder(self._work), Folder(self._out)
    held = {name: json.loads(work.read(name)) for name in work.names(GROUPS)}
    groups = [_group(fields) for name, fields in held.items() if f"/{QUERY}/" not in name]
    prompts = {f["source"]: f["rows"] for name, f in held.items() if f"/{QUERY}/" in name}
    tokenizer = fingerprint(load_tokenizer(self._tokenizer))
    index = Index(tokenizer, tuple(groups), prompts, self._suites)
    card = counted(work, index, self._steps)
    out.write("card.json", json.dumps(card, indent=1).encode())
    out.write("card.md", page(card).encode())
    out.write(INDEX, index.to_json())
    yield from ()


def _group(fields: Mapping[str, Any]) -> Group:
  return Group(**{**fields, "shards": tuple(Shard(**shard) for shard in fields["shards"])})


def counted(work: Folder, index: Index, steps: Sequence[str]) -> dict[str, Any]:
  """Counts of a preparation, JSON-like.

  Returns:
    "sources" (rows read, left out as not wanted and bad, by source), "steps" (rows in and out of
    each, removals by source and reason, examples), "rows" and "tokens" by mode and source, and
    "classifier", its measurements.
  """
  sources: dict[str, dict[str, Any]] = {}
  for name in work.names(reading.COUNTS):
    part = json.loads(work.read(name))
    of = sources.setdefault(
      part["source"],
      {"kept": 0, "bad": collections.Counter(), "unwanted": collections.Counter(), "examples": []},
    )
    of["kept"] += part["kept"]
    of["bad"].update(part["bad"])
    of["unwanted"].update(part["unwanted"])
    of["examples"] = (of["examples"] + part["examples"])[:_EXAMPLES]
  rows, found = sum(of["kept"] for of in sources.values()), []
  for step in steps:
    counts, examples = _removals(work, step)
    removed = sum(counts.values())
    by_source: dict[str, dict[str, int]] = {}
    for (source, reason), count in sorted(counts.items()):
      by_source.setdefault(source, {})[reason] = count
    found.append({"step": step, "in": rows, "out": rows - removed, "removed": by_source,
                  "examples": examples})  # fmt: skip
    rows -= removed
  measured = chat_filter.MEASURED
  return {
    "sources": sources,
    "steps": found,
    "demonstrations": [
      {"mode": g.mode, "source": g.source, "rows": g.rows, "tokens": g.tokens, "weight": g.weight}
      for g in index.groups
    ],
    "queries": dict(index.prompts),
    "classifier": json.loads(work.read(measured)) if work.has(measured) else None,
    "suites": list(index.suites),
  }


def _removals(work: Folder, step: str) -> tuple[collections.Counter, list[dict[str, str]]]:
  counts: collections.Counter[tuple[str, str]] = collections.Counter()
  examples: list[dict[str, str]] = []
  for name in work.names(f"{REMOVED}/{step}"):
    held = json.loads(work.read(name))
    for source, reason, count in held["counts"]:
      counts[source, reason] += count
    examples = (examples + held["examples"])[:_EXAMPLES]
  return counts, examples


def page(card: Mapping[str, Any]) -> str:
  """The data card as Markdown."""
  demonstrations = card["demonstrations"]
  lines = [
    "# Data card",
    "",
    f"{sum(d['rows'] for d in demonstrations):,} demonstrations of "
    f"{sum(d['tokens'] for d in demonstrations):,} tokens, and "
    f"{sum(card['queries'].values()):,} queries. Removed were questions of: "
    f"{', '.join(card['suites']) or 'no evaluation'}.",
    "",
    "## Sources",
    "",
    "| source | kept | not wanted | bad |",
    "|---|---|---|---|",
    *(
      f"| {name} | {of['kept']:,} | {_reasons(of['unwanted'])} | {_reasons(of['bad'])} |"
      for name, of in card["sources"].items()
    ),
    "",
    "## Steps",
    "",
    "| step | rows in | rows out | removed |",
    "|---|---|---|---|",
  ]
  for step in card["steps"]:
    total: collections.Counter[str] = collections.Counter()
    for by_reason in step["removed"].values():
      total.update(by_reason)
    lines.append(f"| {step['step']} | {step['in']:,} | {step['out']:,} | {_reasons(total)} |")
  lines += ["", "## Demonstrations", "", "| mode | source | rows | tokens | weight |",
            "|---|---|---|---|---|"]  # fmt: skip
  lines += [
    f"| {d['mode']} | {d['source']} | {d['rows']:,} | {d['tokens']:,} | {d['weight']:g} |"
    for d in demonstrations
  ]
  lines += ["", "## Queries", "", "| source | rows |", "|---|---|"]
  lines += [f"| {name} | {rows:,} |" for name, rows in card["queries"].items()]
  if card["classifier"]:
    lines += ["", "## Classifier of chat", "", *_classifier(card["classifier"])]
  lines += ["", "## Examples of what was removed", ""]
  for step in card["steps"]:
    lines += [
      f"- {step['step']}, {e['source']} {e['id']}, {e['reason']}: {e['prompt']!r}"
      for e in step["examples"]
    ]
  return "\n".join(lines) + "\n"


def _classifier(measured: Mapping[str, Any]) -> list[str]:
  table = [
    f"| {name} | {measured[name]['precision']:.3f} | {measured[name]['recall']:.3f} |"
    for name in ("classifier", "keywords")
  ]
  return [
    "| on held-out questions | precision | recall |", "|---|---|---|", *table, "",
    f"{measured['held_out']:,} held out, {measured['fitted']:,} fitted to; {measured['bytes']:,} "
    "bytes.",
  ]  # fmt: skip


def _reasons(counts: Mapping[str, int]) -> str:
  most, more = sources.most_common(counts, _REASONS)
  shown = [f"{count:,} {reason}" for reason, count in most]
  if more:
    shown.append(f"{more:,} for other reasons")
  return "; ".join(shown).replace("|", "\\|") or "0"

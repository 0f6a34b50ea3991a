"""Tables of what `benchmarks.data` and `benchmarks.buckets` measured."""

from collections.abc import Mapping
from typing import Any

_PAPER_ROWS = 1_694_586
_MOST_EATEN = 128 * 32_768 / 6.3  # tokens per second, 7B HFT on 64 chips of v6e by plan


def preparation_table(results: Mapping[str, Any]) -> str:
  """Rows per processor second by step, what was found, and reading back."""
  made, alone = results["prepare"], results["processor"]
  rows, used = alone["rows"], alone["processor_seconds"]
  total = sum(used.values())
  hours = _PAPER_ROWS / rows * total / 7200
  lines = [
    "On synthetic rows with the paper's lengths, on a machine of 2 cores that other work shared "
    f"(load average {made['load_average'][0]:.0f}), so speed is in seconds of a processor and not "
    f"of the clock: {rows:,} rows, {alone['text_bytes'] / 1e6:,.0f} MB of text, one worker.",
    "",
    "| step | processor seconds | rows per processor second |",
    "|---|---|---|",
    *(f"| {name} | {s:,.1f} | {rows / max(s, 0.1):,.0f} |" for name, s in used.items()),
    f"| all | {total:,.1f} | {rows / total:,.0f} |",
    "",
    f"At that rate the paper's {_PAPER_ROWS:,} rows take {hours:,.1f} hours of two free cores; "
    "this was not run. Most of it is tokenising long responses and searching them for runs of 13 "
    f"words. The process held at most {alone['peak_bytes'] / 2**20:,.0f} MiB, what the libraries "
    "take included; a task holds one part at a time.",
    "",
    f"{made['rows']:,} rows ({made['text_bytes'] / 1e6:,.0f} MB of text, "
    f"{made['tokens'] / 1e6:,.1f} million tokens kept) took {made['work_bytes'] / 1e6:,.0f} MB "
    f"between the steps and {made['out_bytes'] / 1e6:,.0f} MB of shards. What was planted in them:",
    "",
    *_found(made),
  ]
  return "\n".join([*lines, *_kills(results), *_feed(results)])


def _found(made: Mapping[str, Any]) -> list[str]:
  found, measured = made["found"], made["classifier"]
  words = {"exact": "exact duplicates", "near": "near duplicates, a word changed",
           "evaluated": "questions of the evaluation, in other case, spaces and punctuation",
           "reasoning": "reasoning among the chat"}  # fmt: skip
  rows = [
    f"| {text} | {found['planted'].get(kind, 0):,} | {found['recall'][kind]:.1%} |"
    for kind, text in words.items()
  ]
  false = max(found["plain_removed"].values())
  kept = found["other_number_kept"]
  return [
    "| planted | rows | found |",
    "|---|---|---|",
    *rows,
    "",
    f"Of rows with nothing planted in them, a step removed at most {false:.2%}; of questions that "
    f"differ from another in a number alone, {kept:.1%} were kept. The classifier of chat "
    f"({measured['bytes'] / 1e3:,.0f} kB): precision {measured['classifier']['precision']:.3f} and "
    f"recall {measured['classifier']['recall']:.3f} on {measured['held_out']:,} held-out "
    f"questions, keyword rules {measured['keywords']['precision']:.3f} and "
    f"{measured['keywords']['recall']:.3f}, at {measured['rows_per_second']:,.0f} questions a "
    "second.",
  ]


def _kills(results: Mapping[str, Any]) -> list[str]:
  if not (killed := results.get("kills")):
    return []
  same = "the same bytes" if killed["same_bytes"] else "OTHER BYTES"
  return [
    "",
    f"Killed {killed['kills']} times on the way (in {', '.join(killed['in_steps'])}), the "
    f"preparation of {killed['rows']:,} rows ended with {same} in every shard.",
  ]


def _feed(results: Mapping[str, Any]) -> list[str]:
  if not (fed := results.get("feed")):
    return []
  return [
    "",
    f"Drawing and packing a step of 128 demonstrations ({fed['tokens_per_step']:,.0f} tokens) from "
    f"the shards: {fed['tokens_per_second'] / 1e6:,.1f} million tokens a second in one thread, "
    f"{fed['tokens_per_second'] / _MOST_EATEN:,.0f} times what the fastest plan of 7B HFT in "
    "[scaling.md](scaling.md) consumes, 128 full rows of 32,768 in 6.3 seconds.",
  ]


def buckets_table(results: Mapping[str, Any]) -> str:
  """Kills in mid-save, and the cost of saving to a bucket."""
  killed, cost = results["kills"], results["cost"]
  equal = "every start was bit-equal" if killed["all_bit_equal"] else "NOT ALL WERE EQUAL"
  return "\n".join([
    f"SIGKILL of one of two processes while a step was being saved, {killed['kills']} times: "
    f"{equal} with the step it resumed from. Saving {cost['megabytes']} MB, best of three, on a "
    f"machine with a load average of {results['load_average'][0]:.0f}:",
    "",
    "| to | training waits, s | until whole, s |",
    "|---|---|---|",
    *(
      f"| {name} | {cost[f'{key}_training_waits_s']:.2f} | {cost[f'{key}_until_whole_s']:.2f} |"
      for key, name in (("disk", "a local disk (Orbax)"), ("bucket", "moto's S3 server"))
    ),
  ])  # fmt: skip

"""Tables of what `benchmarks.data` and `benchmarks.buckets` measured."""

from collections.abc import Mapping, Sequence
from typing import Any

_MOST_EATEN = 128 * 32_768 / 6.3  # tokens per second, 7B HFT on 64 chips of v6e by plan


def preparation_table(results: Mapping[str, Any]) -> str:
  """Rows per processor second by step, what was found, and reading back."""
  made, large = results["prepare"], results["large"]
  steps = [s for s in made["processor_seconds"] if s not in ("sources", "index")]
  lines = [
    "On synthetic rows with the paper's lengths, on two cores of an AMD EPYC, two tasks at a time: "
    f"{made['rows']:,} rows ({made['text_bytes'] / 1e6:,.0f} MB of text), and {large['rows']:,} "
    f"rows ({large['text_bytes'] / 1e9:,.0f} GB, {large['source_bytes'] / 1e9:,.0f} GB "
    "compressed), which other work interrupted. Seconds are those of a processor; starting "
    "processes takes some of each step, and those that last less than a second are not listed. "
    "Both were begun before normalisation was last made faster and prompts were encoded by "
    "fastokens, the large one before signs of punctuation were told from those of formulas.",
    "",
    f"| step | {made['rows']:,} rows | {large['rows']:,} rows | rows per processor second |",
    "|---|---|---|---|",
    *(_step_row(step, made, large) for step in steps),
    "",
    _rest(made, large),
    "",
    f"The processes held at most {made['peak_bytes'] / 2**30:,.1f} and "
    f"{large['peak_bytes'] / 2**30:,.1f} GiB together, in parts of 4,096 rows. "
    + " ".join(_disk(run) for run in (made, large) if "found" in run)
    + " What was planted in them:",
    "",
    *_found([run for run in (made, large) if "found" in run]),
  ]
  return "\n".join([*lines, *_kills(results), *_feed(results)])


def _done(step: str, large: Mapping[str, Any]) -> float:
  """Rows of the large run that a step has processed."""
  done, tasks = large["tasks_done"].get(step, (0, 1))
  return large["rows"] * done / tasks


def _step_row(step: str, made: Mapping[str, Any], large: Mapping[str, Any]) -> str:
  used, rows = large["processor_seconds"].get(step, 0.0), _done(step, large)
  part = "" if rows in (0, large["rows"]) else f", {rows / large['rows']:.0%} of them"
  told = f"{used:,.0f}{part} | {rows / max(used, 0.1):,.0f}" if rows else " | "
  return f"| {step} | {made['processor_seconds'][step]:,.0f} | {told} |"


def _rest(made: Mapping[str, Any], large: Mapping[str, Any]) -> str:
  """What the large run took, or will have taken."""
  total = 0.0
  for step, used in made["processor_seconds"].items():
    rows = _done(step, large)
    taken = large["processor_seconds"].get(step, 0.0)
    rate = taken / rows if rows else used / made["rows"]
    total += rate * large["rows"]
  hours = total / 7200
  if _done("index", large) == large["rows"]:
    return f"Altogether {hours:,.1f} hours of two cores."
  return (
    f"The large run has not ended: at these rates it takes {hours:,.1f} hours of two free cores, "
    "most of it to search long responses for runs of 13 words and to encode them."
  )


def _disk(run: Mapping[str, Any]) -> str:
  return (
    f"Of the {run['rows']:,} rows, {run['work_bytes'] / 1e9:,.1f} GB lay between the steps and "
    f"{run['out_bytes'] / 1e9:,.1f} GB in shards ({run['tokens'] / 1e6:,.0f} million tokens)."
  )


def _found(runs: Sequence[Mapping[str, Any]]) -> list[str]:
  words = {"exact": "exact duplicates", "near": "near duplicates, a word changed",
           "evaluated": "questions of the evaluation, in other case, spaces and punctuation",
           "reasoning": "reasoning among the chat"}  # fmt: skip
  found = [run["found"] for run in runs]
  cells = {
    kind: [f"{of['planted'].get(kind, 0):,} | {of['recall'][kind]:.2%}" for of in found]
    for kind in words
  }
  false = ", ".join(f"{max(of['plain_removed'].values()):.2%}" for of in found)
  kept = ", ".join(f"{of['other_number_kept']:.1%}" for of in found)
  heads = [f"in {run['rows']:,} | found" for run in runs]
  return [
    f"| planted | {' | '.join(heads)} |",
    "|---|" + "---|---|" * len(runs),
    *(f"| {text} | {' | '.join(cells[kind])} |" for kind, text in words.items()),
    "",
    f"Of rows with nothing planted in them, a step removed at most {false}; of questions that "
    f"differ from another in a number alone, {kept} were kept. The classifier of chat: "
    + "; ".join(_classifier(run) for run in runs)
    + ".",
  ]


def _classifier(run: Mapping[str, Any]) -> str:
  measured = run["classifier"]
  return (
    f"precision {measured['classifier']['precision']:.3f} and recall "
    f"{measured['classifier']['recall']:.3f} on {measured['held_out']:,} held-out questions "
    f"(keyword rules {measured['keywords']['precision']:.3f} and "
    f"{measured['keywords']['recall']:.3f}), {measured['bytes'] / 1e3:,.0f} kB, "
    f"{measured['rows_per_second']:,.0f} questions a second"
  )


def _kills(results: Mapping[str, Any]) -> list[str]:
  if not (killed := results.get("same")):
    return []
  same = "the same bytes" if killed["same_bytes"] else "OTHER BYTES"
  large = results["large"]
  return [
    "",
    f"Killed {len(killed['in_steps'])} times on the way (in {', '.join(killed['in_steps'])}), the "
    f"preparation of {killed['rows']:,} rows ended with {same} in every shard. The large run was "
    f"killed {len(large['killed_in'])} times, in {', '.join(large['killed_in'])}, and continued."
    + _merged(results.get("merge"), large),
  ]


def _merged(again: Mapping[str, Any] | None, large: Mapping[str, Any]) -> str:
  if not again:
    return ""
  same = "have the same bytes" if again["same_bytes"] else "DIFFER"
  return (
    f" Merged again from its encoded rows, without a kill, its {again['shards']:,} shards {same}. "
    f"That merging, by row groups, holds {again['peak_bytes'] / 2**30:,.1f} GiB at most; the large "
    f"run's, since replaced, held the {large['peak_bytes'] / 2**30:,.1f}."
  )


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

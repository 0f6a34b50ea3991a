"""Tables of docs/comparisons.md, from the compare.json of each comparison.

    python -m benchmarks.comparison_results runs/compare_starts_0.02 runs/compare_starts_0.5 \\
        runs/compare_starts_0.98 --out docs/results/compare_starts.json

keeps several comparisons in one file, by what follows the last "_" of their folders.
"""

import argparse
import json
import pathlib
from collections.abc import Sequence
from typing import Any

from lhrm_jax.data import guessing
from lhrm_jax.objectives.mode_choice import inter_balance
from lhrm_jax.text import tags

_KINDS = [str(level) for level in range(1, len(guessing.KINDS) + 1)]


def guessing_table(results: dict[str, Any]) -> str:
  """Think rate of every kind after HGPO, and what enumeration says of the same rule."""
  accuracy = list(zip(guessing.ACCURACY[tags.THINK], guessing.ACCURACY[tags.NO_THINK], strict=True))
  head = [f"{kind}: {t:g} / {d:g}" for kind, (t, d) in zip(guessing.KINDS, accuracy, strict=True)]
  lines = [f"| G, delta | {' | '.join(head)} |", "|" + "---|" * (len(head) + 1)]
  agree = total = 0
  for name, arm in results["arms"].items():
    settings = results["settings"][name]["overrides"]
    samples, delta = settings["hgpo.samples_per_mode"], settings["hgpo.delta"]
    skip = settings["hgpo.skip_unsolved"]
    cells = []
    for level, (think, direct) in zip(_KINDS, accuracy, strict=True):
      rate = arm["by_level"][level]["think_rate"]["mean"]
      balance = inter_balance(think, direct, delta=delta, samples=samples, skip_unsolved=skip)
      same = (rate > 0.5) == (balance > 0)
      agree, total = agree + same, total + 1
      shown = f"{rate:.2f} ({balance:+.2f})"
      cells.append(shown if same else f"**{shown}**")
    label = f"{samples}, {delta:g}{', `skip_unsolved`' if skip else ''}"
    lines.append(f"| {label} | {' | '.join(cells)} |")
  seeds = [len(arm["seeds"]) for arm in results["arms"].values()]
  lines += [
    "",
    f"{min(seeds)} to {max(seeds)} seeds per row, {sum(seeds)} runs; {agree} of {total} choices "
    "are as enumerated.",
  ]
  return "\n".join(lines)


def starts_table(results: dict[str, Any]) -> str:
  """Seeds that choose thinking for kind A and the direct answer for kind E, by start and method."""
  priors = sorted(results, key=float)
  head = [f"from {float(prior):.0%}" for prior in priors]
  lines = [f"| method | {' | '.join(head)} |", "|" + "---|" * (len(head) + 1)]
  for name in results[priors[0]]["arms"]:
    cells = []
    for prior in priors:
      if name not in results[prior]["arms"]:
        cells.append("")
        continue
      by_level = results[prior]["arms"][name]["by_level"]
      hard, easy = (by_level[level]["think_rate"]["by_seed"] for level in ("1", "5"))
      right = (sum(x > 0.5 for x in hard), sum(x < 0.5 for x in easy))
      means = (sum(hard) / len(hard), sum(easy) / len(easy))
      cells.append(
        f"A {right[0]}/{len(hard)} ({means[0]:.2f}), E {right[1]}/{len(easy)} ({means[1]:.2f})"
      )
    lines.append(f"| `{name}` | {' | '.join(cells)} |")
  return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("runs", nargs="+", type=pathlib.Path, help="workdirs of comparisons")
  parser.add_argument("--out", type=pathlib.Path, required=True)
  args = parser.parse_args(argv)
  found = {
    run.name.rpartition("_")[2]: json.loads((run / "compare.json").read_text(encoding="utf-8"))
    for run in args.runs
  }
  args.out.write_text(json.dumps(found) + "\n", encoding="utf-8")


if __name__ == "__main__":
  main()

"""Table of a model on suites in the docs, from the workdirs of one or more evaluations.

    python -m benchmarks.suite_results EVALUATION ... --out docs/results/smollm2_135m/suites.json

`benchmarks.results` writes the table.
"""

import argparse
import json
import pathlib
from collections import Counter
from collections.abc import Sequence
from typing import Any

from lhrm_jax.evaluation import samples

_PASSES = {"auto": "free", "think": "thinking forced", "no_think": "thinking forbidden"}
_KEPT = ("accuracy", "mean_tokens", "think_rate", "malformed_rate", "truncated_rate", "prompts")


def record(workdir: pathlib.Path) -> dict[str, Any]:
  """Figures of each suite and pass of one finished evaluation, without paths."""
  (file,) = (workdir / "evaluation").glob("*.json")
  found = json.loads(file.read_text(encoding="utf-8"))["summary"]["suites"]
  folder = file.with_suffix("")
  suite_of = {p.prompt_id: p.suite for p in samples.read_prompts(folder)}
  seconds: Counter[tuple[str, str]] = Counter()
  for sample in samples.read_samples(folder):
    name = "auto" if sample.pass_name == "free" else sample.pass_name
    seconds[suite_of[sample.prompt_id], name] += sample.seconds
  return {
    suite: {
      name: {key: of[name][key] for key in _KEPT}
      | {"interval": of[name]["interval"]["accuracy"], "seconds": round(seconds[suite, name])}
      for name in _PASSES
    }
    for suite, of in found.items()
  }


def suites_table(results: dict[str, Any]) -> str:
  """Accuracy, tokens and seconds of each suite and pass."""
  lines = [
    "| suite | problems | pass | accuracy | 95 % | tokens per reply | cut off | seconds |",
    "|---|---|---|---|---|---|---|---|",
  ]
  for suite, of in results["suites"].items():
    for name, words in _PASSES.items():
      x = of[name]
      low, high = x["interval"]
      lines.append(
        f"| `{suite}` | {x['prompts']} | {words} | {x['accuracy']:.2f} | {low:.2f} to {high:.2f} | "
        f"{x['mean_tokens']:.0f} | {x['truncated_rate']:.0%} | {x['seconds']:,} |"
      )
  return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("evaluations", nargs="+", type=pathlib.Path, help="workdirs to read")
  parser.add_argument("--out", required=True, type=pathlib.Path, help="where the JSON goes")
  args = parser.parse_args(argv)
  found = {name: of for folder in args.evaluations for name, of in record(folder).items()}
  args.out.write_text(json.dumps({"suites": found}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
  main()

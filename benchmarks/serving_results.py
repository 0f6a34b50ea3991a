"""Tables of the server in docs/serving.md, from the file of `benchmarks.serving`.

    python -m benchmarks.serving_results --guidellm vLLM=FOLDER "experiments.serve=FOLDER" \\
        --out docs/results/serving.json

Adds the reports of a load generator, guidellm, to the file: of each server a folder with a report
for each number of clients, `CLIENTS.json`. `benchmarks.results` writes the tables.
"""

import argparse
import json
import pathlib
from collections.abc import Sequence
from typing import Any

_NAMES = {"arithmetic": "The demo (162 thousand parameters)", "office": "SmolLM2-135M-Instruct"}


def latency_table(results: dict[str, Any]) -> str:
  """Latency and accuracy by workload and by who chooses the mode."""
  lines = []
  for name, title in _NAMES.items():
    lines += [
      f"{title}:", "",
      "| workload | mode | clients | fast lane | p50 / p95 / p99, ms | first text, ms | accuracy |",
      "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for policy, found in results[name]["lanes"].items():
      mode, clients = policy.rsplit(", ", 1)
      for workload, x in found.items():
        if workload in ("all", "kv_kib"):
          continue
        ms = " / ".join(f"{value:.0f}" for value in x["ms"])
        lines.append(
          f"| {workload} | {mode} | {clients} | {x['fast_lane']:.0%} | {ms} | "
          f"{x['first_ms']:.0f} | {_share(x['accuracy'])} |"
        )
    lines.append("")
  lines += ["| | mode | clients | tokens/s | KV KiB held, mean (most): core | fast |",
            "|---|---|---|---|---|---|"]  # fmt: skip
  for name in _NAMES:
    for policy, found in results[name]["lanes"].items():
      mode, clients = policy.rsplit(", ", 1)
      kv = [f"{x['mean']:.0f} ({x['most']:.0f})" for x in found["kv_kib"].values()]
      lines.append(
        f"| {'demo' if name == 'arithmetic' else 'SmolLM2'} | {mode} | {clients} | "
        f"{found['all']['tokens_per_second']:.0f} | {' | '.join(kv)} |"
      )
  return "\n".join(lines)


def _share(value: float | None) -> str:
  return "" if value is None else f"{value:.2f}"


def precision_table(results: dict[str, Any]) -> str:
  """Speed and memory of one lane that always thinks, by precision and with a draft."""
  lines = ["| | | tokens/s, 1 client | 8 clients | KV MiB | accuracy | accepted | speed-up |",
           "|---|---|---|---|---|---|---|---|"]  # fmt: skip
  for name in _NAMES:
    for kind, x in results[name]["precision"].items():
      rates = x["tokens_per_second"]
      draft = ["", ""]
      if "speedup" in x:
        left = "" if x["on_at_the_end"] else ", switched off"
        draft = [f"{x['acceptance']:.1%}", f"{x['speedup']:.2f}{left}"]
      lines.append(
        f"| {'demo' if name == 'arithmetic' else 'SmolLM2'} | {kind} | {rates['1']:.0f} | "
        f"{rates['8']:.0f} | {x['kv_mib']:.2f} | {_share(x['accuracy'])} | {' | '.join(draft)} |"
      )
  return "\n".join(lines)


def handover_table(results: dict[str, Any]) -> str:
  """Accuracy and latency by the tokens of a thought that the fast lane gets."""
  found = results["arithmetic"]["handover"]
  lines = ["| last tokens of the thought | accuracy | p50, ms |", "|---|---|---|"]
  for tokens, x in found.items():
    name = {"0": "none: the core answers", "64": "all"}.get(tokens, tokens)
    lines.append(f"| {name} | {x['accuracy']:.3f} | {x['ms']:.0f} |")
  return "\n".join([*lines, "", f"{found['0']['requests']} prompts each, 4 clients."])


def load_table(results: dict[str, Any]) -> str:
  """Throughput and latency against vLLM, by clients, as guidellm has measured them."""
  found = results["load"]
  lines = [
    "| clients | server | tokens/s | of vLLM's | first token p50 / p95, ms | per token p50, ms |",
    "|---|---|---|---|---|---|",
  ]
  for clients, servers in found["clients"].items():
    base = servers["vLLM"]["tokens_per_second"]
    for name, x in servers.items():
      ratio = f"{x['tokens_per_second'] / base:.2f}" if name != "vLLM" else ""
      first = " / ".join(f"{value:.0f}" for value in x["first_ms"])
      lines.append(
        f"| {clients} | {name} | {x['tokens_per_second']:.0f} | {ratio} | {first} | "
        f"{x['per_token_ms']:.0f} |"
      )
  return "\n".join(lines)


def machine_line(results: dict[str, Any]) -> str:
  """What the figures were measured on."""
  m = results["arithmetic"]["machine"]
  return (
    f"{m['cores']} cores of an {m['cpu']}, shared with other work; Python {m['python']}, jax "
    f"{m['jax']}, flax {m['flax']}; float32 where nothing else is said."
  )


def of_guidellm(report: dict[str, Any]) -> dict[str, Any]:
  """What the table needs of one benchmark of a report."""
  metrics = report["benchmarks"][0]["metrics"]

  def of(name: str) -> dict[str, Any]:
    return metrics[name]["successful"]

  first = of("time_to_first_token_ms")["percentiles"]
  return {
    "tokens_per_second": round(of("output_tokens_per_second")["mean"], 1),
    "first_ms": [round(first["p50"], 1), round(first["p95"], 1)],
    "per_token_ms": round(of("inter_token_latency_ms")["percentiles"]["p50"], 1),
    "requests": report["benchmarks"][0]["metrics"]["request_totals"]["successful"],
  }


def main(argv: Sequence[str] | None = None) -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--guidellm", nargs="+", required=True, help="NAME=FOLDER, vLLM first")
  parser.add_argument("--out", type=pathlib.Path, required=True)
  args = parser.parse_args(argv)
  results = json.loads(args.out.read_text(encoding="utf-8"))
  clients: dict[str, dict[str, Any]] = {}
  for given in args.guidellm:
    name, folder = given.split("=", 1)
    for file in sorted(pathlib.Path(folder).glob("*.json"), key=lambda f: int(f.stem)):
      report = json.loads(file.read_text(encoding="utf-8"))
      clients.setdefault(file.stem, {})[name] = of_guidellm(report)
  results["load"] = {"clients": clients}
  args.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
  main()

"""Run folders made up for the tests of the report, with replies that a hostile model wrote."""

import json
import pathlib

from lhrm_jax.evaluation import samples
from lhrm_jax.evaluation.samples import PromptRecord, Sample

# None of these may run, hide, reorder or break what the page shows.
HOSTILE = (
  "</script><script>window.harmed = 1</script>",
  "<img src=x onerror='window.harmed = 2'><svg onload=window.harmed=3>",
  '"><a href="javascript:window.harmed=4" autofocus onfocus="window.harmed=5">x</a>',
  "<!--<script>--></style></textarea></title><iframe srcdoc='<script>parent.harmed=6</script>'>",
  "right \u202eto left\u202c, zero\u200bwidth, bell \x07, escape \x1b[2J, line\u2028separator",
  "lone \ud800 surrogate \udfff, nul \x00, not a character \uffff",
  "{{ 7 * 7 }} {% raw %} ${window.harmed = 7} \\u0041 ]]> &lt;b&gt; &#60;",
)
LEVELS, SUITES, SUBJECTS = 4, ("gsm8k", "math500"), ("algebra", "geometry <b>", "")


def mode(accuracy: float, tokens: float, think_rate: float, prompts: int) -> dict:
  """Results of one mode."""
  whole = {
    "accuracy": accuracy, "mean_tokens": tokens, "think_rate": think_rate, "malformed_rate": 0.01,
    "prompts": prompts,
  }  # fmt: skip
  levels = {
    str(level): {**whole, "think_rate": think_rate * level / LEVELS, "prompts": prompts // LEVELS}
    for level in range(1, LEVELS + 1)
  }
  return {**whole, "by_level": levels}


def stage_summary(prompts: int, free_tokens: float = 40.0, accuracy: float = 0.9) -> dict:
  """Summary of one stage, as an evaluation has it."""
  h = {
    "score": 0.8, "always_think": 0.4, "always_no_think": 0.6, "random": 0.5, "tie_frac": 0.3,
    "decided_score": 0.85, "invalid_frac": 0.0, "interval": [0.7, 0.87], "expected_score": 0.75,
    "ceiling": 0.95, "regret_accuracy": 0.02, "regret_tokens": 5.0,
  }  # fmt: skip
  return {
    "auto": mode(accuracy, free_tokens, 0.5, prompts),
    "think": mode(0.92, 80.0, 1.0, prompts),
    "no_think": mode(0.6, 10.0, 0.0, prompts),
    "calibration": {
      "auroc": 0.9,
      "auroc_interval": [0.8, 0.95],
      "auroc_decided": None,
      "ece": 0.1,
      "think_better": 0.5,
      "bins": [
        {
          "low": i / 4,
          "high": (i + 1) / 4,
          "prompts": 15,
          "p_think": 0.1 + i / 4,
          "think_better": i / 3,
          "interval": [i / 4, (i + 1) / 4],
          "gain": 0.1,
        }
        for i in range(4)
      ],
    },
    "first_token": {"think": 0.5, "no_think": 0.49, "neither": 0.01, "by_level": {}},
    "hacc": h,
  }


def run_summary(**stages: dict) -> dict:
  """Content of `report/summary.json`."""
  return {
    "stages": stages, "seconds": {"hgpo": 90.0, "total": 100.0}, "config": {"task": "rows"},
    "versions": {"jax": "0.10"}, "notes": ["A note on <the> task."],
  }  # fmt: skip


def write_samples(folder: pathlib.Path, prompts: int, replies: int = 1, long: str = "") -> None:
  """Writes prompts and replies in all passes; the first prompts and replies are hostile."""
  records, kept = [], []
  for i in range(prompts):
    text = HOSTILE[i] if i < len(HOSTILE) else f"What is {i} plus {i}?"
    think_better = i % 2 == 0
    records.append(
      PromptRecord(
        i, SUITES[i % 2], text, str(2 * i), 1 + i % LEVELS, SUBJECTS[i % 3], "made <up>",
        0.9 if think_better else 0.1, 0.1 if think_better else 0.9, 0.0,
      )
    )  # fmt: skip
    for name in samples.PASSES:
      for n in range(replies):
        own = name if name != "free" else ("think" if think_better else "no_think")
        right = own == "think" or not think_better
        body = HOSTILE[i] if i < len(HOSTILE) else f"reply {n} of {name} to {i}"
        if i == prompts - 1 and name == "think":
          body += long
        kept.append(
          Sample(
            i, name, n, 0, own, float(right), 80 if own == "think" else 10,
            "length" if i == 5 else "stop", i != 5, i == 6, f"<{own}>{body}</{own}>", [1, 2], 0.1,
          )
        )  # fmt: skip
  samples.write_prompts(folder, records)
  log = samples.open_log(folder, resume=False)
  log.append(kept[::-1])  # in no particular order


def excerpt() -> list[dict]:
  """The few replies that every evaluation has kept, older ones too."""
  return [
    {
      "level": 1, "prompt": text, "answer": "9", "p_think": 0.2, "p_neither": 0.001,
      "chosen": "no_think", "think": f"<think>{text}</think>9", "think_right": True,
      "no_think": "<no_think>8</no_think>", "no_think_right": False,
    }
    for text in HOSTILE
  ]  # fmt: skip


def by_prompt(prompts: int) -> dict:
  """What an evaluation keeps prompt by prompt: thinking is better on every second one."""
  odd = [i % 2 for i in range(prompts)]
  return {
    "level": [1 + i % LEVELS for i in range(prompts)], "score": [1.0] * prompts,
    "tokens": [80 - 70 * o for o in odd], "mode": odd, "better": odd,
  }  # fmt: skip


def routing() -> dict:
  """Content of `routing.json`."""

  def at(rate: float, accuracy: float, tokens: float) -> dict:
    return {
      "think_rate": rate, "accuracy": accuracy, "tokens": tokens, "hacc": 0.7,
      "accuracy_interval": [accuracy - 0.05, accuracy + 0.05], "hacc_interval": [0.6, 0.8],
      "tokens_interval": [tokens - 1, tokens + 1],
    }  # fmt: skip

  curve = [at(r / 4, 0.6 + 0.08 * r, 10 + 17 * r) for r in range(5)]
  less = {"minus_policy": {"hacc": [-0.1, -0.2, 0.01], "accuracy": [0.0, -0.1, 0.1]}}
  return {
    "think_rate": 0.5,
    "prompts": 100,
    "routers": {
      "policy": {"point": at(0.5, 0.9, 40)},
      "length": {"point": at(0.5, 0.8, 42), "curve": curve, **less},
      "always": {"point": at(1.0, 0.92, 80), **less},
      "never": {"point": at(0.0, 0.6, 10), **less},
    },
    "remarks": ["length matches the policy's choice in <accuracy>."],
  }


def dials() -> dict:
  """Content of `dials.json`."""
  return {
    "tag_bias": [{"tag_bias": b, "tokens": 30 + 5 * b, "accuracy": 0.8 + b / 50} for b in range(4)]
  }


def write_run(workdir: pathlib.Path, prompts: int = 60, replies: int = 2, long: str = "") -> dict:
  """Writes an evaluated run with all files; returns the arguments of `write_report`."""
  write_samples(workdir / "evaluation" / "hgpo", prompts, replies, long)
  for name, content in (("routing", routing()), ("dials", dials())):
    (workdir / "evaluation" / "hgpo" / f"{name}.json").write_text(json.dumps(content))
  rows = [
    {"stage": "hgpo", "step": s, "reward": 0.5, "mode/think_rate/level_1": s / 10,
     "rollout/tokens_total": 1e6 * s, "perf/flops_total": 1e15 * s}
    for s in range(1, 4)
  ]  # fmt: skip
  return {
    "folder": workdir / "report",
    "summary": run_summary(hft=stage_summary(prompts, 80.0), hgpo=stage_summary(prompts)),
    "metrics": {"hgpo": rows},
    "kept": {
      "hft": {"samples": excerpt(), "by_prompt": by_prompt(prompts)},
      "hgpo": {"samples": excerpt(), "by_prompt": by_prompt(prompts)},
    },
  }

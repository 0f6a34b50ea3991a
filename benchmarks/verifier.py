"""Measures the mathematics verifier: accuracy on labelled cases, and speed.

    python -m benchmarks.verifier --cases CASES.jsonl MORE.jsonl --out verifier.json

Each line of CASES is a JSON object with `gold`, `prediction` or `response`, `expected` (1 or 0)
and, optionally, `kind` or `group` and `flags` (a list: conventions the label depends on). An
undecided verdict counts as 0.
Where `math-verify` is installed, it judges the same rows, in a process that is killed if it hangs.
"""

import argparse
import collections
import importlib.metadata
import json
import multiprocessing
import pathlib
import platform
import statistics
import time

from lhrm_jax.rewards.math import verdicts
from lhrm_jax.rewards.pool import VerifierPool


def _speed_rows() -> dict[str, list[tuple[str, str]]]:
  """Golds and responses of the two usual kinds."""
  integers = [
    (str(n), f"So she pays ${n} in all.\n\\boxed{{{n + n % 3}}}") for n in range(7, 7000, 7)
  ]
  values = []
  for n in range(1, 350):
    fraction = rf"\dfrac{{{2 * n}}}{{{2 * n + 6}}}"
    values.append((rf"\frac{{{n}}}{{{n + 3}}}", rf"Hence the answer is $\boxed{{{fraction}}}$."))
    values.append((rf"{n}\sqrt{{{n + 1}}}", rf"so $x = \boxed{{\sqrt{{{n * n * (n + 1)}}}}}$."))
    point = rf"\left({n}, \frac{{\pi}}{{{n + 1}}}\right)"
    values.append((point, rf"$\boxed{{({n}, \pi/{n + 1})}}$"))
  return {"integers (GSM8K)": integers, "expressions (MATH)": values}


def ours(gold: str, prediction: str) -> bool | None:
  return verdicts.verify(gold, prediction).correct


def math_verify_worker(jobs, results) -> None:
  """Judges rows with Math-Verify until the queue is closed."""
  import logging

  import math_verify

  logging.disable(logging.CRITICAL)
  while True:
    gold, prediction = jobs.get()
    start = time.perf_counter()
    try:
      # Bare LaTeX is read only inside delimiters, which many golds come without.
      bare = "\\" in gold and "$" not in gold and "boxed" not in gold
      parsed = math_verify.parse(f"${gold}$" if bare else gold), math_verify.parse(prediction)
      verdict = bool(math_verify.verify(*parsed))
    except Exception:
      verdict = None
    results.put((verdict, time.perf_counter() - start))


class MathVerify:
  """Math-Verify in a process that is replaced when a row takes longer than `limit_s`."""

  def __init__(self, limit_s: float = 20.0):
    self.limit_s = limit_s
    self.hangs = 0
    self.context = multiprocessing.get_context("spawn")
    self._start()

  def _start(self) -> None:
    self.jobs, self.results = self.context.Queue(), self.context.Queue()
    self.process = self.context.Process(
      target=math_verify_worker, args=(self.jobs, self.results), daemon=True
    )
    self.process.start()
    self("1", "1")

  def __call__(self, gold: str, prediction: str) -> tuple[bool | None, float]:
    self.jobs.put((gold, prediction))
    try:
      return self.results.get(timeout=self.limit_s)
    except Exception:
      self.hangs += 1
      self.process.kill()
      self._start()
      return None, self.limit_s

  def close(self) -> None:
    self.process.kill()


def accuracy(rows: list[dict], verdicts_: list[bool | None]) -> dict[str, dict[str, int]]:
  """Counts by kind, and by kind without the flagged rows."""
  table: dict[str, dict[str, int]] = collections.defaultdict(collections.Counter)
  for row, verdict in zip(rows, verdicts_, strict=True):
    kinds = ["all", row.get("kind", "all rows")]
    if not row.get("flags"):
      kinds.append(f"{kinds[1]}, unflagged")
    for kind in dict.fromkeys(kinds):
      count = table[kind]
      count["rows"] += 1
      count["right"] += bool(verdict) == bool(row["expected"])
      count["false_positives"] += bool(verdict) and not row["expected"]
      count["false_negatives"] += not verdict and bool(row["expected"])
      count["undecided"] += verdict is None
  return {kind: dict(table[kind]) for kind in sorted(table)}


def speed(judge, rows: list[tuple[str, str]]) -> dict[str, float]:
  """Latency in microseconds and verdicts a second of one process."""
  times = []
  for gold, prediction in rows:
    start = time.perf_counter()
    judge(gold, prediction)
    times.append(time.perf_counter() - start)
  times.sort()
  return {
    "median_us": 1e6 * statistics.median(times),
    "p99_us": 1e6 * times[int(0.99 * (len(times) - 1))],
    "max_us": 1e6 * times[-1],
    "per_second": len(times) / sum(times),
  }


def pool_speed(rows: list[tuple[str, str]], workers: int) -> dict[str, float]:
  start = time.perf_counter()
  with VerifierPool(workers) as pool:
    ready = time.perf_counter()
    pool.score(*zip(*(rows * 5), strict=True))
    done = time.perf_counter()
  return {"start_s": ready - start, "per_second": 5 * len(rows) / (done - ready)}


def _rows(path: pathlib.Path) -> list[dict]:
  rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
  for row in rows:
    row.setdefault("prediction", row.get("response"))
    row.setdefault("kind", row.get("group", "all rows"))
  return rows


def _judged(judge, rows: list[dict]) -> tuple[list[bool | None], dict[str, float]]:
  """Verdicts on `rows`, and the seconds they took: in all and at most."""
  found, times = [], []
  for row in rows:
    start = time.perf_counter()
    found.append(judge(row["gold"], row["prediction"]))
    times.append(time.perf_counter() - start)
  return found, {"total": sum(times), "max": max(times)}


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument(
    "--cases", type=pathlib.Path, nargs="*", default=[], help="labelled cases, JSON lines"
  )
  parser.add_argument("--out", type=pathlib.Path, help="where the figures go, as JSON")
  parser.add_argument("--workers", type=int, default=2, help="processes of the pool")
  parser.add_argument("--errors", action="store_true", help="print the rows judged otherwise")
  args = parser.parse_args()
  report: dict = {"python": platform.python_version(), "machine": platform.machine()}
  ours("x > 1", r"\boxed{x > 2}")  # so that no verdict's time includes importing SymPy
  try:
    report["math_verify"] = importlib.metadata.version("math-verify")
    other = MathVerify()
  except importlib.metadata.PackageNotFoundError:
    other = None

  report["files"] = {}
  for path in args.cases:
    rows = _rows(path)
    mine, times = _judged(ours, rows)
    tables = {"lhrm_jax": accuracy(rows, mine)}
    seconds = {"lhrm_jax": times}
    if other:
      theirs, seconds["math_verify"] = _judged(lambda *row: other(*row)[0], rows)
      tables["math_verify"] = accuracy(rows, theirs)
      report["math_verify_hangs"] = other.hangs
    report["files"][path.name] = {"accuracy": tables, "seconds": seconds}
    for name, table in tables.items():
      spent = f"{seconds[name]['total']:.2f} s in all, at most {seconds[name]['max']:.2f} s"
      print(f"\n{path.name}: {name}, {spent}")
      print(f"{'kind':34} rows  right     %   FP   FN  undecided")
      for kind, count in table.items():
        share = 100 * count["right"] / count["rows"]
        print(
          f"{kind:34} {count['rows']:4} {count['right']:6} {share:5.1f}"
          f" {count['false_positives']:4} {count['false_negatives']:4} {count['undecided']:10}"
        )
    if args.errors:
      for row, verdict in zip(rows, mine, strict=True):
        if bool(verdict) != bool(row["expected"]):
          reason = verdicts.verify(row["gold"], row["prediction"])
          print(row.get("id"), row["kind"], row.get("flags"), row["expected"], reason)

  print(f"\n{'speed, one process':42} {'median us':>10} {'p99 us':>10} {'per second':>11}")
  report["speed"] = {}
  for name, rows in _speed_rows().items():
    figures = {"lhrm_jax": speed(ours, rows)}
    if other:
      import math_verify

      sample = rows[:: max(1, len(rows) // 150)]
      figures["math_verify"] = speed(
        lambda g, p: math_verify.verify(math_verify.parse(g), math_verify.parse(p)), sample
      )
    figures["pool"] = pool_speed(rows, args.workers)
    report["speed"][name] = figures
    for who, f in figures.items():
      if who == "pool":
        note = f"pool of {args.workers}: {f['per_second']:.0f}/s, started in {f['start_s']:.2f} s"
        print(f"  {name:26} {note}")
      else:
        numbers = f"{f['median_us']:10.1f} {f['p99_us']:10.1f} {f['per_second']:11.0f}"
        print(f"  {name:26} {who:13} {numbers}")
  if other:
    other.close()
  if args.out:
    args.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(f"\nwritten to {args.out}")


if __name__ == "__main__":
  main()

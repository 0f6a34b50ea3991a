"""Latency, accuracy and memory of `experiments.serve`, by workload and lane.

    python -m benchmarks.serving --init_from RUN --workloads arithmetic \\
        --out docs/results/serving.json

Each server is a process of its own; its clients are asked over HTTP, one at a time and several at
once. `benchmarks.results` writes the tables.
"""

import argparse
import asyncio
import contextlib
import dataclasses
import json
import pathlib
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import httpx2
import numpy as np

from benchmarks import measuring
from benchmarks.serving_workloads import WORKLOADS, Ask

_ROOT = pathlib.Path(__file__).parents[1]
_MODELS = {"free choice": "", "always think": ":think", "always fast": ":no_think"}
_SAMPLE_S = 0.2


@dataclasses.dataclass(frozen=True)
class Reply:
  """What a request got.

  Attributes:
    workload: see `Ask`.
    first_s: seconds to the first token that has text.
    total_s: seconds to its end.
    tokens: of the reply.
    right: whether its answer was, where it is judged.
    routing: see docs/serving.md.
  """

  workload: str
  first_s: float
  total_s: float
  tokens: int
  right: bool | None
  routing: dict[str, Any]


@contextlib.contextmanager
def server(init_from: str, *flags: str) -> Iterator[str]:
  """A server of a policy; yields its address."""
  command = [
    sys.executable, "-m", "experiments.serve", f"--config.init_from={init_from}", "--port=0",
    "--config.name=m", *flags,
  ]  # fmt: skip
  process = subprocess.Popen(command, cwd=_ROOT, stdout=subprocess.PIPE, text=True)
  try:
    line = process.stdout.readline()
    if not (found := re.search(r"http://\S+", line)):
      raise RuntimeError(f"the server did not start: {line!r}")
    yield found[0]
  finally:
    process.terminate()
    process.wait()


async def ask(client: httpx2.AsyncClient, model: str, asked: Ask, seed: int = 0) -> Reply:
  """Streams one request."""
  body = {
    "model": model, "messages": [{"role": "user", "content": asked.prompt}], "seed": seed,
    "max_tokens": asked.max_tokens, "temperature": 0.0, "stream": True,
    "stream_options": {"include_usage": True}, "ignore_eos": not asked.right,
  }  # fmt: skip
  began, first, text, routing, usage = time.perf_counter(), 0.0, "", {}, {}
  async with client.stream("POST", "/v1/chat/completions", json=body) as answer:
    async for line in answer.aiter_lines():
      if not line.startswith("data: {"):
        continue
      chunk = json.loads(line[6:])
      routing, usage = chunk.get("routing", routing), chunk.get("usage") or usage
      for choice in chunk["choices"]:
        delta = choice["delta"]
        if not first and (delta.get("reasoning") or delta.get("content")):
          first = time.perf_counter() - began
        text += delta.get("content") or ""
  total = time.perf_counter() - began
  return Reply(
    asked.workload,
    first or total,
    total,
    usage["completion_tokens"],
    asked.right(text) if asked.right else None,
    routing,
  )


async def load(
  address: str, model: str, asks: Sequence[Ask], at_once: int
) -> tuple[list[Reply], float, dict[str, list[float]]]:
  """Asks all, so many at a time.

  Returns:
    The replies, the seconds of the whole, and the KV memory held by each lane in KiB, over time.
  """
  waiting, replies, held = list(enumerate(asks))[::-1], [], {}

  async def client_of_a_place(client: httpx2.AsyncClient) -> None:
    while waiting:
      seed, asked = waiting.pop()
      replies.append(await ask(client, model, asked, seed))

  async def watch(client: httpx2.AsyncClient) -> None:
    while True:
      for lane, kib in (await kv_held(client)).items():
        held.setdefault(lane, []).append(kib)
      await asyncio.sleep(_SAMPLE_S)

  async with httpx2.AsyncClient(base_url=address, timeout=600) as client:
    watching, began = asyncio.create_task(watch(client)), time.perf_counter()
    await asyncio.gather(*(client_of_a_place(client) for _ in range(at_once)))
    seconds = time.perf_counter() - began
    watching.cancel()
  return replies, seconds, held


async def kv_held(client: httpx2.AsyncClient) -> dict[str, float]:
  """KV memory that replies hold, in KiB, by lane."""
  return {
    lane: bytes_ / 1024
    for name, lane, bytes_ in figures((await client.get("/metrics")).text)
    if name == "lhrm_kv_bytes_held"
  }


def figures(exposition: str) -> list[tuple[str, str, float]]:
  """Name, lane and value of the server's gauges and counters that have a lane alone."""
  found = re.findall(r'^(lhrm_\w+)\{lane="(\w+)"\} (\S+)$', exposition, re.MULTILINE)
  return [(name, lane, float(value)) for name, lane, value in found]


def of_workloads(replies: Sequence[Reply], seconds: float) -> dict[str, Any]:
  """Figures by workload, and of all together."""
  found = {}
  for name in dict.fromkeys(reply.workload for reply in replies):
    these = [reply for reply in replies if reply.workload == name]
    lanes = [reply.routing.get("lane") for reply in these]
    found[name] = {
      "requests": len(these),
      "ms": [round(x, 1) for x in np.percentile([1e3 * r.total_s for r in these], (50, 95, 99))],
      "first_ms": round(float(np.median([1e3 * r.first_s for r in these])), 1),
      "tokens": round(float(np.mean([r.tokens for r in these])), 1),
      "accuracy": _accuracy(these),
      "fast_lane": round(lanes.count("fast") / len(lanes), 3),
      "think_rate": round(
        float(np.mean([r.routing.get("mode") == "think" for r in these])), 3
      ),
    }  # fmt: skip
  found["all"] = {"tokens_per_second": round(sum(r.tokens for r in replies) / seconds, 1)}
  return found


def _accuracy(replies: Sequence[Reply]) -> float | None:
  judged = [reply.right for reply in replies if reply.right is not None]
  return round(float(np.mean(judged)), 4) if judged else None


def lanes(init_from: str, asks: Sequence[Ask], flags: Sequence[str], at_once: int) -> dict:
  """Free choice over two lanes, against thinking always and never, alone and under load."""
  two = [f"--config.fast.init_from={init_from}", "--config.fast.weights=int8",
         "--config.fast.kv=int8"]  # fmt: skip
  found: dict[str, Any] = {}
  with server(init_from, *flags, *two) as address:
    asyncio.run(load(address, "m", asks[:4], 2))  # the first requests warm what is not compiled
    for policy, suffix in _MODELS.items():
      for clients in (1, at_once):
        replies, seconds, held = asyncio.run(load(address, f"m{suffix}", asks, clients))
        found[f"{policy}, {clients}"] = of_workloads(replies, seconds) | {
          "kv_kib": {lane: _over_time(values) for lane, values in held.items()}
        }
  return found


def _over_time(values: Sequence[float]) -> dict[str, float]:
  return {"mean": round(float(np.mean(values)), 1), "most": round(max(values), 1)}


def handover(init_from: str, asks: Sequence[Ask], flags: Sequence[str]) -> dict[str, Any]:
  """Accuracy of thinking where the fast lane answers from the last tokens of the thought."""
  found = {}
  for tokens in (0, 1, 2, 4, 64):
    two = [f"--config.fast.init_from={init_from}", "--config.fast.weights=int8",
           f"--config.fast.handover={tokens}"]  # fmt: skip
    with server(init_from, *flags, *two) as address:
      replies, *_ = asyncio.run(load(address, "m:think", asks, 4))
    found[str(tokens)] = {
      "accuracy": _accuracy(replies),
      "requests": len(replies), "ms": round(1e3 * np.median([r.total_s for r in replies]), 1),
    }  # fmt: skip
  return found


def precision(init_from: str, asks: Sequence[Ask], flags: Sequence[str]) -> dict[str, Any]:
  """Speed, memory and accuracy of one lane by precision, and with a draft."""
  kinds = {
    "float": [], "int8 weights": ["--config.weights=int8"], "int8 KV": ["--config.kv=int8"],
    "float, int8 draft": ["--config.draft=int8"],
  }  # fmt: skip
  found = {}
  for kind, more in kinds.items():
    with server(init_from, *flags, *more) as address:
      asyncio.run(load(address, "m:think", asks[:4], 2))
      both = {at: asyncio.run(load(address, "m:think", asks, at)) for at in (1, 8)}
      exposition = httpx2.get(f"{address}/metrics").text
    gauges = {name: value for name, lane, value in figures(exposition)}
    found[kind] = {
      "tokens_per_second": {
        str(at): round(sum(r.tokens for r in replies) / seconds, 1)
        for at, (replies, seconds, _) in both.items()
      },
      "accuracy": _accuracy(both[8][0]),
      "kv_mib": round(gauges["lhrm_kv_bytes_total"] / 2**20, 2),
    }
    if "lhrm_speculation_proposed_tokens_total" in gauges:
      proposed = gauges["lhrm_speculation_proposed_tokens_total"]
      found[kind] |= {
        "acceptance": round(gauges["lhrm_speculation_accepted_tokens_total"] / proposed, 3),
        "speedup": round(gauges["lhrm_speculation_speedup"], 3),
        "on_at_the_end": bool(gauges["lhrm_speculation_on"]),
      }
  return found


def main(argv: Sequence[str] | None = None) -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--init_from", required=True, help="run or model to serve")
  parser.add_argument("--workloads", choices=WORKLOADS, required=True)
  parser.add_argument("--count", type=int, default=50, help="requests per workload")
  parser.add_argument("--at_once", type=int, default=8, help="clients under load")
  parser.add_argument("--parts", nargs="+", default=["lanes", "precision", "handover"])
  parser.add_argument("--out", type=pathlib.Path, required=True, help="JSON; parts are added")
  args, flags = parser.parse_known_args(argv)
  asks = WORKLOADS[args.workloads](args.count)
  results = json.loads(args.out.read_text()) if args.out.exists() else {}
  found = results.setdefault(args.workloads, {"machine": measuring.machine(), "flags": flags})
  for part in args.parts:
    print(f"measuring {part}", flush=True)
    if part == "lanes":
      found[part] = lanes(args.init_from, asks, flags, args.at_once)
    elif part == "precision":
      found[part] = precision(args.init_from, asks, flags)
    else:
      found[part] = handover(args.init_from, asks, flags)
    args.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
  main()

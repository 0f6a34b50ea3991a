"""A server under many clients that come and go, under any request of its schema, and for long."""

import asyncio
import json
import os
import pathlib
import random
import subprocess
import sys
import time

import httpx2 as httpx
import pytest

from tests.serving.small_server import BEARER, KEY, QUESTION, start, stop

pytestmark = pytest.mark.slow

CONNECTIONS = 32
FLAGS = [
  "--config.context=256", "--config.slots=4", "--config.waiting=64", "--config.page_tokens=16",
  "--config.quantum=16", "--config.kv_mib=0.08",
]  # fmt: skip
# Seconds of the soak; an hour unless a shorter one is asked for.
SOAK_S = float(os.environ.get("LHRM_SOAK_SECONDS", "3600"))


@pytest.fixture
def served(tmp_path):
  process, address = start(tmp_path, *FLAGS, key=KEY)
  yield process, address
  stop(process)
  said = (tmp_path / "log").read_text().splitlines()
  assert not [line for line in said if "Invalid HTTP request" not in line]


def body(kind: int) -> dict:
  """One of 40 requests with a reply of its own, of both kinds of length."""
  return {
    "model": ("tiny", "tiny:think")[kind % 2], "messages": QUESTION, "seed": kind,
    "max_tokens": (10, 30, 230)[kind % 3], "temperature": 1.3, "stream": kind % 4 < 2,
  }  # fmt: skip


async def reply_to(client, kind: int) -> str:
  """What is said to a request, thought and answer in one, whole or streamed."""
  if not body(kind)["stream"]:
    answer = await client.post("/v1/chat/completions", json=body(kind))
    assert answer.status_code == 200, answer.text
    message = answer.json()["choices"][0]["message"]
    return (message["reasoning"] or "") + "|" + message["content"]
  parts = {"reasoning": "", "content": ""}
  async with client.stream("POST", "/v1/chat/completions", json=body(kind)) as answer:
    assert answer.status_code == 200
    lines = [line async for line in answer.aiter_lines() if line.startswith("data: {")]
  assert len(lines) > 1
  for line in lines:
    for choice in json.loads(line[6:])["choices"]:
      for part in parts:
        parts[part] += choice["delta"].get(part) or ""
  return parts["reasoning"] + "|" + parts["content"]


async def hammer(address, seed: int, *, requests: int = 0, seconds: float = 0.0) -> dict[str, int]:
  """Sends requests over many connections, of which a third are left before their end.

  Returns:
    Numbers of requests that were finished and left.
  """
  counts, rng = {"finished": 0, "left": 0}, random.Random(seed)
  limits = httpx.Limits(max_connections=CONNECTIONS)
  async with httpx.AsyncClient(
    base_url=address, headers=BEARER, timeout=120, limits=limits
  ) as client:
    expected = [await reply_to(client, kind) for kind in range(40)]
    assert len(set(expected)) > 30
    until = time.monotonic() + seconds

    async def one_connection(kinds: list[int]) -> None:
      while kinds or time.monotonic() < until:
        kind = kinds.pop() if kinds else rng.randrange(40)
        asked = asyncio.ensure_future(reply_to(client, kind))
        patience = rng.random() * 0.3 if rng.random() < 1 / 3 else None
        done, _ = await asyncio.wait({asked}, timeout=patience)
        if done:
          assert asked.result() == expected[kind], f"request {kind} got another's reply"
          counts["finished"] += 1
        else:
          asked.cancel()
          await asyncio.wait({asked})
          counts["left"] += 1

    kinds = [rng.randrange(40) for _ in range(requests)]
    await asyncio.gather(*(one_connection(kinds) for _ in range(CONNECTIONS)))
  return counts


def rss_mib(process) -> float:
  pages = pathlib.Path(f"/proc/{process.pid}/statm").read_text().split()[1]
  return int(pages) * os.sysconf("SC_PAGE_SIZE") / 2**20


def assert_idle(address) -> None:
  """Nothing is held for anybody."""
  for _ in range(200):
    text = httpx.get(f"{address}/metrics", headers=BEARER).text
    if all(f"\n{line}\n" in text for line in (
      'lhrm_slots_active{lane="core"} 0.0', 'lhrm_queue{lane="core"} 0.0',
      'lhrm_kv_bytes_held{lane="core"} 0.0',
    )):  # fmt: skip
      return
    time.sleep(0.1)
  raise AssertionError(text)


def test_of_a_thousand_requests_none_is_lost_or_mixed_up(served):
  process, address = served
  asyncio.run(hammer(address, 0, requests=300))
  before = rss_mib(process)
  counts = asyncio.run(hammer(address, 1, requests=1000))
  assert sum(counts.values()) == 1000 and counts["left"] > 30
  assert_idle(address)
  assert rss_mib(process) - before < 30


def test_an_hour_under_load_leaves_memory_flat(served):
  process, address = served
  asyncio.run(hammer(address, 0, seconds=SOAK_S / 10))
  before = rss_mib(process)
  counts = asyncio.run(hammer(address, 2, seconds=SOAK_S * 0.9))
  assert counts["finished"] > SOAK_S
  assert_idle(address)
  assert rss_mib(process) - before < 30


def test_whatever_the_schema_allows_is_answered_in_form(served, tmp_path):
  """By schemathesis; that fields may contradict each other is nothing that a schema can tell."""
  _, address = served
  done = subprocess.run(
    [
      sys.executable, "-m", "schemathesis.cli", "run", f"{address}/openapi.json",
      "--max-examples=40", "--exclude-checks=positive_data_acceptance",
      "-H", f"Authorization: Bearer {KEY}", "--request-timeout=60",
    ],
    cwd=tmp_path, capture_output=True, text=True, check=False,
  )  # fmt: skip
  assert done.returncode == 0, done.stdout[-5000:]

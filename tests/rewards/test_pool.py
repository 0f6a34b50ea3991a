"""The pool: order, limits, replacement, and every place it may be called from."""

import asyncio
import os
import pathlib
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from lhrm_jax.rewards.pool import VerifierPool
from lhrm_jax.rewards.worker import LOADING
from lhrm_jax.worker_process import WorkerProcess

# A stand-in for the worker that misbehaves on request.
STUB = textwrap.dedent("""
  import json, os, sys, time
  print(json.dumps({"ready": os.getpid()}), flush=True)
  for line in sys.stdin:
    job = json.loads(line)
    what = job["response"]
    if what == "hang":
      time.sleep(60)
    if what == "die":
      os._exit(3)
    if what == "garbage":
      os.write(1, b"\\xff" * 64)
    if what == "load":
      print(json.dumps({"loading": "sympy"}), flush=True)
      time.sleep(1.0)
    reply = {"correct": what == job["gold"], "extracted": what, "reason": str(os.getpid())}
    print(json.dumps(reply), flush=True)
""")


@pytest.fixture(scope="module")
def pool():
  with VerifierPool(2) as pool:
    yield pool


@pytest.fixture
def stub(tmp_path):
  path = tmp_path / "stub.py"
  path.write_text(STUB)

  def make(workers=1, limit_s=0.4):
    return VerifierPool(workers, limit_s=limit_s, command=[sys.executable, str(path)])

  return make


def alive(pid: int) -> bool:
  """Whether a process runs; one that only waits to be collected does not."""
  try:
    return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
  except OSError:
    return False


def gone(pids, within_s=5.0) -> bool:
  deadline = time.monotonic() + within_s
  while any(map(alive, pids)) and time.monotonic() < deadline:
    time.sleep(0.02)
  return not any(map(alive, pids))


def test_a_worker_imports_sympy_at_its_first_use_alone():
  job = {"rule": "math", "gold": "1/2", "response": r"\boxed{\frac{2}{4}}"}
  algebra = {"rule": "math", "gold": "x > 1/2", "response": r"\boxed{2x > 1}"}
  worker = WorkerProcess([sys.executable, "-m", "lhrm_jax.rewards.worker"])
  try:
    worker.receive(30.0)
    assert worker.ask(job, 5.0)["correct"] is True
    assert worker.ask(algebra, 5.0) == {LOADING: "sympy"}
    assert worker.receive(30.0)["correct"] is True
    assert worker.ask(algebra, 5.0)["correct"] is True
  finally:
    worker.kill()


def test_the_import_of_sympy_does_not_count_as_the_verdicts_time(stub):
  with stub(limit_s=0.4) as pool:
    assert pool.score(["load"], ["load"])[0].correct is True  # took a second
    assert pool.replaced == 0


def test_verdicts_keep_the_order_of_the_batch(pool):
  golds = [str(n) for n in range(200)]
  verdicts = pool.score(golds, [rf"\boxed{{{n + n % 2}}}" for n in range(200)])
  assert [v.correct for v in verdicts] == [n % 2 == 0 for n in range(200)]


def test_a_gold_may_be_a_list_and_a_response_any_text(pool):
  verdicts = pool.score([["1", "2"], "1", "1"], [r"\boxed{2}", "\ud800 \x00", ""])
  assert [v.correct for v in verdicts] == [True, None, None]


def test_a_long_response_fits_through_the_pipe(pool):
  assert pool.score(["7"], ["word " * 400_000 + r"\boxed{7}"])[0].correct is True


def test_an_empty_batch_is_done_at_once(pool):
  assert pool.score([], []) == []


def test_lengths_must_agree(pool):
  with pytest.raises(ValueError, match="2 golds for 1 responses"):
    pool.score(["1", "2"], ["1"])


def test_works_from_threads_and_asyncio(pool):
  results = {}

  def call(n):
    results[n] = pool.score([str(n)], [rf"\boxed{{{n}}}"])[0].correct

  threads = [threading.Thread(target=call, args=(n,)) for n in range(8)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join(20)
  assert results == {n: True for n in range(8)}

  async def main():
    return await asyncio.wrap_future(pool.score_async(["1/2"], [r"\boxed{0.5}"]))

  assert asyncio.run(main())[0].correct is True


def test_a_hanging_verdict_is_undecided_and_affects_no_other(stub):
  with stub() as pool:
    start = time.perf_counter()
    verdicts = pool.score(["a", "x", "b"], ["a", "hang", "b"])
    assert [v.correct for v in verdicts] == [True, None, True]
    assert "longer than 0.4 s" in verdicts[1].reason
    assert verdicts[0].reason != verdicts[2].reason  # another process took over
    assert pool.replaced == 1
    assert time.perf_counter() - start < 5.0


@pytest.mark.parametrize("poison", ["die", "garbage"])
def test_a_worker_that_dies_or_babbles_is_replaced(stub, poison):
  with stub() as pool:
    verdicts = pool.score(["a", "x", "b"], ["a", poison, "b"])
    assert [v.correct for v in verdicts] == [True, None, True]


def test_closing_ends_the_workers_and_the_waiting(stub):
  pool = stub(limit_s=1.0)
  pids = [int(v.reason) for v in pool.score(["a"], ["a"])]
  futures = pool.score_async(["x"] * 20, ["hang"] * 20)
  pool.close()
  assert all(v.correct is None for v in futures.result(timeout=5))
  assert gone(pids)
  with pytest.raises(RuntimeError, match="closed"):
    pool.score_async(["a"], ["a"])


def test_a_worker_that_cannot_start_says_how_to_find_out():
  with pytest.raises(RuntimeError, match="run it by hand"):
    VerifierPool(1, command=[sys.executable, "-c", "raise SystemExit(4)"])


@pytest.mark.parametrize("how", ["os._exit(1)", "os.kill(os.getpid(), 9)"])
def test_workers_do_not_outlive_their_parent(how):
  code = f"""
import os
from lhrm_jax.rewards.pool import VerifierPool
pool = VerifierPool(2)
print(*[w.process.pid for w in pool.workers], flush=True)
{how}
"""
  out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
  pids = [int(pid) for pid in out.stdout.split()]
  assert len(pids) == 2
  assert gone(pids)


def test_the_users_main_is_not_imported_again_and_workers_stay_light(tmp_path):
  script = tmp_path / "train.py"
  script.write_text(
    "import pathlib, sys\n"
    "open('ran', 'a').write('x')\n"  # no `if __name__` guard, as in many a script
    "from lhrm_jax.rewards.pool import VerifierPool\n"
    "pool = VerifierPool(1)\n"
    "maps = pathlib.Path(f'/proc/{pool.workers[0].process.pid}/maps').read_text()\n"
    "assert 'jaxlib' not in maps and 'numpy' not in maps, maps\n"
    "pool.close()\n"
  )
  root = str(pathlib.Path(__file__).parents[2])
  env = {**os.environ, "PYTHONPATH": root}
  subprocess.run([sys.executable, str(script)], cwd=tmp_path, env=env, check=True)
  assert (tmp_path / "ran").read_text() == "x"


def test_starts_after_jax_has_started_its_threads():
  jax = pytest.importorskip("jax")
  jax.jit(lambda x: x + 1)(1.0).block_until_ready()
  with VerifierPool(1) as pool:
    assert pool.score(["2"], [r"\boxed{2}"])[0].correct is True

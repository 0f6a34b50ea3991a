"""A worker process of `pool.VerifierPool`: reads golds and responses, replies with verdicts.

Started as `python -m lhrm_jax.rewards.worker MEMORY_MIB`. It imports the verifier only, neither JAX
nor the user's program, and ends when its standard input closes, which happens however its parent
ends.
"""

import contextlib
import json
import os
import signal
import sys
import threading
import time

RAISED = "the rule raised"  # starts the reason of a verdict that a worker failed to reach
# The one key of a message sent before SymPy is imported: the verdict itself then has the time limit
# of a start, since the import takes seconds on a busy machine.
LOADING = "loading"


def main() -> None:
  memory_mib = int(sys.argv[1]) if len(sys.argv) > 1 else 0
  _limit(memory_mib)
  _end_with_parent()
  # The pipe to the parent is the only output: a stray print must not corrupt it.
  out = os.fdopen(os.dup(1), "w", encoding="ascii")
  os.dup2(2, 1)

  from lhrm_jax.rewards import rules
  from lhrm_jax.rewards.math import algebra, verify

  def send(message: dict) -> None:
    with contextlib.suppress(BrokenPipeError):
      # JSON escapes what is not ASCII, so lone surrogates, which model text may hold, pass.
      out.write(json.dumps(message) + "\n")
      out.flush()

  algebra.before_import = lambda: send({LOADING: "sympy"})
  verify(r"\sqrt{8}", r"\boxed{2\sqrt{2}}")  # imports mpmath before the first time limit
  send({"ready": os.getpid()})
  for line in sys.stdin.buffer:
    job = json.loads(line)
    try:
      if job["rule"] == "math":
        verdict = verify(job["gold"], job["response"])
        found = (verdict.correct, verdict.extracted, verdict.reason)
      else:
        found = (getattr(rules, job["rule"])("", job["response"], job["gold"]) == 1.0, None, "")
    except Exception as error:
      found = (None, None, f"{RAISED} {type(error).__name__}: {error}")
    send(dict(zip(("correct", "extracted", "reason"), found, strict=True)))


def _limit(memory_mib: int) -> None:
  signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
  with contextlib.suppress(ImportError, ValueError, OSError):
    import resource

    if memory_mib:
      resource.setrlimit(resource.RLIMIT_AS, (memory_mib << 20,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _end_with_parent() -> None:
  """Ends this process with its parent, even while a verdict keeps it from reading its input."""
  parent = os.getppid()

  def watch() -> None:
    while os.getppid() == parent:
      time.sleep(1.0)
    os._exit(0)

  threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
  main()

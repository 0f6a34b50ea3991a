"""A server of a small policy as a process of its own."""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]
RUN = ROOT / "tests" / "fixtures" / "run_before_typed_configs"
KEY = "of-no-worth-to-anybody"
BEARER = {"Authorization": f"Bearer {KEY}"}
QUESTION = [{"role": "user", "content": "Left to right, last digit: what is 3+4*7?"}]
# Greedy thoughts of this policy never end: a reply lasts as long as its context, some seconds.
LONG = {"model": "tiny", "messages": QUESTION, "temperature": 0.0,
        "extra_body": {"chat_template_kwargs": {"enable_thinking": True}}}  # fmt: skip
SHORT = {"model": "tiny:no_think", "messages": QUESTION, "seed": 3}


def start(folder, *flags, key=""):
  """A server of the small run with longer positions; returns the process and its address."""
  run = folder / "run"
  if not run.exists():
    shutil.copytree(RUN, run)
    config = json.loads((run / "policy" / "config.json").read_text())
    (run / "policy" / "config.json").write_text(json.dumps(config | {"max_positions": 2048}))
    thresholds = {"values": [1 - i / 100 for i in range(101)], "prompts": 9}
    (run / "thresholds.json").write_text(json.dumps(thresholds))
  command = [
    sys.executable, "-m", "experiments.serve", f"--config.init_from={run}", "--port=0",
    "--config.name=tiny", "--config.compilation_cache=", "--config.slots=2", "--config.waiting=2",
    "--config.page_tokens=512", f"--config.thresholds={run}/thresholds.json", *flags,
  ]  # fmt: skip
  log = (folder / "log").open("a")
  process = subprocess.Popen(
    command, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True,
    env={**os.environ, "JAX_PLATFORMS": "cpu", "LHRM_API_KEY": key},
  )  # fmt: skip
  line = process.stdout.readline()
  assert re.fullmatch(r"tiny is served at http://127\.0\.0\.1:\d+\n", line), (
    line + (folder / "log").read_text()[-3000:]
  )
  return process, line.split()[-1]


def stop(process):
  process.send_signal(signal.SIGTERM)
  assert process.wait(timeout=60) == 0

"""Terminal output: no text can control the terminal, and characters it lacks end no job."""

import os
import subprocess
import sys

from lhrm_jax.runs import replies
from tests.runs.test_command_line import ROOT

HOSTILE = "\x1b]52;c;aGk=\x07\x9b2J\r\b\u202egnp\ud800"


def test_a_reply_keeps_its_lines_and_steers_no_terminal():
  shown = replies.as_text(f"one\n\ttwo {HOSTILE} é 中").plain
  assert shown == r"one" "\n\t" r"two \x1b]52;c;aGk=\x07\x9b2J\r\x08\u202egnp\ud800 é 中"


JOB = """
from lhrm_jax.errors import UserError
from lhrm_jax.runs import command_line

def main(argv):
  print("é 中 \\ud800")
  raise UserError("first line\\nsecond \\x1b]52;c; é")

command_line.run(main)
"""


def test_a_terminal_of_ascii_shows_escapes_and_no_traceback():
  done = subprocess.run(
    [sys.executable, "-c", JOB], cwd=ROOT, capture_output=True, timeout=120, check=False,
    env={**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONIOENCODING": "ascii"},
  )  # fmt: skip
  assert done.stdout == b"\\xe9 \\u4e2d \\ud800\n"
  assert b"error: first line\nsecond \\x1b]52;c; \\xe9\n" in done.stderr
  assert done.returncode == 2 and b"Traceback" not in done.stderr

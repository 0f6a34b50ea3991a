"""Runs the sandbox in a process of its own, as root or as an ordinary user, for tests.

`python sandbox_server.py KIND` reads jobs, a JSON object a line, and answers with results. Of root
and of the ordinary user it first makes a mount namespace of its own, with the interpreter and the
package where everybody may read them, and with mounts that a sandbox must not show.
"""

import base64
import contextlib
import ctypes
import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).parents[2]
NOBODY = 65534
ENVIRONMENT = {"SECRET_TOKEN": "abc", "PYTHONDONTWRITEBYTECODE": "1"}
MS_BIND, MS_REC, MS_PRIVATE, NEWNS = 4096, 16384, 1 << 18, 0x20000


class Server:
  """Use as a context manager.

  Args:
    kind: `root`, `ordinary` (both need root) or `self`.
  """

  def __init__(self, kind: str):
    self._kind = kind

  def __enter__(self):
    # Not below a folder of pytest's, which only its user may enter.
    self._folder = tempfile.mkdtemp(prefix="sandbox-test-")
    os.chmod(self._folder, 0o755)
    self._process = subprocess.Popen(
      [sys.executable, "-S", __file__, self._kind, self._folder],
      stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
      env={**os.environ, "PYTHONPATH": str(ROOT), **ENVIRONMENT},
    )  # fmt: skip
    return self

  def __exit__(self, *_):
    with contextlib.suppress(BrokenPipeError):
      self._process.stdin.close()
    self._process.wait()
    shutil.rmtree(self._folder, ignore_errors=True)

  def why_unavailable(self) -> str | None:
    return self._ask({})["unavailable"]

  def run(self, code, limits, *, stdin=b"", files=None):
    from lhrm_jax.rewards import sandbox

    reply = self._ask({
      "code": code, "limits": dataclasses.asdict(limits), "files": files,
      "stdin": base64.b64encode(stdin).decode(),
    })  # fmt: skip
    out, err = (base64.b64decode(reply[name]) for name in ("stdout", "stderr"))
    return sandbox.Result(reply["end"], reply["code"], out, err)

  def passes(self, program, tests) -> bool:
    return self._ask({"program": program, "tests": tests})["passes"]

  def _ask(self, job):
    with contextlib.suppress(BrokenPipeError):
      self._process.stdin.write(json.dumps(job) + "\n")
      self._process.stdin.flush()
    line = self._process.stdout.readline()
    return json.loads(line) if line else {"unavailable": "the test's own process did not start"}


def serve() -> None:
  """Answers jobs until there are no more."""
  from lhrm_jax.rewards import code, sandbox

  for line in sys.stdin:
    job = json.loads(line)
    if not job:
      reply = {"unavailable": sandbox.why_unavailable()}
    elif "program" in job:
      reply = {"passes": code.passes(job["program"], job["tests"])}
    else:
      result = sandbox.run(
        [sandbox.interpreter(), "-I", "-S", "-c", job["code"]],
        stdin=base64.b64decode(job["stdin"]), files=job["files"],
        limits=sandbox.Limits(**job["limits"]),
      )  # fmt: skip
      reply = dataclasses.asdict(result)
      for name in ("stdout", "stderr"):
        reply[name] = base64.b64encode(reply[name]).decode()
    print(json.dumps(reply), flush=True)


def prepare(kind: str, folder: str) -> None:
  """Makes the mounts, becomes the user and starts over with the interpreter they can read."""
  libc = ctypes.CDLL(None, use_errno=True)

  def mount(source, target, kind, flags, data=b""):
    args = [None if part is None else os.fsencode(part) for part in (source, target, kind)]
    if libc.mount(*args, ctypes.c_ulong(flags), data):
      raise OSError(ctypes.get_errno(), f"mounting {target}")

  if libc.unshare(NEWNS):
    raise OSError(ctypes.get_errno(), "making a mount namespace")
  mount(None, "/", None, MS_REC | MS_PRIVATE)
  prefix, code = sys.base_prefix, os.path.join(folder, "code")
  os.makedirs(f"{code}/lhrm_jax")
  mount(ROOT / "lhrm_jax", f"{code}/lhrm_jax", None, MS_BIND | MS_REC)
  closed = [path for path in pathlib.Path(prefix).parents if not path.stat().st_mode & 0o001]
  if closed:  # the interpreter lies in a home folder: shows it there, alone
    aside = os.path.join(folder, "python")
    os.mkdir(aside)
    mount(prefix, aside, None, MS_BIND | MS_REC)
    mount("tmpfs", closed[-1], "tmpfs", 0, b"mode=755")
    os.makedirs(prefix)
    mount(aside, prefix, None, MS_BIND | MS_REC)
  server = os.path.join(folder, "server.py")
  shutil.copyfile(__file__, server)
  os.chmod(server, 0o644)
  library = os.path.dirname(os.__file__).removeprefix(sys.base_prefix)
  for place in (f"{prefix}{library}/turtledemo", "/usr/share"):
    if os.path.isdir(place):
      mount("tmpfs", place, "tmpfs", 0, b"mode=777")
      pathlib.Path(place, "secret").write_text("x")
  interpreter = os.path.realpath(sys.executable)
  if kind == "ordinary":
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
  os.chdir("/")
  environment = {"PYTHONPATH": code, **ENVIRONMENT}
  os.execve(interpreter, [interpreter, "-S", server, "self"], environment)


if __name__ == "__main__":
  if sys.argv[1] != "self":
    prepare(sys.argv[1], sys.argv[2])
  serve()

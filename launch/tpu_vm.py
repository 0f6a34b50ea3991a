"""A job on Cloud TPU VMs: one slice or several, created, used, re-created when taken away, deleted.

  python launch/tpu_vm.py run NAME --zone us-east5-a --accelerator v5p-128 --spot \\
      --setup "sudo mount -t nfs 10.0.0.2:/runs /mnt" -- \\
      python -m experiments.hgpo --config FILE --workdir /mnt/NAME

Every worker runs the commit that is checked out here. The job doesn't depend on this terminal: the
same command attaches to it again, `logs` shows it, `delete` ends it. See docs/launching.md.
"""

import argparse
import pathlib
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

ROOT = pathlib.Path(__file__).resolve().parent.parent
RUNTIMES = {  # the image of a TPU's VM, by the start of its accelerator type
  "v4": "tpu-ubuntu2204-base",
  "v5litepod": "v2-alpha-tpuv5-lite",
  "v5p": "v2-alpha-tpuv5",
  "v6e": "v2-alpha-tpuv6e",
}
PREEMPTED = 75  # a job's status when it was asked to end and saved
_NO_CONNECTION = 255  # ssh's own status
_POLL_SECONDS = 30
# Together: a job's workers wait for one another.
_TO_ALL = ("--node=all", "--worker=all", "--batch-size=all")

# On every worker. The first line leaves a job alone that still runs.
_ALIVE = (
  'if [ ! -e ~/job/status ] && kill -0 "$(cat ~/job/pid 2>/dev/null)" 2>/dev/null; then exit 0; fi'
)
INSTALL = f"""{_ALIVE}
set -e
rm -rf ~/lhrm_jax
git clone --quiet ~/lhrm_jax.bundle ~/lhrm_jax
cd ~/lhrm_jax
python3 -m pip install --quiet --user uv
~/.local/bin/uv venv --quiet --python 3.12
~/.local/bin/uv pip install --quiet --editable . 'jax[tpu]'
"""
START = f"""{_ALIVE}
set -e
mkdir -p ~/job
rm -f ~/job/status
: > ~/job/log
cat > ~/job/run <<"END"
cd ~/lhrm_jax
. .venv/bin/activate
COMMAND
echo $? > ~/job/status
END
setsid nohup bash ~/job/run >> ~/job/log 2>&1 < /dev/null &
echo $! > ~/job/pid
"""
# A worker without a status went down with its job.
FOLLOW = f"""tail --pid="$(cat ~/job/pid)" -n +1 -f ~/job/log
exit "$(cat ~/job/status 2>/dev/null || echo {PREEMPTED})"
"""


class Slices:
  """A queued resource: one or more slices of one kind, each with one or more workers."""

  def __init__(self, name: str, zone: str, dry_run: bool):
    self._name, self._zone, self._dry_run = name, f"--zone={zone}", dry_run

  def create(self, accelerator: str, slices: int, spot: bool) -> None:
    """Asks for the slices and waits until they are there, for days if need be.

    Raises:
      subprocess.CalledProcessError: the request was refused.
      RuntimeError: it failed later.
    """
    runtime = RUNTIMES[accelerator.partition("-")[0]]
    several = [f"--node-count={slices}", f"--node-prefix={self._name}"]
    nodes = several if slices > 1 else [f"--node-id={self._name}"]
    self._gcloud(
      "create", self._name, self._zone, f"--accelerator-type={accelerator}",
      f"--runtime-version={runtime}", *nodes, *(["--spot"] if spot else []), check=True,
    )  # fmt: skip
    while (state := self.state()) != "ACTIVE":
      if state in ("FAILED", "SUSPENDED"):
        raise RuntimeError(f"the request for {self._name} is {state}")
      print(f"{self._name}: {state.lower() or 'unknown'}", flush=True)
      time.sleep(_POLL_SECONDS)

  def state(self) -> str:
    """`ACTIVE`, `WAITING_FOR_RESOURCES`, `SUSPENDED`, ...; empty where there are no such slices."""
    found = self._gcloud(
      "describe", self._name, self._zone, "--format=value(state.state)", capture_output=True
    )
    return "ACTIVE" if self._dry_run else found.stdout.strip()

  def delete(self) -> None:
    self._gcloud("delete", self._name, self._zone, "--force", "--quiet")

  def install(self, setup: str) -> None:
    """Brings this commit and what it needs to all workers, then runs `setup` on each.

    Raises:
      subprocess.CalledProcessError: a worker could not.
    """
    with tempfile.TemporaryDirectory() as folder:
      bundle = "lhrm_jax.bundle" if self._dry_run else f"{folder}/lhrm_jax.bundle"
      self._run(["git", "-C", str(ROOT), "bundle", "create", "--quiet", bundle, "HEAD"], check=True)
      self._gcloud("scp", bundle, f"{self._name}:", self._zone, *_TO_ALL, check=True)
    self.on_all_workers(INSTALL + setup, check=True)

  def on_all_workers(self, script: str, check: bool = False) -> int:
    """Runs a script on every worker of every slice at once; the first status that is not 0."""
    script = f"--command={script}"
    return self._gcloud("ssh", self._name, self._zone, *_TO_ALL, script, check=check).returncode

  def _gcloud(self, verb: str, *arguments: str, **options) -> subprocess.CompletedProcess:
    return self._run(["gcloud", "compute", "tpus", "queued-resources", verb, *arguments], **options)

  def _run(self, command: Sequence[str], **options) -> subprocess.CompletedProcess:
    if self._dry_run:
      print(shlex.join(command))
      return subprocess.CompletedProcess(command, 0, "", "")
    return subprocess.run(command, text=True, **options)


def run(
  slices: Slices, accelerator: str, count: int, spot: bool, setup: str, command: Sequence[str]
) -> int:
  """Runs the job until it is done or fails, on new slices where the old ones were taken away.

  Returns:
    The job's status.
  """
  start = START.replace("COMMAND", shlex.join(command))
  while True:
    if (state := slices.state()) != "ACTIVE":
      if state:
        slices.delete()
      slices.create(accelerator, count, spot)
    try:
      slices.install(setup)
      slices.on_all_workers(start, check=True)
      status = slices.on_all_workers(FOLLOW)
      while status == _NO_CONNECTION and slices.state() == "ACTIVE":
        time.sleep(_POLL_SECONDS)
        status = slices.on_all_workers(FOLLOW)
    except subprocess.CalledProcessError as error:
      status = error.returncode
    if not status or (status != PREEMPTED and slices.state() == "ACTIVE"):
      return status
    print("The job or its slices were preempted: going on from the last checkpoint.", flush=True)


def main(argv: Sequence[str] | None = None) -> int:
  argv = list(sys.argv[1:] if argv is None else argv)
  at = argv.index("--") if "--" in argv else len(argv)
  arguments, command = argv[:at], argv[at + 1 :]
  parser = argparse.ArgumentParser(
    description=__doc__.partition("\n")[0], epilog="After --: the command that each worker runs."
  )
  verbs = parser.add_subparsers(dest="verb", required=True)
  for verb, what in (
    ("run", "create slices, run a command on all of their workers, delete them"),
    ("logs", "show a running job's output"),
    ("delete", "end the job and give the slices back"),
  ):
    verb_parser = verbs.add_parser(verb, help=what)
    verb_parser.add_argument("name", help="of the slices, as you like")
    verb_parser.add_argument("--zone", required=True)
    verb_parser.add_argument("--dry-run", action="store_true", help="print the commands and stop")
    if verb == "run":
      verb_parser.add_argument("--accelerator", required=True, help="of one slice, e.g. v5p-128")
      verb_parser.add_argument("--slices", type=int, default=1)
      verb_parser.add_argument("--spot", action="store_true", help="cheaper, may be taken away")
      verb_parser.add_argument("--setup", default="", help="on every worker first, e.g. a mount")
      verb_parser.add_argument("--keep", action="store_true", help="don't delete them at the end")
  args = parser.parse_args(arguments)
  slices = Slices(args.name, args.zone, args.dry_run)
  if args.verb == "logs":
    return slices.on_all_workers(FOLLOW)
  if args.verb == "delete":
    slices.delete()
    return 0
  if args.accelerator.partition("-")[0] not in RUNTIMES:
    parser.error(f"--accelerator: of {', '.join(RUNTIMES)}, with a size, e.g. v5litepod-16")
  if not command:
    parser.error("name the command after --, e.g. -- python -m experiments.hgpo --config FILE")
  if args.dry_run:
    slices.create(args.accelerator, args.slices, args.spot)
  try:
    status = run(slices, args.accelerator, args.slices, args.spot, args.setup, command)
  except KeyboardInterrupt:
    print(f"\nThe job goes on without this terminal; end it: delete {args.name}", file=sys.stderr)
    return 130
  except (RuntimeError, subprocess.CalledProcessError) as error:
    print(f"error: {error}", file=sys.stderr)
    status = 2
  if not args.keep:
    slices.delete()
  return status


if __name__ == "__main__":
  sys.exit(main())

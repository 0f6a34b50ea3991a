"""Runs inside the sandbox's own process: builds the walls, then starts the program behind them.

Started by `sandbox.run` as a script of its own (`python -I -S jail.py SPEC STATUS_FD`), so that no
thread of the trainer is forked. It stands alone: nothing outside the standard library.

Walls, on Linux: new mount, process, network, IPC and host-name namespaces (inside a new user
namespace, where the caller is not root); a root directory holding nothing but the interpreter, read
only, and an empty working folder in memory; an unprivileged user without capabilities who can get
no new ones and make no further namespaces; resource limits. The first process of the namespace
stays outside the program's reach, adds up the memory all its processes use, and takes every one of
them down when it ends.
"""

import contextlib
import ctypes
import json
import os
import platform
import resource
import signal
import sys
import time

NEWNS, NEWUTS, NEWIPC = 0x00020000, 0x04000000, 0x08000000
NEWUSER, NEWPID, NEWNET = 0x10000000, 0x20000000, 0x40000000
RDONLY, NOSUID, NODEV, NOEXEC, REMOUNT, BIND, REC, PRIVATE = 1, 2, 4, 8, 32, 4096, 16384, 1 << 18
PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS = 1, 4, 38
DEVICES = ("null", "zero", "random", "urandom")
WORK = "/box"
POLL_S = 0.01
# A user id no account has; one for each run, because the limit on processes counts by user.
FIRST_UID = 2_000_000_000

libc = ctypes.CDLL(None, use_errno=True)


def check(result, what):
  if result != 0:
    code = ctypes.get_errno()
    raise OSError(code, f"{what}: {os.strerror(code)}")


def mount(source, target, kind, flags, data=None):
  args = [None if a is None else os.fsencode(a) for a in (source, target, kind)]
  check(
    libc.mount(*args, ctypes.c_ulong(flags), None if data is None else data.encode()),
    f"mounting {target}",
  )


def main():
  with open(sys.argv[1], encoding="utf-8") as file:
    spec = json.load(file)
  status = int(sys.argv[2])
  os.set_inheritable(status, False)
  libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
  try:
    enter_namespaces()
  except OSError as error:
    return fail(status, error)
  first = os.fork()
  if first:  # the first process of the namespace is a child of this one
    os.close(status)
    for fd in (0, 1, 2):
      os.close(fd)
    os.waitpid(first, 0)
    return None
  libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
  try:
    build_root(spec)
    program = os.fork()
    if program == 0:
      become_program(spec, status)
  except OSError as error:
    return fail(status, error)
  for fd in (0, 1, 2):
    os.close(fd)
  libc.prctl(PR_SET_DUMPABLE, 0)
  report(status, supervise(program, spec["limits"]["memory_mib"] << 20))
  return None


def report(status, message):
  with contextlib.suppress(OSError):
    os.write(status, json.dumps(message).encode() + b"\n")


def fail(status, error):
  report(status, {"refused": str(error)})
  os._exit(1)


def enter_namespaces():
  if sys.platform != "linux" or platform.machine() not in PIVOT_ROOT:
    raise OSError(0, f"no isolation on {sys.platform} {platform.machine()}")
  uid, gid = os.geteuid(), os.getegid()
  flags = NEWNS | NEWUTS | NEWIPC | NEWPID | NEWNET
  check(libc.unshare(flags if uid == 0 else flags | NEWUSER), "making namespaces")
  if uid != 0:
    map_ids(uid, gid)


def map_ids(uid, gid):
  """Makes user 1000 of the new namespace the caller outside."""
  for name, line in (
    ("setgroups", "deny"),
    ("uid_map", f"1000 {uid} 1"),
    ("gid_map", f"1000 {gid} 1"),
  ):
    with open(f"/proc/self/{name}", "w") as file:
      file.write(line)


def build_root(spec):
  """Puts the program into a root directory of its own."""
  root = spec["root"]
  mount(None, "/", None, REC | PRIVATE)
  mount("tmpfs", root, "tmpfs", NOSUID | NODEV, "size=4m,mode=755")
  for path in spec["read_only"]:
    show(root, path)
  for name in ("dev", "proc", WORK[1:]):
    os.mkdir(os.path.join(root, name), 0o755)
  os.symlink(WORK, os.path.join(root, "tmp"))
  for name in DEVICES:
    target = os.path.join(root, "dev", name)
    open(target, "w").close()
    mount(f"/dev/{name}", target, None, BIND)
  size = f"size={spec['limits']['disk_mib']}m,nr_inodes=4096,mode=777"
  mount("tmpfs", root + WORK, "tmpfs", NOSUID | NODEV, size)
  for name, text in spec["files"].items():
    with open(os.path.join(root + WORK, os.path.basename(name)), "w", encoding="utf-8") as file:
      file.write(text)
  mount("proc", os.path.join(root, "proc"), "proc", NOSUID | NODEV | NOEXEC)
  os.chdir(root)
  here = b"."
  check(libc.syscall(PIVOT_ROOT[platform.machine()], here, here), "changing the root")
  check(libc.umount2(here, 2), "leaving the old root")
  mount(None, "/", None, REMOUNT | BIND | RDONLY | NOSUID | NODEV)
  os.chdir(WORK)


def show(root, path):
  """Shows a directory of the system, read only, at the same place; a link stays a link."""
  target = root + path
  os.makedirs(os.path.dirname(target), exist_ok=True)
  if os.path.islink(path):
    os.symlink(os.readlink(path), target)
    return
  os.makedirs(target, exist_ok=True)
  mount(path, target, None, BIND | REC)
  mount(None, target, None, REMOUNT | BIND | RDONLY | NOSUID | NODEV)


def become_program(spec, status):
  """Gives up every right and becomes the program; does not return."""
  try:
    os.setsid()
    if os.geteuid() == 0:
      uid = FIRST_UID + spec["run"] % 1_000_000_000
      os.setgroups([])
      os.setresgid(uid, uid, uid)
      os.setresuid(uid, uid, uid)
      libc.prctl(PR_SET_DUMPABLE, 1)  # else its own /proc entry is root's
      # A user namespace of its own, in which no other can be made. Where the system allows none
      # at all this fails, and nothing is lost.
      if libc.unshare(NEWUSER) == 0:
        map_ids(uid, uid)
    with contextlib.suppress(OSError), open("/proc/sys/user/max_user_namespaces", "w") as file:
      file.write("0")
    limits = spec["limits"]
    for which, value in (
      (resource.RLIMIT_CPU, limits["cpu_s"]),
      (resource.RLIMIT_AS, limits["memory_mib"] << 20),
      (resource.RLIMIT_FSIZE, limits["disk_mib"] << 20),
      (resource.RLIMIT_NPROC, limits["processes"]),
      (resource.RLIMIT_NOFILE, 64),
      (resource.RLIMIT_CORE, 0),
      (resource.RLIMIT_MEMLOCK, 0),
    ):
      resource.setrlimit(which, (value, value))
    check(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "giving up rights")
    os.closerange(3, status)
    os.closerange(status + 1, 256)
    report(status, {"started": True})
    os.execve(spec["command"][0], spec["command"], {"PATH": "/usr/bin:/bin", "HOME": WORK})
  except OSError as error:
    fail(status, error)


def supervise(program, memory_bytes):
  """Waits for the program; ends it when all processes together use more than they may."""
  page = os.sysconf("SC_PAGE_SIZE")
  while True:
    with contextlib.suppress(ChildProcessError):
      while True:
        pid, code = os.waitpid(-1, os.WNOHANG)
        if pid == program:
          return {"exit": os.waitstatus_to_exitcode(code)}
        if pid == 0:
          break
    used = 0
    for name in os.listdir("/proc"):
      if name.isdigit() and name != "1":
        with contextlib.suppress(OSError, IndexError), open(f"/proc/{name}/statm", "rb") as file:
          used += int(file.read().split()[1]) * page
    if used > memory_bytes:
      return {"killed": "memory"}
    time.sleep(POLL_S)


if __name__ == "__main__":
  main()

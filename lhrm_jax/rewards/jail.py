"""Runs inside the sandbox's own process: isolates it, then starts the program.

Started by `sandbox.run` as a script of its own (`python -I -S jail.py SPEC STATUS_FD`), so that no
thread of the trainer is forked. It imports the standard library only.

Isolation, on Linux: new mount, process, network, IPC and host-name namespaces (inside a new user
namespace, where the caller is not root); a root directory holding nothing but the interpreter and
its libraries, read only, and an empty working folder in memory; an unprivileged user without
capabilities who can get no new ones and make no further namespaces; a session keyring of its own; a
list of allowed system calls (`seccomp.py`); resource limits. The first process of the namespace
stays outside the program's reach, adds up the memory all its processes use, and takes every one of
them down when it ends. Where this process may make a control group, the kernel counts as well.
"""

import contextlib
import ctypes
import errno
import json
import os
import platform
import re
import resource
import signal
import struct
import sys
import time

NEWNS, NEWUTS, NEWIPC = 0x00020000, 0x04000000, 0x08000000
NEWUSER, NEWPID, NEWNET = 0x10000000, 0x20000000, 0x40000000
RDONLY, NOSUID, NODEV, NOEXEC, REMOUNT, BIND, REC, PRIVATE = 1, 2, 4, 8, 32, 4096, 16384, 1 << 18
PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
KEYCTL = {"x86_64": 250, "aarch64": 219}
JOIN_SESSION_KEYRING = 1
MOUNT_SETATTR, AT_RECURSIVE, CWD = 442, 0x8000, -100
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS = 1, 4, 38
PR_SET_SECCOMP, FILTER = 22, 2
MOUNT_FLAGS = {
  "nosuid": 2, "nodev": 4, "noexec": 8, "noatime": 1024, "nodiratime": 2048, "relatime": 1 << 21
}  # fmt: skip
# Entries of /proc that reveal something about the machine or its users' keys.
HIDDEN = ("keys", "key-users", "kallsyms", "kcore", "kmsg", "modules", "timer_list", "vmallocinfo")
PACKAGES = ("site-packages", "dist-packages")
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
    if spec["cgroup"]:
      with open(os.path.join(spec["cgroup"], "cgroup.procs"), "w") as file:
        file.write("0")
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
  """Gives the program a root directory of its own."""
  root = spec["root"]
  mount(None, "/", None, REC | PRIVATE)
  mount("tmpfs", root, "tmpfs", NOSUID | NODEV, "size=4m,mode=755")
  for name in ("dev", "proc", WORK[1:]):
    os.mkdir(os.path.join(root, name), 0o755)
  for path in spec["folders"]:
    show_folder(root, path)
  for path in (*spec["shown"], *(f"/dev/{name}" for name in DEVICES)):
    show_file(root, path)
  if not os.path.exists(os.path.join(root, "tmp")):  # the interpreter may lie in there
    os.symlink(WORK, os.path.join(root, "tmp"))
  if writable := [path for path, options in mounts_at(root)[1:] if "ro" not in options]:
    raise OSError(0, f"{writable[0]} could not be made read-only")
  size = f"size={spec['limits']['disk_mib']}m,nr_inodes=4096,mode=777"
  mount("tmpfs", root + WORK, "tmpfs", NOSUID | NODEV, size)
  for name, text in spec["files"].items():
    with open(os.path.join(root + WORK, os.path.basename(name)), "w", encoding="utf-8") as file:
      file.write(text)
  mount("proc", os.path.join(root, "proc"), "proc", NOSUID | NODEV | NOEXEC)
  for name in HIDDEN:
    target = os.path.join(root, "proc", name)
    if os.path.exists(target):
      mount("/dev/null", target, None, BIND)
      make_read_only(target)
  os.chdir(root)
  here = b"."
  check(libc.syscall(PIVOT_ROOT[platform.machine()], here, here), "changing the root")
  check(libc.umount2(here, 2), "leaving the old root")
  mount(None, "/", None, REMOUNT | BIND | RDONLY | NOSUID | NODEV)
  os.chdir(WORK)


def show_file(root, path):
  """Shows one file of the system, read-only, at the same place."""
  target = root + path
  os.makedirs(os.path.dirname(target), exist_ok=True)
  open(target, "w").close()
  mount(os.path.realpath(path), target, None, BIND)
  make_read_only(target)


def show_folder(root, path):
  """Shows a folder of the system, read-only, without what is mounted or installed in it."""
  target = root + path
  os.makedirs(target, exist_ok=True)
  # In a user namespace nothing mounted below may be left out, so it is covered instead.
  mount(path, target, None, BIND | REC)
  make_read_only(target)
  below = {place for place, _ in mounts_at(target) if place != target}
  for place in sorted(below | {os.path.join(target, name) for name in PACKAGES}):
    if os.path.isdir(place):
      mount("tmpfs", place, "tmpfs", NOSUID | NODEV, "size=4k,mode=555")
      make_read_only(place)
    elif os.path.exists(place):
      mount("/dev/null", place, None, BIND)
      make_read_only(place)


def make_read_only(target):
  """Makes a mount and all mounts below it read-only, without devices and set-user-id."""
  attributes = struct.pack("<QQQQ", RDONLY | NOSUID, 0, 0, 0)
  done = libc.syscall(
    MOUNT_SETATTR, CWD, os.fsencode(target), AT_RECURSIVE, attributes, len(attributes)
  )
  if done == 0:
    return
  if ctypes.get_errno() != errno.ENOSYS:
    check(done, f"making {target} read-only")
  for place, options in mounts_at(target):  # before Linux 5.12
    kept = sum(flag for name, flag in MOUNT_FLAGS.items() if name in options)
    mount(None, place, None, REMOUNT | BIND | RDONLY | NOSUID | kept)


def mounts_at(target):
  """Mount points at and below `target`, with their options, outermost first."""
  found = []
  with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
    for line in file:
      fields = line.split(" ")
      place = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), fields[4])
      if place == target or place.startswith(f"{target}/"):
        found.append((place, fields[5].split(",")))
  return found


def become_program(spec, status):
  """Drops all privileges and executes the program; does not return."""
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
    # An empty session keyring in place of the caller's. Where a quota or an old kernel gives none,
    # the filter still keeps every call that reaches a key from the program.
    libc.syscall(KEYCTL[platform.machine()], JOIN_SESSION_KEYRING, None)
    os.closerange(3, status)
    os.closerange(status + 1, 256)
    libraries = ":".join(sorted({os.path.dirname(path) for path in spec["shown"]}))
    environment = {"PATH": "/usr/bin:/bin", "HOME": WORK, "TMPDIR": WORK}
    environment["LD_LIBRARY_PATH"] = libraries
    allow_only(bytes.fromhex(spec["filter"]))
    report(status, {"started": True})
    os.execve(spec["command"][0], spec["command"], environment)
  except OSError as error:
    fail(status, error)


def allow_only(instructions):
  """Installs a system-call filter."""

  class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p)]

  program = Program(len(instructions) // 8, instructions)
  check(
    libc.prctl(PR_SET_SECCOMP, FILTER, ctypes.byref(program), 0, 0),
    "installing the system-call filter",
  )


def supervise(program, memory_bytes):
  """Waits for the program; ends it when its processes together use too much memory."""
  while True:
    with contextlib.suppress(ChildProcessError):
      while True:
        pid, code = os.waitpid(-1, os.WNOHANG)
        if pid == program:
          return {"exit": os.waitstatus_to_exitcode(code)}
        if pid == 0:
          break
    names = [name for name in os.listdir("/proc") if name.isdigit() and name != "1"]
    if sum(map(memory_of, names)) > memory_bytes:
      return {"killed": "memory"}
    time.sleep(POLL_S)


def memory_of(pid):
  """Bytes a process uses in memory and swap, read from a live thread: the first may have ended."""
  most = 0
  with contextlib.suppress(OSError):
    for thread in os.listdir(f"/proc/{pid}/task"):
      with (
        contextlib.suppress(OSError, ValueError),
        open(f"/proc/{pid}/task/{thread}/status", "rb") as file,
      ):
        lines = [line.split() for line in file if line.startswith((b"VmRSS:", b"VmSwap:"))]
        most = max(most, sum(int(kib) for _, kib, _ in lines) << 10)
      if most:
        break
  return most


if __name__ == "__main__":
  main()

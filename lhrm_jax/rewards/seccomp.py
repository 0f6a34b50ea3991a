"""The system calls a program in the sandbox may make, as a BPF program for the kernel.

An allow-list: what is not named here fails with EPERM, whatever future kernels add. Calls that give
more than a program needs are allowed with some arguments only:

- sockets of the machine itself (AF_UNIX), none of a network, of a host (AF_VSOCK) or of the kernel;
- new processes and threads, no new namespaces;
- memory that counts as its process's own: no shared mappings, no huge pages, no larger pipes. With
  memfd, System V and POSIX shared memory not on the list, none can be kept out of the count;
- resource limits of the caller alone.
"""

from __future__ import annotations

import struct

# Names and their numbers on x86-64 and on arm64; None where an architecture has no such call.
_PLAIN = {
  "read": (0, 63), "write": (1, 64), "open": (2, None), "close": (3, 57), "stat": (4, None),
  "fstat": (5, 80), "lstat": (6, None), "poll": (7, None), "lseek": (8, 62),
  "mprotect": (10, 226), "munmap": (11, 215), "brk": (12, 214), "rt_sigaction": (13, 134),
  "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139), "pread64": (17, 67),
  "pwrite64": (18, 68), "readv": (19, 65), "writev": (20, 66), "access": (21, None),
  "pipe": (22, None), "select": (23, None), "sched_yield": (24, 124), "mremap": (25, 216),
  "madvise": (28, 233), "dup": (32, 23), "dup2": (33, None), "pause": (34, None),
  "nanosleep": (35, 101), "getitimer": (36, 102), "alarm": (37, None), "setitimer": (38, 103),
  "getpid": (39, 172), "sendfile": (40, 71), "connect": (42, 203), "accept": (43, 202),
  "sendto": (44, 206), "recvfrom": (45, 207), "sendmsg": (46, 211), "recvmsg": (47, 212),
  "shutdown": (48, 210), "bind": (49, 200), "listen": (50, 201), "getsockname": (51, 204),
  "getpeername": (52, 205), "setsockopt": (54, 208), "getsockopt": (55, 209),
  "fork": (57, None), "vfork": (58, None), "execve": (59, 221), "exit": (60, 93),
  "wait4": (61, 260), "kill": (62, 129), "uname": (63, 160), "flock": (73, 32),
  "fsync": (74, 82), "fdatasync": (75, 83), "truncate": (76, 45), "ftruncate": (77, 46),
  "getdents": (78, None), "getcwd": (79, 17), "chdir": (80, 49), "fchdir": (81, 50),
  "rename": (82, None), "mkdir": (83, None), "rmdir": (84, None), "creat": (85, None),
  "link": (86, None), "unlink": (87, None), "symlink": (88, None), "readlink": (89, None),
  "chmod": (90, None), "fchmod": (91, 52), "umask": (95, 166), "gettimeofday": (96, 169),
  "getrlimit": (97, 163), "getrusage": (98, 165), "sysinfo": (99, 179), "times": (100, 153),
  "getuid": (102, 174), "getgid": (104, 176), "geteuid": (107, 175), "getegid": (108, 177),
  "setpgid": (109, 154), "getppid": (110, 173), "getpgrp": (111, None), "setsid": (112, 157),
  "getgroups": (115, 158), "getresuid": (118, 148), "getresgid": (120, 150),
  "getpgid": (121, 155), "getsid": (124, 156), "rt_sigpending": (127, 136),
  "rt_sigtimedwait": (128, 137), "rt_sigsuspend": (130, 133), "sigaltstack": (131, 132),
  "utime": (132, None), "statfs": (137, 43), "fstatfs": (138, 44), "getpriority": (140, 141),
  "sched_getparam": (143, 121), "sched_getscheduler": (145, 120),
  "sched_get_priority_max": (146, 125), "sched_get_priority_min": (147, 126),
  "arch_prctl": (158, None), "gettid": (186, 178), "getxattr": (191, 8), "lgetxattr": (192, 9),
  "fgetxattr": (193, 10), "listxattr": (194, 11), "llistxattr": (195, 12),
  "flistxattr": (196, 13), "tkill": (200, 130), "time": (201, None), "futex": (202, 98),
  "sched_getaffinity": (204, 123), "epoll_create": (213, None), "getdents64": (217, 61),
  "set_tid_address": (218, 96), "restart_syscall": (219, 128), "fadvise64": (221, 223),
  "clock_gettime": (228, 113), "clock_getres": (229, 114), "clock_nanosleep": (230, 115),
  "exit_group": (231, 94), "epoll_wait": (232, None), "epoll_ctl": (233, 21),
  "tgkill": (234, 131), "utimes": (235, None), "waitid": (247, 95), "openat": (257, 56),
  "mkdirat": (258, 34), "newfstatat": (262, 79), "unlinkat": (263, 35), "renameat": (264, 38),
  "linkat": (265, 37), "symlinkat": (266, 36), "readlinkat": (267, 78), "fchmodat": (268, 53),
  "faccessat": (269, 48), "pselect6": (270, 72), "ppoll": (271, 73),
  "set_robust_list": (273, 99), "get_robust_list": (274, 100), "utimensat": (280, 88),
  "epoll_pwait": (281, 22), "fallocate": (285, 47), "accept4": (288, 242),
  "eventfd2": (290, 19), "epoll_create1": (291, 20), "dup3": (292, 24), "pipe2": (293, 59),
  "preadv": (295, 69), "pwritev": (296, 70), "getcpu": (309, 168), "renameat2": (316, 276),
  "getrandom": (318, 278), "membarrier": (324, 283), "copy_file_range": (326, 285),
  "statx": (332, 291), "rseq": (334, 293), "close_range": (436, 436), "openat2": (437, 437),
  "faccessat2": (439, 439),
}  # fmt: skip
_AF_UNIX, _CLONE_NEW = 1, 0x7E020000
_SHARED_OR_HUGE = 0x1 | 0x40000
# tcgetattr (isatty), window size, bytes to read, non-blocking, close on exec and not.
_IOCTLS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)
_FCNTLS = (*range(8), 36, 37, 38, 1030, 1032)  # descriptors, flags, locks
# Name: numbers, index of the argument, "in" these values or "without" these bits.
_BY_ARGUMENT = {
  "mmap": ((9, 222), 3, "without", (_SHARED_OR_HUGE,)),
  "ioctl": ((16, 29), 1, "in", _IOCTLS),
  "socket": ((41, 198), 0, "in", (_AF_UNIX,)),
  "socketpair": ((53, 199), 0, "in", (_AF_UNIX,)),
  "clone": ((56, 220), 0, "without", (_CLONE_NEW,)),
  "fcntl": ((72, 25), 1, "in", _FCNTLS),
  "prctl": ((157, 167), 0, "in", (15, 16)),  # names of threads
  "prlimit64": ((302, 261), 0, "in", (0,)),
}
_CLONE3 = 435  # its arguments are out of a filter's sight; callers fall back to clone
_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
_X32 = 0x40000000

_KILL, _ALLOW = 0x80000000, 0x7FFF0000
_EPERM, _ENOSYS = 0x00050000 | 1, 0x00050000 | 38
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06


def program(machine: str) -> bytes:
  """The filter for `machine` (as `platform.machine()` says), as `struct sock_filter`s.

  Raises:
    KeyError: there is none for this machine.
  """
  column, architecture = _ARCHITECTURES[machine]
  found = [
    (_LOAD, 0, 0, 4), (_EQUAL, 1, 0, architecture), (_RETURN, 0, 0, _KILL),
    (_LOAD, 0, 0, 0),
  ]  # fmt: skip
  if machine == "x86_64":
    found += [(_AT_LEAST, 0, 1, _X32), (_RETURN, 0, 0, _KILL)]
  for numbers in _PLAIN.values():
    if numbers[column] is not None:
      found += [(_EQUAL, 0, 1, numbers[column]), (_RETURN, 0, 0, _ALLOW)]
  for numbers, argument, how, values in _BY_ARGUMENT.values():
    body = [(_LOAD, 0, 0, 16 + 8 * argument)]  # the low half, on these little-endian machines
    if how == "in":
      for value in values:
        body += [(_EQUAL, 0, 1, value), (_RETURN, 0, 0, _ALLOW)]
    else:
      body += [(_ANY_BIT, 1, 0, values[0]), (_RETURN, 0, 0, _ALLOW)]
    body.append((_RETURN, 0, 0, _EPERM))
    found += [(_EQUAL, 0, len(body), numbers[column]), *body]
  found += [(_EQUAL, 0, 1, _CLONE3), (_RETURN, 0, 0, _ENOSYS), (_RETURN, 0, 0, _EPERM)]
  return b"".join(struct.pack("<HBBI", *instruction) for instruction in found)

"""The sandbox tried with the programs it is there for, as root and as an ordinary user.

Limits are low, so that a hole would be noticed without harm to the machine the tests run on.
"""

import os
import pathlib
import platform
import socket
import threading
import time

import pytest

from lhrm_jax.rewards import cgroup, sandbox, seccomp
from tests.rewards.sandbox_server import Server

LIMITS = sandbox.Limits(wall_s=4, cpu_s=1, memory_mib=200, processes=8, disk_mib=4)
# Root tries both; who is not root cannot become it.
USERS = ["root", "ordinary"] if os.geteuid() == 0 else ["self"]


def run_here(code: str, limits: sandbox.Limits = LIMITS, **kwargs) -> sandbox.Result:
  command = [sandbox.interpreter(), "-I", "-S", "-c", code]
  return sandbox.run(command, limits=limits, **kwargs)


@pytest.fixture(scope="module", params=USERS)
def run(request):
  """Runs a program in the sandbox as one kind of user."""
  with Server(request.param) as server:
    if problem := server.why_unavailable():
      pytest.skip(f"as {request.param}: {problem}")
    yield lambda code, limits=LIMITS, **options: server.run(code, limits, **options)


needs_sandbox = pytest.mark.skipif(
  sandbox.why_unavailable() is not None, reason=str(sandbox.why_unavailable())
)


def test_without_isolation_nothing_is_run(tmp_path, monkeypatch):
  jail = tmp_path / "jail.py"
  jail.write_text('import os, sys\nos.write(int(sys.argv[2]), b\'{"refused": "no namespaces"}\')\n')
  monkeypatch.setattr(sandbox, "_JAIL", jail)
  with pytest.raises(sandbox.SandboxUnavailable, match=r"no namespaces.*never run without"):
    run_here("print(1)")


def test_a_jail_that_says_nothing_counts_as_no_isolation(tmp_path, monkeypatch):
  jail = tmp_path / "jail.py"
  jail.write_text("print('started')\n")
  monkeypatch.setattr(sandbox, "_JAIL", jail)
  with pytest.raises(sandbox.SandboxUnavailable):
    run_here("print(1)")


@needs_sandbox
class TestSandbox:
  def test_a_plain_program_runs(self, run):
    result = run("print(input()[::-1])", stdin=b"abc\n")
    assert result == sandbox.Result("exit", 0, b"cba\n", b"")

  def test_it_may_use_its_working_folder(self, run):
    result = run("open('a','w').write('hi'); print(open('/box/a').read(), open('b').read())",
                 files={"b": "there"})  # fmt: skip
    assert result.stdout == b"hi there\n"

  def test_an_infinite_loop_is_ended(self, run):
    start = time.monotonic()
    assert run("import time; time.sleep(60)", sandbox.Limits(wall_s=1)).end == "timeout"
    assert time.monotonic() - start < 8
    busy = sandbox.Limits(wall_s=30, cpu_s=1)  # other programs may run beside it
    assert run("while True: pass", busy).code == -9

  def test_a_fork_bomb_goes_nowhere(self, run):
    before = len(os.listdir("/proc"))
    result = run(
      "import os, time\nmade = 0\n"
      "while made < 200:\n"  # a cap, should the limit fail
      "  try:\n    if os.fork() == 0:\n      time.sleep(30)\n      os._exit(0)\n    made += 1\n"
      "  except OSError:\n    print(made)\n    break\n"
    )
    assert result.end == "exit" and int(result.stdout) < 8
    time.sleep(0.3)
    assert len(os.listdir("/proc")) < before + 8

  def test_ten_gigabytes_are_not_to_be_had(self, run):
    result = run("x = bytearray(10 * 1024**3)")
    assert b"MemoryError" in result.stderr

  def test_memory_is_counted_over_all_processes(self, run):
    result = run(
      "import os, time\nfor _ in range(4):\n  if os.fork() == 0: break\n"
      "x = bytearray(80 << 20)\ntime.sleep(3)"
    )
    assert result.end == "memory"

  def test_nothing_outside_can_be_written(self, run):
    paths = ["/x", "/usr/x", "/usr/../x", "/etc/passwd", "/proc/sys/kernel/core_pattern",
             "/dev/sda", "/dev/x", sandbox.interpreter(), os.__file__]  # fmt: skip
    result = run(
      f"for path in {paths}:\n  try: open(path, 'r+' if path[-1] != 'x' else 'w')\n"
      "  except OSError: continue\n  print(path)"
    )
    assert result == sandbox.Result("exit", 0, b"", b"")

  def test_the_files_of_the_user_are_not_there(self, run):
    secret = pathlib.Path(__file__).resolve()
    assert run(f"open({str(secret)!r})").code == 1
    seen = run("import os; print(sorted(os.listdir('/')))").stdout.decode()
    assert "home" not in seen and "etc" not in seen and "var" not in seen

  def test_the_environment_is_not_passed_on(self, run):
    assert b"SECRET_TOKEN" not in run("import os; print(dict(os.environ))").stdout

  def test_disk_is_limited(self, run):
    assert run("open('a','wb').write(b'x' * (50 << 20))").code == 1
    many = "for i in range(20): open(str(i),'wb').write(b'x' * (1 << 20))"
    assert b"No space" in run(many).stderr

  def test_output_is_limited(self, run):
    result = run("while True: print('x' * 1000)")
    assert result.end == "output" and len(result.stdout) <= LIMITS.output_bytes

  def test_there_is_no_network(self, run):
    with socket.create_server(("127.0.0.1", 0)) as server:
      port = server.getsockname()[1]
      for host in ("127.0.0.1", "10.0.0.1", "1.1.1.1"):
        code = f"import socket; socket.create_connection(({host!r}, {port}), 1)"
        assert run(code).code == 1

  def test_the_parent_cannot_be_killed(self, run):
    result = run(
      "import os, signal, time\n"
      "for pid in (os.getppid(), 1, -1):\n"
      "  try: os.kill(pid, signal.SIGKILL)\n"
      "  except OSError: pass\n"
      "time.sleep(0.2)\nprint('still here')"
    )
    assert result.stdout == b"still here\n" and result.end == "exit"
    assert run(f"import os; os.kill({os.getpid()}, 9)").code == 1  # there is no such process inside

  def test_what_it_leaves_running_is_ended(self, run):
    marker = f"left_{os.getpid()}_{time.monotonic_ns()}"
    run(
      "import os, time\nif os.fork() == 0:\n  os.setsid()\n  if os.fork() == 0:\n"
      f"    time.sleep(60)\n    '{marker}'\n"
    )
    time.sleep(0.2)
    running = []
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
      try:
        running.append(path.read_bytes())
      except OSError:
        continue
    assert not any(marker.encode() in line for line in running)

  def test_no_rights_can_be_had(self, run):
    code = (
      "import ctypes, os\nc = ctypes.CDLL(None)\n"
      "print(c.unshare(0x10000000), c.unshare(0x00020000),"
      " c.mount(b'x', b'/box', b'tmpfs', 0, None), c.chroot(b'/box'))\n"
      "print([l for l in open('/proc/self/status') if l.startswith(('CapEff', 'NoNewPrivs'))])"
    )
    out = run(code).stdout.decode()
    assert out.splitlines()[0] == "-1 -1 -1 -1"
    assert "CapEff:\\t0000000000000000" in out and "NoNewPrivs:\\t1" in out

  def test_works_from_several_threads(self):
    results = []
    threads = [
      threading.Thread(target=lambda n=n: results.append(run_here(f"print({n})").stdout))
      for n in range(4)
    ]
    for thread in threads:
      thread.start()
    for thread in threads:
      thread.join()
    assert sorted(results) == [b"0\n", b"1\n", b"2\n", b"3\n"]

  def test_nothing_stays_behind(self, tmp_path, monkeypatch):
    monkeypatch.setattr(sandbox.tempfile, "tempdir", str(tmp_path))
    descriptors = len(os.listdir("/proc/self/fd"))
    run_here("open('a','w').write('x')")
    assert not list(tmp_path.iterdir())
    assert str(tmp_path) not in pathlib.Path("/proc/mounts").read_text()
    assert len(os.listdir("/proc/self/fd")) == descriptors


# Numbers on x86-64 and on arm64: what reaches other processes, keys and the kernel itself.
DENIED = {
  "ptrace": (101, 117), "process_vm_readv": (310, 270), "kcmp": (312, 272), "setns": (308, 268),
  "unshare": (272, 97), "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41),
  "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430),
  "mount_setattr": (442, 442), "open_by_handle_at": (304, 265), "bpf": (321, 280),
  "perf_event_open": (298, 241), "userfaultfd": (323, 282), "io_uring_setup": (425, 425),
  "memfd_create": (319, 279), "memfd_secret": (447, 447), "shmget": (29, 194),
  "msgget": (68, 186), "semget": (64, 190), "mq_open": (240, 180), "add_key": (248, 217),
  "request_key": (249, 218), "keyctl": (250, 219), "personality": (135, 92),
  "init_module": (175, 105), "finit_module": (313, 273), "kexec_load": (246, 104),
  "reboot": (169, 142), "swapon": (167, 224), "acct": (163, 89), "quotactl": (179, 60),
  "fanotify_init": (300, 262), "inotify_init1": (294, 26), "pidfd_open": (434, 434),
  "pidfd_getfd": (438, 438), "seccomp": (317, 277), "landlock_create_ruleset": (444, 444),
  "setresuid": (117, 147), "setgroups": (116, 159), "chroot": (161, 51), "syslog": (103, 116),
  "vmsplice": (278, 75), "tee": (276, 77), "splice": (275, 76), "execveat": (322, 281),
}  # fmt: skip


class TestWhatIsShown:
  def test_only_the_interpreter_and_its_libraries(self, run):
    result = run(
      "import os\n"
      "print(sorted(os.listdir('/')))\n"
      "for name in ('site-packages', 'dist-packages'):\n"
      "  folder = os.path.join(os.path.dirname(os.__file__), name)\n"
      "  if os.path.isdir(folder): print(os.listdir(folder))\n"
      "print([p for p in ('/usr/bin/env', '/bin/sh', '/usr/share', '/etc') if os.path.exists(p)])"
    )
    lines = result.stdout.decode().splitlines()
    assert set(lines[1:]) == {"[]"}, result
    assert not {"home", "root", "etc", "var", "sys"} & set(eval(lines[0])) - {
      sandbox.interpreter().split("/")[1]
    }

  def test_what_is_mounted_below_is_neither_read_nor_written(self, run):
    result = run(
      "import os, pathlib\n"
      "for root in ('/usr', os.path.dirname(os.__file__)):\n"
      "  for path in pathlib.Path(root).rglob('*secret*'):\n"
      "    if path.name == 'secret': print('seen', path)\n"
      "covered = os.path.join(os.path.dirname(os.__file__), 'turtledemo')\n"
      "if os.path.isdir(covered):\n"
      "  try: open(covered + '/x', 'w'); print('written')\n"
      "  except OSError: pass\n"
    )
    assert result == sandbox.Result("exit", 0, b"", b"")

  def test_no_mount_but_the_working_folder_can_be_written(self, run):
    found = run("print(open('/proc/self/mounts').read())").stdout.decode().splitlines()
    writable = [line.split()[1] for line in found if line and "rw" in line.split()[3].split(",")]
    assert sorted(writable) == ["/box", "/proc"]

  def test_ordinary_programs_find_what_they_need(self, run):
    result = run(
      "import asyncio, bz2, ctypes, decimal, hashlib, json, lzma, socket, sqlite3, ssl, zlib\n"
      "import subprocess, sys, tempfile, threading, time\n"
      "async def f(): await asyncio.sleep(0); return 'a'\n"
      "print(asyncio.run(f()))\n"
      "command = [sys.executable, '-S', '-c', 'print(5)']\n"
      "print(subprocess.run(command, capture_output=True).stdout)\n"
      "t = threading.Thread(target=print, args=('t',)); t.start(); t.join()\n"
      "print(tempfile.TemporaryFile().write(b'abc'), sys.stdin.isatty(), time.time() > 0)"
    )
    assert result.stdout == b"a\nb'5\\n'\nt\n3 False True\n", result


class TestMemory:
  """None is hidden from the count: not in files, not in mappings that no process shows."""

  def test_it_cannot_lie_outside_of_processes(self, run):
    ways = [
      "os.memfd_create('x')",
      "mmap.mmap(-1, 1 << 20)",
      "mmap.mmap(os.open('/dev/zero', os.O_RDWR), 1 << 20)",
      "mmap.mmap(-1, 1 << 21, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x40000)",
      "fcntl.fcntl(os.pipe()[0], 1031, 1 << 20)",
      "open('/dev/shm/x', 'w')",
    ]
    result = run(
      f"import fcntl, mmap, os\nfor way in {ways}:\n  try: eval(way)\n"
      "  except OSError: continue\n  print(way)"
    )
    assert result == sandbox.Result("exit", 0, b"", b"")

  def test_it_is_counted_where_the_first_thread_has_ended(self, run):
    result = run(
      "import ctypes, os, threading, time\n"
      "def take():\n  time.sleep(0.5)\n  kept = bytearray(80 << 20)\n  time.sleep(4)\n"
      "for _ in range(6):\n"
      "  if os.fork() == 0: break\n"
      "else:\n  time.sleep(6)\n  os._exit(0)\n"
      "threading.Thread(target=take).start()\n"
      "ctypes.CDLL(None).syscall({'x86_64': 60, 'aarch64': 93}[os.uname().machine], 0)",
      sandbox.Limits(wall_s=10, cpu_s=2, memory_mib=400),
    )
    assert result.end == "memory"


class TestSystemCalls:
  def test_what_is_not_on_the_list_is_denied(self, run):
    column = ["x86_64", "aarch64"].index(platform.machine())
    numbers = {name: both[column] for name, both in DENIED.items()}
    result = run(
      "import ctypes, errno\nlibc = ctypes.CDLL(None, use_errno=True)\n"
      f"for name, number in {numbers}.items():\n"
      "  if libc.syscall(number, 0, 0, 0, 0, 0) != -1 or ctypes.get_errno() != errno.EPERM:\n"
      "    print(name, ctypes.get_errno())"
    )
    assert result == sandbox.Result("exit", 0, b"", b"")

  def test_sockets_reach_nothing_but_the_program_itself(self, run):
    """Internet, PF_KEY, netlink, packets, the kernel's cryptography, the host of a machine."""
    result = run(
      "import socket\nsocket.socketpair()\n"
      "for family in (2, 10, 15, 16, 17, 38, 40):\n  for kind in (1, 2, 3, 5):\n"
      "    try: socket.socket(family, kind); print(family, kind)\n"
      "    except PermissionError: pass"
    )
    assert result == sandbox.Result("exit", 0, b"", b"")

  def test_no_namespace_comes_with_a_new_process(self, run):
    result = run(
      "import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\n"
      "number = {'x86_64': 56, 'aarch64': 220}[os.uname().machine]\n"
      "for flag in (0x20000, 0x2000000, 0x10000000, 0x20000000, 0x40000000):\n"
      "  if libc.syscall(number, flag | 17, 0, 0, 0, 0) != -1: print(flag)\n"
      "print(libc.syscall(435, 0, 0), ctypes.get_errno())"
    )
    assert result.stdout == b"-1 38\n"

  def test_the_process_that_counts_keeps_its_limits(self, run):
    result = run(
      "import resource\nfor pid in (1, 2):\n"
      "  try: resource.prlimit(pid, resource.RLIMIT_NOFILE, (0, 0)); print(pid)\n"
      "  except OSError: pass"
    )
    assert result.stdout == b""

  def test_keys_of_the_user_are_not_listed(self, run):
    code = "import os\nfor n in ('keys', 'key-users'):\n  p = f'/proc/{n}'\n"
    result = run(code + "  if os.path.exists(p): print(open(p).read())")
    assert result.stdout.strip() == b"" and result.code == 0

  @pytest.mark.skipif(platform.machine() != "x86_64", reason="other ways in are of x86-64")
  @pytest.mark.parametrize(
    "code",
    [
      "libc.syscall(0x40000000 + 39)",  # the x32 call of getpid
      # mov eax, 20; int 0x80; ret: the 32-bit call of getpid
      "page = mmap.mmap(-1, 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, 7)\n"
      "page.write(bytes.fromhex('b814000000cd80c3'))\n"
      "at = ctypes.addressof(ctypes.c_char.from_buffer(page))\n"
      "ctypes.CFUNCTYPE(ctypes.c_int)(at)()",
    ],
  )
  def test_calls_of_another_architecture_end_the_program(self, run, code):
    result = run(f"import ctypes, mmap\nlibc = ctypes.CDLL(None)\n{code}\nprint('went on')")
    assert (result.code, result.stdout) == (-31, b"")


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_filter_fits_what_the_kernel_takes(machine):
  instructions = seccomp.program(machine)
  assert len(instructions) % 8 == 0 and 200 * 8 < len(instructions) <= 4096 * 8
  with pytest.raises(KeyError):
    seccomp.program("riscv64")


def test_a_machine_without_a_filter_runs_nothing(monkeypatch):
  monkeypatch.setattr(sandbox.platform, "machine", lambda: "riscv64")
  with pytest.raises(sandbox.SandboxUnavailable, match="no isolation on linux riscv64"):
    run_here("print(1)")


class TestControlGroup:
  @pytest.fixture
  def parent(self, tmp_path, monkeypatch):
    monkeypatch.setattr(cgroup, "parent_folder", lambda: tmp_path)
    return tmp_path

  def test_it_limits_memory_and_is_removed(self, parent, monkeypatch):
    removed = []
    monkeypatch.setattr(cgroup, "_remove", removed.append)
    with cgroup.limited(1 << 20, 5) as group:
      assert (group.path / "memory.max").read_text() == str(1 << 20)
      assert (group.path / "memory.swap.max").read_text() == "0"
      assert (group.path / "pids.max").read_text() == "5"
      assert not group.ran_out()
      (group.path / "memory.events").write_text("low 0\noom 1\noom_kill 2\n")
      assert group.ran_out()
    assert removed == [group.path]

  def test_where_none_can_be_made_there_is_none(self, parent, monkeypatch):
    monkeypatch.setattr(cgroup, "parent_folder", lambda: parent / "missing")
    with cgroup.limited(1 << 20, 5) as group:
      assert group is None
    monkeypatch.setattr(cgroup, "parent_folder", lambda: None)
    with cgroup.limited(1 << 20, 5) as group:
      assert group is None

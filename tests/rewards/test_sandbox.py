"""The sandbox tried with the programs it is there for. Limits are low, so that a hole would be
noticed without harm to the machine the tests run on."""

import os
import pathlib
import socket
import threading
import time

import pytest

from lhrm_jax.rewards import sandbox

LIMITS = sandbox.Limits(wall_s=4, cpu_s=1, memory_mib=200, processes=8, disk_mib=4)


def run(code: str, limits: sandbox.Limits = LIMITS, **kwargs) -> sandbox.Result:
  command = [sandbox.interpreter(), "-I", "-S", "-c", code]
  return sandbox.run(command, limits=limits, **kwargs)


needs_sandbox = pytest.mark.skipif(
  sandbox.why_unavailable() is not None, reason=str(sandbox.why_unavailable())
)


def test_without_isolation_nothing_is_run(tmp_path, monkeypatch):
  jail = tmp_path / "jail.py"
  jail.write_text('import os, sys\nos.write(int(sys.argv[2]), b\'{"refused": "no namespaces"}\')\n')
  monkeypatch.setattr(sandbox, "_JAIL", jail)
  with pytest.raises(sandbox.SandboxUnavailable, match=r"no namespaces.*never run without"):
    run("print(1)")


def test_a_jail_that_says_nothing_counts_as_no_isolation(tmp_path, monkeypatch):
  jail = tmp_path / "jail.py"
  jail.write_text("print('started')\n")
  monkeypatch.setattr(sandbox, "_JAIL", jail)
  with pytest.raises(sandbox.SandboxUnavailable):
    run("print(1)")


@needs_sandbox
class TestSandbox:
  def test_a_plain_program_runs(self):
    result = run("print(input()[::-1])", stdin=b"abc\n")
    assert result == sandbox.Result("exit", 0, b"cba\n", b"")

  def test_it_may_use_its_working_folder(self):
    result = run("open('a','w').write('hi'); print(open('/box/a').read(), open('b').read())",
                 files={"b": "there"})  # fmt: skip
    assert result.stdout == b"hi there\n"

  def test_an_infinite_loop_is_ended(self):
    start = time.monotonic()
    assert run("while True: pass").code == -9  # CPU seconds
    assert run("import time; time.sleep(60)", sandbox.Limits(wall_s=1)).end == "timeout"
    assert time.monotonic() - start < 8

  def test_a_fork_bomb_goes_nowhere(self):
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

  def test_ten_gigabytes_are_not_to_be_had(self):
    result = run("x = bytearray(10 * 1024**3)")
    assert b"MemoryError" in result.stderr

  def test_memory_is_counted_over_all_processes(self):
    result = run(
      "import os, time\nfor _ in range(4):\n  if os.fork() == 0: break\n"
      "x = bytearray(80 << 20)\ntime.sleep(3)"
    )
    assert result.end == "memory"

  @pytest.mark.parametrize(
    "path",
    ["/x", "/usr/x", "/usr/../x", "/etc/passwd", "/proc/sys/kernel/core_pattern", "/dev/sda"],
  )
  def test_nothing_outside_can_be_written(self, path):
    assert run(f"open({path!r}, 'w').write('x')").code == 1

  def test_the_files_of_the_user_are_not_there(self):
    secret = pathlib.Path(__file__).resolve()
    assert run(f"open({str(secret)!r})").code == 1
    seen = run("import os; print(sorted(os.listdir('/')))").stdout.decode()
    assert "home" not in seen and "etc" not in seen and "var" not in seen

  def test_the_environment_is_not_passed_on(self, monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "abc")
    assert b"abc" not in run("import os; print(dict(os.environ))").stdout

  def test_disk_is_limited(self):
    assert run("open('a','wb').write(b'x' * (50 << 20))").code == 1
    many = "for i in range(20): open(str(i),'wb').write(b'x' * (1 << 20))"
    assert b"No space" in run(many).stderr

  def test_output_is_limited(self):
    result = run("while True: print('x' * 1000)")
    assert result.end == "output" and len(result.stdout) <= LIMITS.output_bytes

  def test_there_is_no_network(self):
    with socket.create_server(("127.0.0.1", 0)) as server:
      port = server.getsockname()[1]
      for host in ("127.0.0.1", "10.0.0.1", "1.1.1.1"):
        code = f"import socket; socket.create_connection(({host!r}, {port}), 1)"
        assert run(code).code == 1

  def test_the_parent_cannot_be_killed(self):
    result = run(
      "import os, signal, time\n"
      "for pid in (os.getppid(), 1, -1):\n"
      "  try: os.kill(pid, signal.SIGKILL)\n"
      "  except OSError: pass\n"
      "time.sleep(0.2)\nprint('still here')"
    )
    assert result.stdout == b"still here\n" and result.end == "exit"
    assert run(f"import os; os.kill({os.getpid()}, 9)").code == 1  # there is no such process inside

  def test_what_it_leaves_running_is_ended(self):
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

  def test_no_rights_can_be_had(self):
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
      threading.Thread(target=lambda n=n: results.append(run(f"print({n})").stdout))
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
    run("open('a','w').write('x')")
    assert not list(tmp_path.iterdir())
    assert str(tmp_path) not in pathlib.Path("/proc/mounts").read_text()
    assert len(os.listdir("/proc/self/fd")) == descriptors

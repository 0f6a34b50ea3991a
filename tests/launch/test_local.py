"""The launcher on this machine, with processes that need no JAX."""

import sys

import pytest

from launch import local


def test_the_status_of_a_job_is_that_of_what_failed(capfd):
  script = "import os, sys, time; i = int(os.environ['JAX_PROCESS_ID']); print('hello', i);"
  assert local.main(["--processes", "3", "--", sys.executable, "-c", script]) == 0
  out = capfd.readouterr().out
  assert all(f"[{i}] hello {i}\n" in out for i in range(3))

  failing = script + " i == 2 and sys.exit(7); time.sleep(60)"
  assert local.main(["--processes", "3", "--", sys.executable, "-c", failing]) == 7
  assert "Process 2 failed with status 7" in capfd.readouterr().err


def test_a_killed_process_is_reported_as_a_shell_would(capfd):
  script = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
  assert local.main(["--processes", "1", "--", sys.executable, "-c", script]) == 128 + 9


def test_a_dry_run_starts_nothing(capfd):
  assert local.main(["--processes", "2", "--devices", "4", "--dry-run", "--", "false"]) == 0
  lines = capfd.readouterr().out.splitlines()
  assert len(lines) == 2
  assert "JAX_PROCESS_ID=1" in lines[1] and lines[1].endswith(" false")
  assert "--xla_force_host_platform_device_count=4" in lines[1]


@pytest.mark.parametrize(
  "option", ["--processes=0", "--processes=-1", "--devices=0", "--devices=-2"]
)
def test_numbers_that_cannot_be_are_refused(capfd, option):
  with pytest.raises(SystemExit):
    local.main([option, "--", "true"])
  assert "from 1 to 1024" in capfd.readouterr().err


def test_a_command_that_is_not_there_is_named(capfd):
  with pytest.raises(SystemExit):
    local.main(["--", "no-such-command-here"])
  assert "'no-such-command-here' is not a command on this machine" in capfd.readouterr().err

"""The launcher of TPU VMs, against a `gcloud` that keeps one worker in a folder."""

import pathlib
import stat
import subprocess

import pytest

from launch import tpu_vm

# State and calls lie beside it; what goes to the worker by ssh runs here, in a home of its own.
GCLOUD = r"""#!/usr/bin/env bash
there=$(dirname "$0")
verb=$4
case $verb in
  ssh)
    script=${!#}
    script=${script#--command=}
    case $script in
      *uv\ venv*)
        verb=install
        mkdir -p ~/lhrm_jax/.venv/bin
        touch ~/lhrm_jax/.venv/bin/activate ;;
      *setsid*) verb=start ;;
      *) verb=follow ;;
    esac ;;
esac
echo "$verb" >> "$there/calls"
case $verb in
  create) echo ACTIVE > "$there/state" ;;
  describe) cat "$there/state" ;;
  delete) rm "$there/state" ;;
  scp) cp "$5" "$there" ;;
  start | follow) bash -c "$script" ;;
esac
"""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> pathlib.Path:
  folder = tmp_path_factory.mktemp("checkout")
  who = ["-c", "user.name=n", "-c", "user.email=e"]
  for command in (["init", "--quiet"], [*who, "commit", "--quiet", "--allow-empty", "-m", "first"]):
    subprocess.run(["git", "-C", str(folder), *command], check=True)
  return folder


@pytest.fixture
def cloud(checkout, tmp_path, monkeypatch) -> pathlib.Path:
  gcloud = tmp_path / "gcloud"
  gcloud.write_text(GCLOUD)
  gcloud.chmod(gcloud.stat().st_mode | stat.S_IXUSR)
  (tmp_path / "home").mkdir()
  monkeypatch.setenv("HOME", str(tmp_path / "home"))
  monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
  monkeypatch.setattr(tpu_vm, "ROOT", checkout)
  monkeypatch.setattr(tpu_vm, "_POLL_SECONDS", 0.01)
  return tmp_path


@pytest.fixture
def quick(monkeypatch):
  """Follows by the status alone: `tail` looks once a second whether the job is still there."""
  wait = "until [ -e ~/job/status ]; do sleep 0.02; done; cat ~/job/log\n"
  monkeypatch.setattr(tpu_vm, "FOLLOW", wait + tpu_vm.FOLLOW.splitlines()[-1])


def run(job: str, *options: str) -> int:
  where = ["--zone", "z", "--accelerator", "v6e-8", *options]
  return tpu_vm.main(["run", "job", *where, "--", "bash", "-c", job])


def calls(cloud: pathlib.Path) -> list[str]:
  return [call for call in (cloud / "calls").read_text().split() if call != "describe"]


def test_a_job_runs_and_its_slices_are_given_back(cloud, capfd):
  assert run("echo 'hello from' \"$PWD\"") == 0
  assert f"hello from {cloud}/home/lhrm_jax" in capfd.readouterr().out
  assert calls(cloud) == ["create", "scp", "install", "start", "follow", "delete"]
  assert (cloud / "lhrm_jax.bundle").read_bytes().startswith(b"# v2 git bundle")


def test_a_job_that_fails_ends_with_its_status(cloud, quick):
  assert run("exit 3", "--keep") == 3
  assert calls(cloud) == ["create", "scp", "install", "start", "follow"]
  assert (cloud / "state").exists()


def test_a_job_that_was_asked_to_end_goes_on_where_it_is(cloud, quick):
  assert run(f"[ -e {cloud}/again ] || {{ touch {cloud}/again; exit 75; }}") == 0
  again = ["scp", "install", "start", "follow"]
  assert calls(cloud) == ["create", *again, *again, "delete"]


def test_slices_that_were_taken_away_are_made_anew(cloud, quick):
  preempted = f"touch {cloud}/again; echo SUSPENDED > {cloud}/state; exit 1"
  assert run(f"[ -e {cloud}/again ] || {{ {preempted}; }}") == 0
  again = ["create", "scp", "install", "start", "follow"]
  assert calls(cloud) == [*again, "delete", *again, "delete"]


def test_a_worker_that_went_down_with_its_job_counts_as_preempted(cloud):
  """It never wrote a status."""
  killed = f"touch {cloud}/again; kill -9 $PPID"
  assert run(f"[ -e {cloud}/again ] || {{ {killed}; }}") == 0
  assert calls(cloud).count("start") == 2


def test_a_second_launcher_attaches_to_a_running_job(cloud, quick, capfd):
  (cloud / "state").write_text("ACTIVE")
  job = tpu_vm.START.replace("COMMAND", f"echo once >> {cloud}/ran; sleep 1; echo 'it goes on'")
  tpu_vm.Slices("job", "z", dry_run=False).on_all_workers(job)
  assert run(f"echo never >> {cloud}/ran") == 0
  assert (cloud / "ran").read_text() == "once\n"
  assert "it goes on" in capfd.readouterr().out


def test_a_broken_connection_is_made_again(cloud, quick):
  gcloud = (cloud / "gcloud").read_text()
  broken = f"follow) if [ ! -e {cloud}/broken ]; then touch {cloud}/broken; exit 255; fi ;;&"
  (cloud / "gcloud").write_text(
    gcloud.replace("  start | follow)", f"  {broken}\n  start | follow)")
  )
  assert run("exit 4") == 4
  once = ["create", "scp", "install", "start"]
  assert calls(cloud) == [*once, "follow", "follow", "delete"]


def test_a_request_that_is_refused_ends_the_launcher(cloud, capfd):
  (cloud / "gcloud").write_text("#!/bin/sh\nexit 1\n")
  assert run("true") == 2
  assert "create" in capfd.readouterr().err


@pytest.mark.parametrize(
  ("options", "expected"),
  [
    (["--accelerator", "v5litepod-16"], [
      "gcloud compute tpus queued-resources create job --zone=z --accelerator-type=v5litepod-16 "
      "--runtime-version=v2-alpha-tpuv5-lite --node-id=job",
    ]),
    (["--accelerator", "v5p-128", "--slices", "2", "--spot"], [
      "gcloud compute tpus queued-resources create job --zone=z --accelerator-type=v5p-128 "
      "--runtime-version=v2-alpha-tpuv5 --node-count=2 --node-prefix=job --spot",
    ]),
  ],
)  # fmt: skip
def test_a_dry_run_prints_the_commands(cloud, capfd, options, expected):
  command = ["--", "python", "-m", "experiments.hgpo", "--config.reward=a b", "--workdir", "/mnt/x"]
  arguments = ["run", "job", "--zone", "z", *options, "--setup", "sudo mount it", "--dry-run"]
  assert tpu_vm.main([*arguments, *command]) == 0
  out = capfd.readouterr().out
  described = "gcloud compute tpus queued-resources describe job --zone=z"
  lines = [x for x in out.splitlines() if x.startswith(("gcl", "git ")) and described not in x]
  to_all = "--zone=z --node=all --worker=all --batch-size=all"
  ssh = f"gcloud compute tpus queued-resources ssh job {to_all} '--command="
  assert lines[0] == expected[0]
  assert lines[1] == f"git -C {tpu_vm.ROOT} bundle create --quiet lhrm_jax.bundle HEAD"
  assert lines[2] == f"gcloud compute tpus queued-resources scp lhrm_jax.bundle job: {to_all}"
  assert [line.startswith(ssh) for line in lines[3:-1]] == [True, False, True, True]
  assert lines[-1].endswith("queued-resources delete job --zone=z --force --quiet")
  assert "\nsudo mount it'\n" in out
  assert "python -m experiments.hgpo '\"'\"'--config.reward=a b'\"'\"' --workdir /mnt/x\n" in out
  assert not (cloud / "calls").exists()


def test_an_accelerator_that_is_not_known_is_refused(capfd):
  with pytest.raises(SystemExit):
    tpu_vm.main(["run", "job", "--zone", "z", "--accelerator", "v5e-16", "--", "true"])
  assert "v5litepod-16" in capfd.readouterr().err


@pytest.mark.parametrize("lines", ["END", "END\nEND_", "COMMAND", "a'b\nEND\n\"$HOME `id`"])
def test_no_line_of_an_argument_ends_the_script_it_stands_in(cloud, tmp_path, lines):
  """What follows that line would run on the worker before its job, or instead."""
  echo = f'printf "%s" "$1" > {cloud}/got'
  assert tpu_vm.main([
    "run", "job", "--zone", "z", "--accelerator", "v5p-8", "--", "bash", "-c", echo, "-", lines,
  ]) == 0  # fmt: skip
  assert (cloud / "got").read_text() == lines
  script = tpu_vm.start_script(["echo", lines])
  assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0


@pytest.mark.parametrize(
  ("name", "options", "message"),
  [
    ("a b", [], "lower-case letters"),
    ("Job", [], "lower-case letters"),
    ("a;id", [], "lower-case letters"),
    ("job", ["--zone", "z; id"], "such as us-east5-a"),
    ("job", ["--slices", "0"], "--slices=0: at least 1"),
    ("job", ["--slices=-2"], "--slices=-2: at least 1"),
    ("job", ["--accelerator", "v5p"], "with a size"),
    ("job", ["--accelerator", "v5p-²"], "with a size"),
    ("job", ["--accelerator", "v5p-0"], "with a size"),
  ],
)
def test_what_no_slices_can_have_is_refused(cloud, name, options, message, capfd):
  usual = ["--zone", "z", "--accelerator", "v5p-8"]
  with pytest.raises(SystemExit):
    tpu_vm.main(["run", name, *usual, *options, "--", "true"])
  assert message in capfd.readouterr().err and not (cloud / "calls").exists()


def test_a_machine_without_gcloud_is_told_so(monkeypatch, tmp_path, capfd):
  monkeypatch.setenv("PATH", str(tmp_path))
  assert tpu_vm.main(["run", "job", "--zone", "z", "--accelerator", "v5p-8", "--", "true"]) == 2
  assert capfd.readouterr().err == "error: gcloud is not installed on this machine\n"

"""The real command as processes that share no disk, with a real S3 server: kills and outages."""

import shutil
import signal
import subprocess
import sys
import time
import urllib.request

import fsspec
import pytest

from launch.local import free_port
from tests.chaos.pod import Pod, arrays_of
from tests.runs import test_policy_settings


@pytest.fixture(scope="module")
def server():
  """A server of S3 in a process of its own, so that it can be made to stall."""
  port = free_port()
  process = subprocess.Popen(
    [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
  )  # fmt: skip
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    patch.setenv("AWS_ACCESS_KEY_ID", "test")
    patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    deadline = time.monotonic() + 60
    while True:
      try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/moto-api/", timeout=1)
        break
      except OSError:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.2)
    fsspec.filesystem("s3", skip_instance_cache=True).mkdir("pods")
    yield process
  process.kill()
  process.wait()


@pytest.fixture(scope="module")
def start(server):
  """Starts jobs, which do not outlive the tests."""
  started = []

  def of(*arguments):
    started.append(Pod(*arguments))
    return started[-1]

  yield of
  for pod in started:
    pod.kill()


@pytest.fixture(scope="module")
def undisturbed(start, tmp_path_factory):
  """The arrays and metrics that two processes end with."""
  pod = start("s3://pods/undisturbed", tmp_path_factory.mktemp("undisturbed"), 2)
  pod.finish()
  return arrays_of(pod.url, 12), losses(pod)


def losses(pod):
  return [(row["step"], row["loss"]) for row in pod.metrics if "loss" in row]


@pytest.mark.slow
def test_a_process_killed_in_mid_save_and_all_disks_lost_resumes_bit_for_bit(
  start, undisturbed, tmp_path
):
  for kills in range(3):
    pod = start("s3://pods/killed", tmp_path, 2)
    pod.until_uploading(least=3 * (kills + 1))
    pod.workers[kills % 2].send_signal(signal.SIGKILL)
    pod.kill()
    for disk in tmp_path.glob("disk*"):
      shutil.rmtree(disk)
  pod = start("s3://pods/killed", tmp_path, 2)
  pod.finish()
  assert (arrays_of(pod.url, 12), losses(pod)) == undisturbed


@pytest.mark.slow
def test_a_server_that_stalls_for_a_while_costs_nothing_but_time(
  start, server, undisturbed, tmp_path
):
  pod = start("s3://pods/stalled", tmp_path, 2)
  pod.until_uploading(least=3)
  server.send_signal(signal.SIGSTOP)
  time.sleep(8)
  server.send_signal(signal.SIGCONT)
  pod.finish()
  assert (arrays_of(pod.url, 12), losses(pod)) == undisturbed


@pytest.mark.slow
def test_a_run_resumes_on_another_number_of_hosts(start, server, undisturbed, tmp_path):
  pod = start("s3://pods/hosts", tmp_path, 2)
  pod.until_uploading(least=6)
  pod.kill()
  for processes, disks in ((4, "four"), (1, "one")):
    (tmp_path / disks).mkdir()
    pod = start("s3://pods/hosts", tmp_path / disks, processes)
    if processes == 4:
      pod.until_uploading(least=9)
      pod.kill()
  pod.finish()
  found, wanted = dict(losses(pod)), dict(undisturbed[1])
  assert found == pytest.approx(wanted, rel=1e-4)


@pytest.mark.slow
def test_adapters_and_their_policy_are_in_the_bucket(start, tmp_path):
  """Two processes begin, one of them dies in mid-save, all disks are lost, one process ends it."""
  model = tmp_path / "start"
  test_policy_settings.write_run(model, test_policy_settings.small())
  adapted = (f"--config.init_from={model}", "--config.policy.lora_rank=2",
             "--config.hgpo.steps=6", "--config.hgpo.prompts_per_step=4",
             "--config.checkpoint.every=1")  # fmt: skip
  for processes, least in ((2, 3), (1, 0)):
    pod = start("s3://pods/adapted", tmp_path, processes, *adapted)
    if least:
      pod.until_uploading(least, stage="hgpo")
      pod.workers[1].send_signal(signal.SIGKILL)
      pod.kill()
      for disk in tmp_path.glob("disk*"):
        shutil.rmtree(disk)
      model.rename(model.with_name("gone"))  # the run holds it
  pod.finish()
  found = arrays_of(pod.url, 6, "hgpo")
  assert any("lora_b" in name for name in found) and not any("kernel" in name for name in found)
  assert "Resuming" in pod.log()

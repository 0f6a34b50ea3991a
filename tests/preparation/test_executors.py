"""Executors of clusters: SLURM through stand-ins for its commands, Ray where it is installed."""

import json
import os
import sys

import pytest

pytest.importorskip("datatrove")

from experiments import prepare_data
from lhrm_jax.config import replaced
from lhrm_jax.errors import UserError
from lhrm_jax.preparation import pipeline
from tests.preparation import mixture
from tests.preparation.test_pipeline import shards_of

# Runs the tasks of a job at once, as the array that its script asks for.
SBATCH = """
import os, pathlib, re, subprocess, sys
here = pathlib.Path(__file__).parent
script = pathlib.Path(sys.argv[-1]).read_text()
with open(here / "calls", "a") as calls:
  print(*sys.argv[1:-1], *re.findall("job-name=.*", script), file=calls)
job = sum(1 for _ in open(here / "calls"))
if "merge_stats" not in script:
  (last,) = re.findall("#SBATCH --array=0-([0-9]+)", script)
  for index in range(int(last) + 1):
    given = {"SLURM_ARRAY_TASK_ID": str(index), "SLURM_JOB_ID": str(job), "SLURM_NODELIST": "here"}
    done = subprocess.run(["bash"], input=script, text=True, capture_output=True,
                          env={**os.environ, **given})
    assert done.returncode == 0, done.stderr
print("Submitted batch job", job)
"""
STAND_INS = {
  "sbatch": SBATCH,
  "srun": "import os, sys; os.execvp(sys.argv[4], sys.argv[4:])",  # srun -l -n 1 COMMAND
  "scontrol": "print('here')",
  "squeue": """
import pathlib, sys
queued = pathlib.Path(__file__).with_name("queued")
if not queued.exists():
  sys.exit("slurm_load_jobs error: Invalid job id specified")
print(sys.argv[-1] if sys.argv[-1] in queued.read_text().split() else "")
""",
}


@pytest.fixture
def slurm(tmp_path, monkeypatch):
  """The folder of the stand-ins, first in the path."""
  folder = tmp_path / "bin"
  folder.mkdir()
  for name, source in STAND_INS.items():
    file = folder / name
    file.write_text(f"#!{sys.executable}\n{source}")
    file.chmod(0o755)
  monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
  return folder


def config_of(folder, executor, **options):
  changes = {"prepare.executor": executor, "prepare.executor_options": options}
  return replaced(mixture.config_of(folder), changes)


@pytest.mark.slow
def test_slurm_runs_every_step_after_the_one_before_and_gives_the_same_shards(
  tmp_path, slurm, capsys, monkeypatch
):
  mixture.write(tmp_path)
  prepare_data.job(mixture.config_of(tmp_path), str(tmp_path / "local"), str(tmp_path / "work"))
  config = config_of(tmp_path, "slurm", time="1:00:00", partition="cpu", tasks_per_job=16)
  # A job finds its commands through the environment that is activated in it.
  monkeypatch.setenv("PATH", f"{slurm}{os.pathsep}/usr/bin{os.pathsep}/bin")
  where = str(tmp_path / "out"), str(tmp_path / "jobs")
  prepare_data.job(config, *where)
  assert shards_of(tmp_path / "out") == shards_of(tmp_path / "local")
  assert "Submitted jobs" in capsys.readouterr().out
  calls = [c for c in (slurm / "calls").read_text().splitlines() if "RUN_OFFSET" in c]
  jobs = json.loads((tmp_path / "jobs" / "submitted.json").read_text())
  names = [call.rpartition("job-name=")[2] for call in calls]
  assert names[0] == "prepare-read" and names[-1] == "prepare-index" and len(names) == len(jobs)
  for call, before in zip(calls[1:], jobs, strict=False):
    assert f"--dependency=afterok:{before} " in call
  prepare_data.job(config, *where)  # all is done: nothing is submitted
  assert "Prepared data" in capsys.readouterr().out


def test_jobs_in_the_queue_are_not_submitted_twice(tmp_path, slurm, monkeypatch):
  mixture.write(tmp_path)
  config = config_of(tmp_path, "slurm", time="1:00:00", partition="cpu")
  sbatch, where = slurm / "sbatch", (str(tmp_path / "out"), str(tmp_path / "jobs"))
  sbatch.write_text(
    "#!/bin/sh\nfor script; do :; done\n"
    'grep -q kill-on-invalid-dep=yes "$script" && echo Submitted batch job 12'
  )
  prepare_data.job(config, *where)
  (slurm / "queued").write_text("12")
  for again in (config, mixture.config_of(tmp_path)):  # nor does anything run beside them
    with pytest.raises(UserError, match="in SLURM's queue: 12"):
      prepare_data.job(again, *where)
  (slurm / "squeue").write_text("#!/bin/sh\necho Socket timed out >&2; exit 1")
  with pytest.raises(UserError, match="in SLURM's queue: 12"):
    prepare_data.job(config, *where)
  (slurm / "squeue").write_text("#!/bin/sh\necho Invalid job id specified >&2; exit 1")
  prepare_data.job(config, *where)
  sbatch.write_text("#!/bin/sh\necho invalid partition specified: gpuu >&2; exit 1")
  with pytest.raises(UserError, match=r"sbatch ended with status 1.*executor_options"):
    prepare_data.job(config, *where)
  sbatch.unlink()
  with pytest.raises(UserError, match="login node"):
    prepare_data.job(config, *where)


def test_tasks_that_failed_without_a_word_end_the_preparation(tmp_path, monkeypatch):
  """Ray's executor only logs that they did; the next step would begin with what there is."""
  mixture.write(tmp_path)
  monkeypatch.setattr(pipeline._Local, "run", lambda self: None)
  with pytest.raises(UserError, match=r"3 of 3 tasks of read did not end; .*logs/read/logs says"):
    prepare_data.job(mixture.config_of(tmp_path), str(tmp_path / "out"), str(tmp_path / "work"))


@pytest.mark.slow
def test_ray_gives_the_same_shards(tmp_path):
  ray = pytest.importorskip("ray")
  mixture.write(tmp_path)
  prepare_data.job(mixture.config_of(tmp_path), str(tmp_path / "local"), str(tmp_path / "work"))
  ray.init(num_cpus=4, include_dashboard=False)
  try:
    config = config_of(tmp_path, "ray", mem_per_cpu_gb=0.25, tasks_per_job=16)
    prepare_data.job(config, str(tmp_path / "out"), str(tmp_path / "jobs"))
  finally:
    ray.shutdown()
  assert shards_of(tmp_path / "out") == shards_of(tmp_path / "local")

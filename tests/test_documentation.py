"""Every command of README and docs is one that works: known flags and keys, files that exist.

What takes long or needs a network or a pod is taken up to the point where it would go out.
"""

import importlib.util
import pathlib
import re
import shlex
import subprocess
import sys
import tomllib

import pytest
from absl import flags

from benchmarks import results
from experiments.compare import JOBS
from lhrm_jax.data import tasks
from lhrm_jax.runs import command_line
from lhrm_jax.runs.compare import of_config
from lhrm_jax.runs.config import from_config_dict

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# Stand-ins for the words in capitals.
WORDS = {
  "C": "experiments/configs/arithmetic.py", "W": "w", "RUN": "runs/x", "SMALL": "runs/y",
  "DIR": "out", "DUMP": "d",
  "NAME": "run1", "IMAGE": "image:1",
  "CASES.jsonl": "cases.jsonl", "FILE": "plan.json",
  "JOB": "python -m experiments.hft --config experiments/configs/arithmetic.py --workdir w",
}  # fmt: skip
PROGRAMS = (
  r"(?:python|make|pip|vllm|curl|xpk|sbatch|sky|docker|tensorboard|\.venv/bin/\w+|\. \.venv)"
)
ARGUMENTS = {"sample": "QUESTION", "route": "QUESTION", "replay": "DUMP", "report": "RUN"}


def commands(page: pathlib.Path) -> list[str]:
  """The shell commands of a page: in blocks, and between backticks."""
  text = page.read_text(encoding="utf-8").replace("\\\n", " ")
  found, fence, variables = [], None, {}
  for line in text.splitlines():
    if line.startswith("```"):
      fence = None if fence is not None else line.removeprefix("```")
    elif fence in ("bash", "") or (fence is None and line.startswith("    ")):
      line = line.strip()
      if assigned := re.fullmatch(r"(\w+)=(\S+)", line):
        variables[assigned[1]] = assigned[2]
      for name, value in variables.items():
        line = line.replace(f"${name}", value)
      found += [part.strip() for part in line.split("&&")]
    elif fence is None:
      found += re.findall(r"(?<!`)`([^`]+)`(?!`)", line)
  pattern = re.compile(rf"(?:\w+=\S+ )*{PROGRAMS} +\S")
  return [re.sub(r"\s+# .*", "", c) for c in found if pattern.match(c) and not c.endswith("...")]


CASES = [(page.name, command) for page in PAGES for command in dict.fromkeys(commands(page))]


def words(command: str) -> list[str]:
  """The arguments, without variables of the environment, a pipe, and words in capitals."""
  replaced = re.sub(r"(?<![\w./-])[A-Z]+(?:\.jsonl)?(?![\w/.])",
                    lambda m: WORDS.get(m[0], m[0]), command.split("\\|")[0])  # fmt: skip
  ours = re.match(r"(\w+=\S+ )*(python|make|pip) ", replaced)
  found = shlex.split(replaced) if ours else replaced.split()
  while "=" in found[0] and not found[0].startswith("-"):
    found.pop(0)
  return found


@pytest.fixture
def parse(monkeypatch):
  """Parses the flags of a job, and returns its config, `None` where it has none."""
  before = set(flags.FLAGS)
  monkeypatch.setattr(command_line, "_needed", {})
  monkeypatch.setattr(command_line, "_default_config", [])

  def forget():
    for name in set(flags.FLAGS) - before:
      delattr(flags.FLAGS, name)
    flags.FLAGS.unparse_flags()

  def run(module, argv):
    # The lines below `if __name__ == "__main__"`, but for the one that runs the job.
    source = (ROOT / "experiments" / f"{module}.py").read_text(encoding="utf-8")
    defining = source.split('if __name__ == "__main__":\n')[1]
    lines = [line.strip() for line in defining.splitlines()
             if "DEFINE" in line or "define_" in line or "require(" in line]  # fmt: skip
    monkeypatch.setattr(sys, "argv", [module, *argv])
    scope = {"command_line": command_line, "flags": flags, "PROGRAMS": ("hft", "score", "update")}
    scope |= {"_DEFAULT_CONFIG": "experiments/configs/sample.py"}
    exec("\n".join(lines), scope)
    command_line._parse(sys.argv, ARGUMENTS.get(module, ""))
    return flags.FLAGS["config"].value if "config" in flags.FLAGS else None

  yield run
  forget()


def test_there_are_commands_on_most_pages():
  assert len(CASES) > 40
  assert {"README.md", "launching.md", "scaling.md", "models.md"} <= {page for page, _ in CASES}


@pytest.mark.parametrize(("page", "command"), CASES)
def test_a_documented_command_is_one_that_works(page, command, parse, capsys, tmp_path):
  argv = words(command)
  if argv[:2] == ["python", "-m"] and argv[2].startswith("experiments."):
    check_job(argv[2].removeprefix("experiments."), argv[3:], parse, capsys)
  elif argv[:2] == ["python", "-m"]:
    spec = importlib.util.find_spec(argv[2])
    source = pathlib.Path(spec.origin).read_text(encoding="utf-8")
    source += (ROOT / "benchmarks" / "measuring.py").read_text(encoding="utf-8")
    for flag in (word for word in argv[3:] if word.startswith("--")):
      assert f'"{flag}"' in source, f"{argv[2]} has no {flag}"
  elif argv[0] == "python":
    check_launcher(argv[1:], parse, capsys)
  elif argv[0] == "make":
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(word for word in argv[1:] if "=" not in word) <= set(targets)
  elif argv[0] == "pip":
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for named in re.findall(r"(?:lhrm_jax|\.)\[([\w,]+)\]", command):
      assert set(named.split(",")) <= set(extras["optional-dependencies"])
  else:  # another's program: the files that it is given exist
    for word in argv:
      assert not word.startswith("launch/") or (ROOT / word).is_file()


def check_job(module, argv, parse, capsys):
  if not argv:  # the job's name alone, in a sentence
    assert (ROOT / "experiments" / f"{module}.py").is_file()
    return
  try:
    config = parse(module, argv)
  except SystemExit as ended:
    assert ended.code == 0, capsys.readouterr().err
    return
  if module == "compare":
    of_config(config, JOBS)
  elif config is not None and "hgpo" in config:
    c = from_config_dict(config)
    if not c.data.root:  # prepared data, which only the user's machine has
      tasks.get(c.task, c.data)


def check_launcher(argv, parse, capsys):
  """What the launcher would do is printed, and the job that it starts parses."""
  own = argv[: argv.index("--")]
  job = argv[argv.index("--") + 1 :]
  if job[0] != "python":  # "JOB"
    job = shlex.split(job[0])
  done = subprocess.run(
    [sys.executable, *own, "--dry-run", "--", *job], cwd=ROOT, capture_output=True, text=True,
    timeout=60, check=False,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  assert "experiments." in done.stdout + done.stderr
  check_job(job[2].removeprefix("experiments."), job[3:], parse, capsys)


PLANS = """
import importlib, os, sys
os.environ.update(TPU_SKIP_MDS_QUERY="1", ALLOW_MULTIPLE_LIBTPU_LOAD="1")
import jax
jax.config.update("jax_platforms", "cpu")
from lhrm_jax.planning.chips import Topology
from lhrm_jax.planning.programs import PROGRAMS, Programs
from lhrm_jax.policy import PolicyConfig
from lhrm_jax.runs.config import from_config_dict

for name in ("qwen2_5_math_7b_hft", "qwen2_5_math_7b_hgpo", "qwen2_5_math_1_5b_hft",
             "qwen2_5_math_1_5b_hgpo"):
  for chips, topology in (("v5p-64", "v5p:4x4x4"), ("v6e-64", "v6e:8x8"), ("v5e-16", "v5e:4x4")):
    module = importlib.import_module(f"experiments.configs.{name}")
    try:
      config = module.get_config(chips)
    except ValueError:
      continue
    config = from_config_dict(config)
    policy_config = PolicyConfig.from_dict(vars(config.policy))
    programs = Programs(config, policy_config, Topology.parse(topology))
    for program in PROGRAMS:
      print(name, chips, program, programs.make(program).what)
"""


def test_every_layout_of_the_shipped_configs_can_be_planned():
  """Batches divide over the chips, and a plan's HFT is the packed one that the run would make."""
  done = subprocess.run(
    [sys.executable, "-c", PLANS], cwd=ROOT, capture_output=True, text=True, check=False
  )
  assert done.returncode == 0, done.stderr[-2000:]
  lines = done.stdout.splitlines()
  assert len(lines) == 5 * (2 * 2 + 2 * 3)
  assert all("64 x 32,768 tokens" in line for line in lines if "v5p-64 hft" in line)


def test_the_comparison_of_the_page_of_algorithms_is_one(tmp_path):
  page = (ROOT / "docs" / "algorithms.md").read_text(encoding="utf-8")
  (block,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
  file = tmp_path / "mine.py"
  file.write_text(block)
  plan = of_config(command_line._load(str(file)), JOBS)
  assert [arm.name for arm in plan.arms] == ["hgpo", "mine", "hft"]


def test_the_config_of_the_readme_is_one(tmp_path):
  """The blocks of "Make it yours", put into one file as they are."""
  readme = (ROOT / "README.md").read_text(encoding="utf-8")
  section = readme.split("## Make it yours")[1].split("\n## ")[0]
  file = tmp_path / "mine.py"
  file.write_text("\n".join(re.findall(r"```python\n(.*?)```", section, re.DOTALL)))
  config = command_line._load(str(file))
  config.reward = "brief"
  from_config_dict(config)
  config.hgpo.advantage_options.body_weight = 0.1
  from_config_dict(config)


@pytest.mark.parametrize("page", results.pages(), ids=lambda page: page.name)
def test_figures_are_those_of_the_recorded_runs(page):
  """`python -m benchmarks.results` writes them from one file, so that pages cannot disagree."""
  text = page.read_text(encoding="utf-8")
  assert results.rendered(text) == text

"""The notebooks run from beginning to end, and are committed as they ran."""

import pathlib
import re

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = pathlib.Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
# Of the machine they ran on: nobody else's, and of no use.
_MACHINE = re.compile(r"/home/|/root/|/tmp/|/Users/|site-packages|hostname", re.IGNORECASE)


def execute(path, monkeypatch, *, tiny):
  monkeypatch.setenv("LHRM_TINY", "1" if tiny else "0")
  monkeypatch.setenv("PYTHONPATH", str(ROOT))
  if tiny:  # speed of what is computed counts for nothing here
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
  notebook = nbformat.read(path, as_version=4)
  NotebookClient(notebook, timeout=600, resources={"metadata": {"path": ROOT}}).execute()
  return notebook


def slow_if_it_trains(path):
  return pytest.param(path, marks=pytest.mark.slow if path.stem[:2] in ("01", "02") else ())


@pytest.mark.parametrize(
  "path", [slow_if_it_trains(path) for path in NOTEBOOKS], ids=lambda path: path.stem
)
def test_a_notebook_runs_at_its_tiny_size(path, monkeypatch):
  ran = execute(path, monkeypatch, tiny=True)
  assert len(pictures(ran)) == len(pictures(nbformat.read(path, as_version=4)))


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_in_full(path, monkeypatch):
  execute(path, monkeypatch, tiny=False)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_committed_as_it_ran(path):
  notebook = nbformat.read(path, as_version=4)
  nbformat.validate(notebook)
  cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
  assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
  assert len(pictures(notebook)) >= 2
  assert 'find_spec("lhrm_jax") is None' in cells[0].source, "it installs what it needs"
  for output in (output for cell in cells for output in cell.outputs):
    assert output.output_type != "error" and output.get("name") != "stderr"
    shown = output.get("text", "") + str(output.get("data", {}).get("text/plain"))
    assert not _MACHINE.search(shown)


def test_the_notebooks_are_there():
  assert [path.stem for path in NOTEBOOKS] == [
    "01_tour", "02_new_advantage", "03_mode_dynamics", "04_delta",
  ]  # fmt: skip


def pictures(notebook):
  outputs = (o for cell in notebook.cells if cell.cell_type == "code" for o in cell.outputs)
  return [o for o in outputs if "image/png" in o.get("data", {})]

"""What is installed: the base requirements alone serve every job, and the lock keeps to them."""

import pathlib
import pkgutil
import re
import subprocess
import sys
import tomllib
import zipfile

import pytest
from packaging.requirements import Requirement

import lhrm_jax

ROOT = pathlib.Path(__file__).parents[1]


def requirements() -> dict[str, Requirement]:
  lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
  found = [Requirement(line.partition("#")[0]) for line in lines if line.partition("#")[0].strip()]
  return {normal(r.name): r for r in found}


def normal(name: str) -> str:
  return re.sub(r"[-_.]+", "-", name).lower()


def locked() -> dict[str, list[str]]:
  """Versions by name: another may be taken for another platform."""
  found: dict[str, list[str]] = {}
  text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
  for name, version in re.findall(r"^([\w.-]+)==([^\s;]+)", text, re.MULTILINE):
    found.setdefault(normal(name), []).append(version)
  return found


def test_the_packages_that_users_were_promised_are_in_the_base_install():
  promised = {"jax", "flax", "optax", "orbax-checkpoint", "transformers", "datasets",
              "tensorflow-datasets", "sympy", "tensorboard"}  # fmt: skip
  assert promised <= set(requirements())


def test_the_lock_is_of_what_is_required_and_names_hashes_and_no_host():
  versions = locked()
  for name, requirement in requirements().items():
    assert versions[name], f"make lock: {name} is missing"
    for version in versions[name]:
      assert requirement.specifier.contains(version), f"make lock: {name}=={version}"
  text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
  entries = re.split(r"^(?=\w)", text, flags=re.MULTILINE)[1:]
  assert all("--hash=sha256:" in entry for entry in entries)
  assert "http" not in re.sub(r"(?m)^http\w*", "", text)


@pytest.mark.parametrize("name", ["tensorflow", "torch", "libtpu", "keras"])
def test_neither_another_framework_nor_an_accelerator_is_in_the_base_install(name):
  assert name not in locked()


def test_the_library_shows_its_parts_and_imports_them_when_used():
  code = (
    "import sys, lhrm_jax\n"
    "assert 'jax' not in sys.modules, 'cheap to import'\n"
    "assert set(lhrm_jax.__all__) <= set(dir(lhrm_jax))\n"
    "assert lhrm_jax.text.parse_response and lhrm_jax.rewards.get\n"
  )
  subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
  folders = {path.parent.name for path in (ROOT / "lhrm_jax").glob("*/__init__.py")}
  assert set(lhrm_jax.__all__) == folders
  described = re.findall(r"- `(\w+)`: .*\n    (.+)", lhrm_jax.__doc__)
  assert {name for name, _ in described} == folders
  for module, name in re.findall(rf"\b((?:{'|'.join(folders)})[.\w]*)\.(\w+)\(", lhrm_jax.__doc__):
    assert callable(pkgutil.resolve_name(f"lhrm_jax.{module}:{name}"))
  for name, example in described:
    assert f"{name}." in example, "an example of each"
  with pytest.raises(AttributeError, match="no attribute 'polcy'"):
    _ = lhrm_jax.polcy


def test_the_version_is_one():
  project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
  citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
  assert project["version"] == lhrm_jax.__version__
  assert f"\nversion: {lhrm_jax.__version__}\n" in citation
  assert f"\n## {lhrm_jax.__version__}\n" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_wheel_holds_the_library_alone_and_imports_from_anywhere(tmp_path):
  build = ["-m", "uv", "build", "--quiet", "--wheel", "--out-dir", str(tmp_path), str(ROOT)]
  subprocess.run([sys.executable, *build], check=True)
  (wheel,) = tmp_path.glob("*.whl")
  with zipfile.ZipFile(wheel) as archive:
    names = archive.namelist()
    archive.extractall(tmp_path / "site")
  assert {name.partition("/")[0] for name in names} == {
    "lhrm_jax", f"lhrm_jax-{lhrm_jax.__version__}.dist-info",
  }  # fmt: skip
  assert any(name.endswith("licenses/LICENSE") for name in names)
  assert {
    "lhrm_jax/evaluation/templates/report.html", "lhrm_jax/runs/templates/model_card.md",
    "lhrm_jax/serving/page/chat.html",
  } <= set(names)  # fmt: skip
  code = "import sys; sys.path.insert(0, 'site'); import lhrm_jax; print(lhrm_jax.__file__)"
  done = subprocess.run(
    [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
  )
  assert done.stdout.strip() == str(tmp_path / "site" / "lhrm_jax" / "__init__.py")

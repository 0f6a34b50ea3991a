"""The files an interpreter needs: itself, its standard library, its shared libraries."""

from __future__ import annotations

import functools
import json
import subprocess

# Loads every extension module of the standard library, then lists the libraries that came with
# them by the names under which the dynamic loader looked for them.
_LIST = """
import ctypes, importlib, json, os, sys, warnings
warnings.simplefilter("ignore")
for folder in list(sys.path):
  for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
    module, _, rest = name.partition(".")
    if rest.endswith("so") and not module.startswith(("_test", "xx", "_xx", "_tk", "readline")):
      try:
        importlib.import_module(module)
      except Exception:
        pass
class Info(ctypes.Structure):
  _fields_ = [("address", ctypes.c_void_p), ("name", ctypes.c_char_p)]
found = []
def note(info, size, data):
  found.append(os.fsdecode(info.contents.name or b""))
  return 0
kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(Info), ctypes.c_size_t, ctypes.c_void_p)
ctypes.CDLL(None).dl_iterate_phdr(kind(note), None)
print(json.dumps([[p for p in sys.path if os.path.isdir(p)], found]))
"""


@functools.cache
def of(interpreter: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
  """Folders and files that `interpreter -I -S` needs, by full path.

  Raises:
    OSError: the interpreter does not list them.
  """
  result = subprocess.run(
    [interpreter, "-I", "-S", "-B", "-c", _LIST],
    capture_output=True, text=True, env={}, cwd="/", check=False, timeout=60,
  )  # fmt: skip
  if result.returncode:
    raise OSError(f"{interpreter} does not say what it consists of: {result.stderr[-300:]}")
  paths, loaded = json.loads(result.stdout.splitlines()[-1])
  folders: list[str] = []
  for path in sorted(paths):
    if not any(path.startswith(f"{folder}/") for folder in folders):
      folders.append(path)
  inside = tuple(f"{folder}/" for folder in folders)
  files = {interpreter, *(p for p in loaded if p.startswith("/") and not p.startswith(inside))}
  return tuple(folders), tuple(sorted(files))

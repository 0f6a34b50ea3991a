"""The command line of every job: flags, and errors that a user can act on."""

import contextlib
import difflib
import errno
import importlib.util
import io
import os
import pathlib
import re
import sys
import textwrap
import traceback
from collections.abc import Callable, Iterator, Sequence

import jax
from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from lhrm_jax import parallel
from lhrm_jax.config import nearest
from lhrm_jax.errors import UserError
from lhrm_jax.rewards import RewardError
from lhrm_jax.runs import overrides, preemption
from lhrm_jax.runs.checkpoints import CheckpointError
from lhrm_jax.runs.config import RETIRED
from lhrm_jax.runs.gates import GateError
from lhrm_jax.runs.nonfinite import NonFiniteError
from lhrm_jax.text.characters import printable

CONFIG = "config"
_KEYS = "docs/config.md"  # lists every key of a training run
_HELP = {"-h", "-?", "-help", "--help", "--helpshort", "--helpfull"}

# Required flags, each with an example value; and the default config of a job that has one.
_needed: dict[str, str] = {}
_default_config: list[str] = []


def define_config(default: str | None = None, *, required: bool = True) -> flags.FlagHolder:
  """Defines `--config FILE.py`, whose keys are overridden as `--config.key=value`.

  Args:
    default: file used where none is named, relative to the checkout.
    required: whether the job needs a config.
  """
  if default:
    # Not the flag's own default, which absl would read here, outside of our error handling.
    here = pathlib.Path(default).is_file()
    _default_config.append(default if here else str(pathlib.Path(__file__).parents[2] / default))
  elif required:
    require(CONFIG, "experiments/configs/arithmetic.py")
  return config_flags.DEFINE_config_file(
    CONFIG,
    None,
    "A Python file with get_config(); any of its keys is overridden as --config.KEY=VALUE.",
    lock_config=True,
  )


def define_workdir(*, required: bool = True) -> flags.FlagHolder:
  """Defines `--workdir DIR`."""
  if required:
    require("workdir", "runs/NAME")
  return flags.DEFINE_string("workdir", None, "Folder, or URL in a bucket, the run writes into.")


def require(flag: str, example: str) -> None:
  """Makes a job refuse to start without `--flag`; the error shows the example."""
  _needed[flag] = example


def given_keys() -> frozenset[str]:
  """Returns the dotted config keys that the command line overrides; none outside of a job."""
  flag = _parsed_config()
  return frozenset() if flag is None else frozenset(flag.override_values)


def config_file() -> pathlib.Path | None:
  """Returns the config file of the job; `None` outside of one."""
  flag = _parsed_config()
  return None if flag is None else pathlib.Path(flag.config_filename.partition(":")[0])


def _parsed_config():
  if CONFIG not in flags.FLAGS or flags.FLAGS[CONFIG].value is None:
    return None
  return flags.FLAGS[CONFIG]


def run(main: Callable[[Sequence[str]], None], *, arguments: str = "") -> None:
  """Parses the command line and runs `main`.

  A user's mistake ends the run with a message and status 2; a run that was asked to stop and can be
  resumed exits with `preemption.EXIT_STATUS`.

  Args:
    main: called with the program's name and the positional arguments.
    arguments: positional arguments as the help shows them; "" where the job takes none.
  """
  logging.set_verbosity(logging.WARNING)
  parallel.settle_platform()
  # transformers only renders chat templates here and need not warn that PyTorch is missing.
  os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
  for stream in (sys.stdout, sys.stderr):  # characters that a terminal lacks are escaped
    if isinstance(stream, io.TextIOWrapper):
      stream.reconfigure(errors="backslashreplace")

  def job(argv: Sequence[str]) -> None:
    _reporting(main, argv)
    # Otherwise a scheduler could take a finished run for an interrupted one and start it again.
    preemption.disregard_signals()

  app.run(job, flags_parser=lambda argv: _parse(argv, arguments))


def _reporting(main: Callable[[Sequence[str]], None], argv: Sequence[str]) -> None:
  try:
    parallel.initialize()
  except ValueError as error:
    _fail(str(error))
  try:
    main(argv)
  except preemption.Preempted as ended:
    print(f"stopped: {ended}; run the same command to resume.", file=sys.stderr, flush=True)
    sys.exit(preemption.EXIT_STATUS)
  except (UserError, RewardError, CheckpointError, GateError, NonFiniteError) as error:
    _fail(str(error))
  except OSError as error:
    if error.errno not in _DISK_FULL:
      raise
    _fail(
      f"{error.filename or 'a log'} could not be written: {error.strerror}. Earlier checkpoints "
      "are whole: make room, and run the same command to resume."
    )
  except (MemoryError, jax.errors.JaxRuntimeError) as error:
    if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in str(error):
      raise
    _fail(f"out of memory: {str(error).splitlines()[0]}\n{_SMALLER}")


_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_SMALLER = (
  "Hold less at once (lower hgpo.micro_batch_rows and hft.micro_batch_rows, hgpo.decode_slots and "
  "evaluation.decode_slots, evaluation.batch_prompts or data.max_response_tokens) or use more "
  "devices (mesh); python -m experiments.plan estimates beforehand what fits."
)


def _parse(argv: Sequence[str], arguments: str) -> list[str]:
  before = list(argv)[: list(argv).index("--")] if "--" in argv else list(argv)
  if _HELP.intersection(before[1:]):
    print(_help(arguments))
    sys.exit(0)
  _check_config_path(before)
  program, *rest = argv
  named = any(re.match(rf"--?{CONFIG}(=|$)", argument) for argument in before)
  if _default_config and not named:
    rest = [f"--{CONFIG}={_default_config[0]}", *rest]
  elif CONFIG in _needed and not named:
    # Before parsing, which would call every key of the config an unknown flag.
    _fail_without([flag for flag in _needed if not _mentioned(flag, before)])
  try:
    rest, own_keys = overrides.split_off([program, *rest])
    with _command_line(rest):  # the config flag reads its overrides from sys.argv
      _, *words = flags.FLAGS(rest)
    given = CONFIG in flags.FLAGS and flags.FLAGS[CONFIG].present
    config = flags.FLAGS[CONFIG].value if given else ConfigDict()
    if not isinstance(config, ConfigDict):
      getattr(config, "keys", None)  # a file that could not be opened raises its OSError here
      raise TypeError(f"get_config() returned a {type(config).__name__}, not a ConfigDict")
    if _default_config and (lacking := set(_keys(_load(_default_config[0]))) - set(_keys(config))):
      raise TypeError(
        f"the config lacks {', '.join(sorted(lacking))}; {_default_config[0]}, the default, has "
        "all that this job reads"
      )
    if own_keys:
      overrides.apply(config, own_keys)
      flags.FLAGS[CONFIG].override_values.update(own_keys)
  except Exception as error:  # a config file is a program, and may raise anything
    _fail(_unknown_key(rest) or _what_failed(error))
  if missing := [flag for flag in _needed if flags.FLAGS[flag].value is None]:
    _fail_without(missing)
  if words and not arguments:
    _fail(
      f"{words[0]!r} is not a flag, and this job takes only flags: --workdir=DIR, and keys of the "
      f"config as --{CONFIG}.KEY=VALUE."
    )
  return [program, *words]


def _mentioned(flag: str, argv: Sequence[str]) -> bool:
  return any(re.match(rf"--?{flag}(=|$)", argument) for argument in argv)


def _fail_without(missing: Sequence[str]) -> None:
  flag_names = " and ".join(f"--{flag}" for flag in missing)
  example = " ".join(f"--{flag} {_needed[flag]}" for flag in missing)
  _fail(f"{flag_names} {'is' if len(missing) == 1 else 'are'} missing, as in: {example}")


def _help(arguments: str) -> str:
  """Returns the help text: the job's docstring, its flags, and how config keys are set."""
  by_module = flags.FLAGS.flags_by_module_dict()
  defined = [*by_module.get(__name__, ()), *by_module.get(sys.argv[0], ())]
  lines = [(sys.modules["__main__"].__doc__ or "").strip(), ""]
  lines += [f"arguments: {arguments}", ""] if arguments else []
  lines += ["flags:"] if defined else []
  for flag in defined:
    notes = []
    if flag.name in _needed:
      notes.append("required")
    if flag.name == CONFIG and _default_config:
      notes.append(f"default: {_default_config[0]}")
    elif flag.default is not None:
      notes.append(f"default: {flag.default_as_str}")
    help_text = f"{flag.help} ({'; '.join(notes)})" if notes else flag.help
    lines += [f"  --{flag.name}", textwrap.indent(textwrap.fill(help_text, 90), " " * 6)]
  if CONFIG in flags.FLAGS:
    file = _default_config[0] if _default_config else _KEYS
    lines.append(f"  --{CONFIG}.KEY=VALUE")
    lines.append(f"      One key of the config, as --{CONFIG}.seed=1. {file} lists them all.")
  return "\n".join(lines)


def _unknown_key(argv: Sequence[str]) -> str:
  """Returns an error naming the command line's unknown config key and the nearest one, or ""."""
  named = [re.match(rf"--?{CONFIG}(?:=(.*))?$", argument) for argument in argv]
  path = next((m[1] or argv[i + 1] for i, m in enumerate(named) if m), None)
  path = path or next(iter(_default_config), "")
  try:
    keys = list(_keys(_load(path)))
  except Exception:  # parsing has reported it already
    return ""
  for argument in argv:
    found = re.match(rf"--?(?:no)?{CONFIG}\.([^=]+)", argument)
    if not found or found[1] in keys:
      continue
    if found[1] in RETIRED:
      return f"--{CONFIG}.{found[1]} is gone: {RETIRED[found[1]]}"
    near = nearest(found[1], keys)
    hint = f" Did you mean --{CONFIG}.{near}?" if near else ""
    return f"--{CONFIG}.{found[1]}: {path} has no such key.{hint}"
  return ""


def _load(path: str) -> ConfigDict:
  file, *argument = path.split(":", 1)
  spec = importlib.util.spec_from_file_location("config", file)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module.get_config(*argument)


def _keys(config: ConfigDict, prefix: str = "") -> Iterator[str]:
  for name, value in config.items():
    yield f"{prefix}{name}"
    if isinstance(value, ConfigDict):
      yield from _keys(value, f"{prefix}{name}.")


def _what_failed(error: Exception) -> str:
  """Returns one line for a parsing error, with its place in the config file if it lies there."""
  if isinstance(error, flags.Error) and "Error whilst parsing config file" not in str(error):
    return str(error)
  if isinstance(error, flags.Error):  # its text holds the traceback
    what = str(error).split("\n\nPass --help")[0].strip().splitlines()[-1]
    places = re.findall(r'File "(.*)", line (\d+)', str(error))
  else:
    what = traceback.format_exception_only(error)[-1].strip()
    places = [(f.filename, f.lineno) for f in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, SyntaxError):
      places.append((error.filename, error.lineno))
  # Leaves out lines of this file, of absl and ml_collections, and of the import system.
  own = [place for place in places if place[0] != __file__
         and "site-packages" not in place[0] and not place[0].startswith("<")]  # fmt: skip
  for key, why in RETIRED.items():
    if f'"{key.rpartition(".")[2]}"' in what:
      what = f"{key} is gone: {why}"
  return f"--{CONFIG}: " + (f"{own[-1][0]}:{own[-1][1]}: " if own else "") + what


@contextlib.contextmanager
def _command_line(argv: Sequence[str]) -> Iterator[None]:
  before, sys.argv = sys.argv, list(argv)
  try:
    yield
  finally:
    sys.argv = before


def _check_config_path(argv: Sequence[str]) -> None:
  """Fails where the config file does not exist, naming the nearest one that does."""
  for i, argument in enumerate(argv):
    name, equals, value = argument.lstrip("-").partition("=")
    if not argument.startswith("-") or name != CONFIG:
      continue
    path = value if equals else (argv[i + 1] if i + 1 < len(argv) else "")
    if not path:
      _fail_without([CONFIG])
    # A config may take a string after a colon: experiments/configs/x.py:fast.
    file = pathlib.Path(path.partition(":")[0])
    if file.is_file():
      return
    candidates = [str(p) for p in pathlib.Path("experiments/configs").glob("*.py")]
    candidates += [str(p) for p in file.parent.glob("*.py")] if file.parent.is_dir() else []
    near = difflib.get_close_matches(str(file), candidates, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]}?" if near else ""
    _fail(f"--{CONFIG}: no file {str(file)!r}.{hint}")


def _fail(message: str) -> None:
  message = printable(message, keep="\n")
  print(f"error: {message}", file=sys.stderr)
  if jax.distributed.is_initialized():
    parallel.leave(2)
  sys.exit(2)

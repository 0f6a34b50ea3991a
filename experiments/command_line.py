"""The command line that every experiment shares: flags, and errors a user can act on."""

import contextlib
import difflib
import errno
import pathlib
import sys
from collections.abc import Callable, Iterator, Sequence

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from experiments import overrides
from lhrm_jax import parallel
from lhrm_jax.rewards import RewardError
from lhrm_jax.training import preemption
from lhrm_jax.training.checkpoints import CheckpointError
from lhrm_jax.training.gates import GateError
from lhrm_jax.training.nonfinite import NonFiniteError

CONFIG = "config"


def define_config(default: str | None = None) -> flags.FlagHolder:
  """Defines `--config FILE.py`, whose keys are overridden as `--config.key=value`."""
  return config_flags.DEFINE_config_file(
    CONFIG,
    default,
    "A Python file with get_config(); any of its keys is overridden as --config.key=value.",
    lock_config=True,
  )


def define_workdir(*, required: bool = True) -> flags.FlagHolder:
  """Defines `--workdir DIR`."""
  return flags.DEFINE_string("workdir", None, "Folder the run writes into.", required=required)


def run(main: Callable[[Sequence[str]], None]) -> None:
  """Parses the command line and runs `main`.

  What a user can mend ends the run with a message and status 2; a run that was asked to end and can
  go on has status `preemption.EXIT_STATUS`.
  """
  logging.set_verbosity(logging.WARNING)

  def job(argv: Sequence[str]) -> None:
    _reporting(main, argv)
    # Else a scheduler would take a finished run for one that was cut short, and start it again.
    preemption.disregard_signals()

  app.run(job, flags_parser=_parse)


class UserError(Exception):
  """A mistake in what the user gave; the message says what, where and how to mend it."""


@contextlib.contextmanager
def mendable(*errors: type[Exception]) -> Iterator[None]:
  """Within it, these errors are mistakes in what the user gave: their messages say all there is."""
  try:
    yield
  except errors as error:
    message = error.args[0] if isinstance(error, KeyError) else error
    raise UserError(str(message)) from error


def _reporting(main: Callable[[Sequence[str]], None], argv: Sequence[str]) -> None:
  try:
    parallel.initialize()
  except ValueError as error:
    _fail(str(error))
  try:
    main(argv)
  except preemption.Preempted as ended:
    print(f"ended as asked: {ended}; the same command goes on.", file=sys.stderr, flush=True)
    sys.exit(preemption.EXIT_STATUS)
  except (UserError, RewardError, CheckpointError, GateError, NonFiniteError) as error:
    _fail(str(error))
  except OSError as error:
    if error.errno not in _DISK_FULL:
      raise
    _fail(
      f"{error.filename or 'a log'} could not be written: {error.strerror}. The checkpoints before "
      "are whole: make room, and the same command goes on."
    )
  except (MemoryError, jax.errors.JaxRuntimeError) as error:
    if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in str(error):
      raise
    _fail(f"out of memory: {str(error).splitlines()[0]}\n{_SMALLER}")


_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_SMALLER = (
  "Lower what a step holds at once (hgpo.micro_batches up, hft.micro_batch_rows, "
  "evaluation.batch_prompts, data.max_response_tokens down) or spread it over more devices (mesh); "
  "python -m experiments.plan says beforehand what would fit."
)


def _parse(argv: Sequence[str]) -> list[str]:
  _check_config_path(argv)
  try:
    argv, own_keys = overrides.split_off(argv)
    with _command_line(argv):  # the config's flag looks there for its overrides
      words = app.parse_flags_with_usage(list(argv))
    if own_keys:
      overrides.apply(flags.FLAGS[CONFIG].value, own_keys)
      flags.FLAGS[CONFIG].override_values.update(own_keys)
    return words
  except (AttributeError, KeyError) as error:
    # ml_collections says which key was meant, as an AttributeError from deep inside.
    _fail(f"--{CONFIG}: {error.args[0]}".replace("\\n", " ").replace("\n", " "))
  except (TypeError, ValueError) as error:
    _fail(f"--{CONFIG}: {error}")
  raise AssertionError("unreachable")


@contextlib.contextmanager
def _command_line(argv: Sequence[str]) -> Iterator[None]:
  before, sys.argv = sys.argv, list(argv)
  try:
    yield
  finally:
    sys.argv = before


def _check_config_path(argv: Sequence[str]) -> None:
  """A config file that does not exist is reported with the nearest one that does."""
  for i, argument in enumerate(argv):
    name, equals, value = argument.lstrip("-").partition("=")
    if not argument.startswith("-") or name != CONFIG:
      continue
    path = value if equals else (argv[i + 1] if i + 1 < len(argv) else "")
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
  print(f"error: {message}", file=sys.stderr)
  if jax.distributed.is_initialized():
    parallel.leave(2)
  sys.exit(2)

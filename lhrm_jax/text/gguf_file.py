"""Reads the metadata and the list of tensors of a GGUF file; every size is checked before use.

The `gguf` package's own reader follows whatever a file says: an array of 2**40 entries keeps it
busy forever. Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import dataclasses
import itertools
import math
import pathlib
import struct
from typing import Any

import numpy as np

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q",
            12: "d"}  # fmt: skip
_STRING, _ARRAY = 8, 9
_VERSIONS = (2, 3)
_MAX_DIMS = 4
_MAX_ENTRIES = 2**22  # of an array, a table of tensors or the metadata: vocabularies have 2**18


@dataclasses.dataclass(frozen=True)
class Tensor:
  """One tensor of the file, not yet read.

  Attributes:
    name: in the file.
    type_name: e.g. "F32" or "Q4_K".
    shape: row-major, so that the last axis is contiguous.
    start: offset of its first byte in the file.
    size: in bytes.
  """

  name: str
  type_name: str
  shape: tuple[int, ...]
  start: int
  size: int


class Contents:
  """The metadata and the tensors of a GGUF file.

  Attributes:
    path: of the file.
    fields: metadata by key: numbers, strings and lists of them.
    tensors: by name.
  """

  def __init__(self, path: pathlib.Path):
    """Reads everything but the tensors' values.

    Raises:
      ValueError: the file is not a GGUF file, is damaged, or contradicts itself.
    """
    self.path = path
    self.fields: dict[str, Any] = {}
    self.tensors: dict[str, Tensor] = {}
    if not path.is_file():
      raise ValueError(f"{path} is not a plain file.")
    if path.stat().st_size < 24:
      raise self._damaged(f"it has {path.stat().st_size} bytes")
    self._data = memoryview(np.memmap(path, np.uint8, mode="r"))
    self._at = 0
    magic, version, tensors, fields = self._take("<4sIQQ")
    if magic != b"GGUF":
      lfs = bytes(self._data[:7]) == b"version"
      raise ValueError(
        f"{path} is "
        + ("the Git LFS pointer to a file: run `git lfs pull`." if lfs else "not a GGUF file.")
      )
    if version not in _VERSIONS:
      raise ValueError(f"{path} has GGUF version {version}; {_VERSIONS} little-endian are read.")
    self._check_count(fields, "metadata keys", least_bytes=12)
    self._check_count(tensors, "tensors", least_bytes=24)
    for _ in range(fields):
      key = self._string()
      if key in self.fields:
        raise self._damaged(f"the metadata key {key!r} appears in it twice")
      self.fields[key] = self._value(self._take("<I")[0])
    self._read_tensors([self._tensor_info() for _ in range(tensors)])

  def values(self, tensor: Tensor) -> np.ndarray:
    """A tensor's values `tensor.shape`, dequantised; float32 that owns its memory."""
    from gguf import GGMLQuantizationType, dequantize

    raw = np.array(
      self._data[tensor.start : tensor.start + tensor.size]
    )  # a copy, not a view of the file
    rows = raw.reshape(math.prod(tensor.shape[:-1]), -1)
    return dequantize(rows, GGMLQuantizationType[tensor.type_name]).reshape(tensor.shape)

  def _damaged(self, why: str) -> ValueError:
    return ValueError(f"{self.path} is damaged or not complete: {why}. Download it again.")

  def _take(self, layout: str) -> tuple:
    size = struct.calcsize(layout)
    return struct.unpack(layout, self._bytes(size))

  def _bytes(self, size: int) -> bytes:
    if size > len(self._data) - self._at:
      raise self._damaged(f"{size} bytes should follow at offset {self._at}, where it ends")
    self._at += size
    return self._data[self._at - size : self._at].tobytes()

  def _check_count(self, count: int, what: str, least_bytes: int) -> None:
    room = (len(self._data) - self._at) // least_bytes
    if count > min(room, _MAX_ENTRIES):
      raise self._damaged(f"it says that {count} {what} follow at offset {self._at}")

  def _string(self) -> str:
    (length,) = self._take("<Q")
    try:
      return self._bytes(length).decode("utf-8")
    except UnicodeDecodeError as error:
      raise self._damaged(f"a string in it is not UTF-8 ({error})") from error

  def _value(self, kind: int) -> Any:
    if kind == _STRING:
      return self._string()
    if kind in _SCALARS:
      return self._take("<" + _SCALARS[kind])[0]
    if kind != _ARRAY:
      raise self._damaged(f"there is no metadata type {kind}")
    kind, count = self._take("<IQ")
    if kind in _SCALARS:
      self._check_count(count, "numbers", struct.calcsize("<" + _SCALARS[kind]))
      return list(self._take(f"<{count}{_SCALARS[kind]}"))
    if kind != _STRING:
      raise self._damaged("an array of arrays is in no model's metadata")
    self._check_count(count, "strings", 8)
    return [self._string() for _ in range(count)]

  def _tensor_info(self) -> tuple[str, tuple[int, ...], int, int]:
    name = self._string()
    (dims,) = self._take("<I")
    if not 1 <= dims <= _MAX_DIMS:
      raise self._damaged(f"tensor {name!r} has {dims} dimensions")
    shape = self._take(f"<{dims}Q")[::-1]
    kind, offset = self._take("<IQ")
    return name, shape, kind, offset

  def _read_tensors(self, infos: list[tuple[str, tuple[int, ...], int, int]]) -> None:
    """Checks that the tensors lie within the file without overlap, each name once."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    alignment = self.fields.get("general.alignment", 32)
    if not isinstance(alignment, int) or not 0 < alignment <= 2**16:
      raise self._damaged(f"general.alignment={alignment!r}")
    first = -(-self._at // alignment) * alignment
    known = {int(kind): kind for kind in GGMLQuantizationType}
    for name, shape, number, offset in infos:
      if name in self.tensors:
        raise self._damaged(f"tensor {name!r} appears in it twice")
      if number not in known:
        raise ValueError(f"{self.path}: tensor {name!r} has a type ({number}) that is unknown.")
      block, block_bytes = GGML_QUANT_SIZES[known[number]]
      if shape[-1] % block or not all(shape):
        raise self._damaged(f"tensor {name!r} {shape} is made of blocks of {block} values")
      size = math.prod(shape) // block * block_bytes
      if first + offset + size > len(self._data):
        raise self._damaged(f"tensor {name!r} {shape} ends beyond the file's end")
      self.tensors[name] = Tensor(name, known[number].name, shape, first + offset, size)
    ordered = sorted(self.tensors.values(), key=lambda tensor: tensor.start)
    for one, other in itertools.pairwise(ordered):
      if one.start + one.size > other.start:
        raise self._damaged(f"the tensors {one.name!r} and {other.name!r} overlap")

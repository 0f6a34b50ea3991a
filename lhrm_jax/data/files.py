"""Reads rows of JSON Lines and JSON arrays, compressed or not, and of Parquet files.

JSON is read as a stream: memory holds one row at a time, whatever an archive unpacks to.
"""

import codecs
import gzip
import io
import itertools
import json
import pathlib
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from lhrm_jax.data.fields import BadRow, Fields
from lhrm_jax.storage import urls

_JSON_LINES, _JSON, _PARQUET = ".jsonl", ".json", ".parquet"
_COMPRESSED = _GZIP, _ZSTD = ".gz", ".zst"
SUFFIXES = (
  _JSON_LINES, _JSON, _PARQUET,
  *(kind + packed for kind in (_JSON_LINES, _JSON) for packed in _COMPRESSED),
)  # fmt: skip
# No row of text is longer; what unpacks to more is a zip bomb, or no file of rows.
_MAX_ROW_BYTES = 16 * 2**20
_MAX_BLANK_BYTES = 2**20
_TOO_LONG = f"is longer than {_MAX_ROW_BYTES >> 20} MiB, which no row of text is"
_CHUNK = 2**16
# First bytes of files that hold no text.
_MAGIC = {
  b"\x1f\x8b": "gzip (.gz)", b"\x28\xb5\x2f\xfd": "zstd (.zst)", b"PAR1": "Parquet (.parquet)",
  b"PK\x03\x04": "a zip archive: unpack it", b"BZh": "bzip2: unpack it",
  b"\xfd7zXZ": "xz: unpack it",
}  # fmt: skip
_MARK = re.compile(r"[ \t\r\n]*([\[,\]])[ \t\r\n]*")  # around the elements of an array
_DECODER = json.JSONDecoder()

Located = tuple[str, Fields | BadRow]


class Unreadable(BadRow):
  """The rest of a file cannot be read: skipping bad rows does not get past this."""


def check(path: str) -> None:
  """Checks that a file or URL exists and can be opened, without reading it.

  Raises:
    ValueError: it is not a file of rows, or lies in a bucket that cannot be read.
    FileNotFoundError: it does not exist.
  """
  if not path.endswith(SUFFIXES):
    raise ValueError(
      f"{path!r} is not a {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]} file; a hub id or folder is "
      "written hf:NAME, a data set of tensorflow_datasets tfds:NAME."
    )
  if urls.is_url(path):
    files, name = urls.open_bucket(path)
    with urls.explained(path, "read"):
      found = files.isfile(name)
  else:
    found = pathlib.Path(path).expanduser().is_file()
  if not found:
    raise FileNotFoundError(f"{path} does not exist.")


def read(path: str, start: int = 0, stop: int | None = None) -> Iterator[Located]:
  """Yields rows `start` to `stop - 1` of a file, bad ones included, each with its location."""
  with _opened(path) as file:
    rows = _from_parquet(file, path) if path.endswith(_PARQUET) else _from_json(file, path)
    yield from itertools.islice(rows, start, stop)


def count(path: str) -> int:
  """Number of rows of a file, bad ones included."""
  return sum(1 for _ in read(path))


@contextmanager
def _opened(path: str) -> Iterator[IO[bytes]]:
  if urls.is_url(path):
    files, name = urls.open_bucket(path)
    with urls.explained(path, "read"), files.open(name, "rb") as file:
      yield file
  else:
    with pathlib.Path(path).expanduser().open("rb") as file:
      yield file


def _from_json(file: IO[bytes], name: str) -> Iterator[Located]:
  place = ""
  try:
    text = _unpacked(io.BufferedReader(file), name)
    beginning = text.peek(_CHUNK)
    kind = next((kind for magic, kind in _MAGIC.items() if beginning.startswith(magic)), "")
    if kind:
      yield name, Unreadable(f"the file's name says JSON, and what it holds is {kind}")
      return
    array = beginning.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"[")
    for place, row in _array(text) if array and _JSON_LINES not in name else _lines(text):
      yield f"{name}{place}", row
  except (EOFError, OSError, ValueError, zlib.error) as error:
    if not name.endswith(_COMPRESSED):
      raise
    yield f"{name}{place}", Unreadable(f"the file cannot be unpacked beyond this place: {error}")


def _unpacked(file: io.BufferedReader, name: str) -> io.BufferedReader:
  if name.endswith(_GZIP):
    return gzip.open(file)
  if name.endswith(_ZSTD):
    import pyarrow  # the standard library knows zstd only from Python 3.14 on

    file = pyarrow.CompressedInputStream(pyarrow.PythonFile(file, mode="r"), "zstd")
    return io.BufferedReader(file)
  return file


def _lines(file: io.BufferedReader) -> Iterator[Located]:
  blank = 0
  for number in itertools.count(1):
    line = file.readline(_MAX_ROW_BYTES + 1)
    if not line:
      return
    blank = 0 if line.strip() else blank + len(line)
    if len(line) > _MAX_ROW_BYTES:
      yield f":{number}", Unreadable(_TOO_LONG)
      return
    if blank > _MAX_BLANK_BYTES:
      yield f":{number}", Unreadable("comes after too many blank lines for a file of rows")
      return
    if not blank:
      yield f":{number}", _json_object(line)


def _json_object(line: bytes) -> Fields | BadRow:
  try:
    return _object(json.loads(line.decode("utf-8-sig")))
  except UnicodeDecodeError as error:
    return BadRow(f"is not UTF-8 ({error.reason} at byte {error.start + 1})")
  except json.JSONDecodeError as error:
    return BadRow(f"is not JSON ({error.msg} at column {error.colno})")
  except RecursionError:
    return BadRow("is JSON nested too deeply")
  except ValueError:  # Python converts no text of more than 4,300 digits
    return BadRow("holds a number of too many digits")


def _object(fields: object) -> Fields | BadRow:
  if not isinstance(fields, dict):
    return BadRow(f"is a JSON {type(fields).__name__}, not an object")
  return fields


def _array(file: io.BufferedReader) -> Iterator[Located]:
  """Yields the elements of an array, with no more of it in memory than the longest takes."""
  decode = codecs.getincrementaldecoder("utf-8-sig")().decode
  buffer, at, expected, number = "", 0, "[", 0
  while True:
    place, error = f": row {number}", f"Expecting {expected!r}"
    mark = _MARK.match(buffer, at)
    if mark and (mark[1] == "]" if number else buffer.startswith("]", mark.end())):
      if (buffer[mark.end() :].removeprefix("]") + decode(file.read(_CHUNK))).strip():
        yield place, Unreadable("the file continues after the end of its array")
      return
    if mark and mark[1] == expected:
      try:
        value, end = _DECODER.raw_decode(buffer, mark.end())
        if end < len(buffer):  # else more digits could follow
          yield place, _object(value)
          at, expected, number = end, ",", number + 1
          continue
        error = "the array never closes"
      except json.JSONDecodeError as broken:
        error = broken.msg
      except (RecursionError, ValueError):
        yield place, Unreadable("is JSON nested too deeply, or holds a number of too many digits")
        return
    if len(buffer) - at > _MAX_ROW_BYTES:
      yield place, Unreadable(_TOO_LONG)
      return
    chunk = file.read(max(_CHUNK, len(buffer) - at))
    if not chunk:
      yield place, Unreadable(f"is not JSON ({error})")
      return
    try:
      buffer, at = buffer[at:] + decode(chunk), 0
    except UnicodeDecodeError as broken:
      yield place, Unreadable(f"is not UTF-8 ({broken.reason})")
      return


def _from_parquet(file: IO[bytes], name: str) -> Iterator[Located]:
  import pyarrow
  import pyarrow.parquet

  row = 0
  try:
    for batch in pyarrow.parquet.ParquetFile(file).iter_batches(batch_size=1024):
      for fields in batch.to_pylist():
        yield f"{name}: row {row}", fields
        row += 1
  except (pyarrow.ArrowException, UnicodeDecodeError) as error:
    yield f"{name}: row {row}", Unreadable(f"cannot be read as Parquet: {error}")

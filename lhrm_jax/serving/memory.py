"""Which pages of KV memory are free, which sequences hold them, and which prefixes they keep."""

import collections
import hashlib
from collections.abc import Sequence

import numpy as np

from lhrm_jax.policy.pages import NOWHERE


def prefix_keys(tokens: Sequence[int], page_tokens: int) -> list[bytes]:
  """A key for each whole page of a prompt that names all tokens up to its end.

  The page of the last token is left out: it always runs, since the reply begins from its hidden
  state.
  """
  keys, key = [], b""
  ids = np.asarray(tokens, np.int32)
  for end in range(page_tokens, len(ids), page_tokens):
    key = hashlib.blake2b(key + ids[end - page_tokens : end].tobytes(), digest_size=16).digest()
    keys.append(key)
  return keys


class Pages:
  """Pages of a pool, counted by the sequences that hold them.

  A published page keeps its prefix when the last sequence lets go of it, until its memory is
  needed; the one that was let go of first is taken first.
  """

  def __init__(self, count: int):
    """Args:
    count: pages of the pool, `NOWHERE` among them.
    """
    self.total = count - 1
    self._free = [page for page in range(count - 1, -1, -1) if page != NOWHERE]
    self._holders: collections.Counter[int] = collections.Counter()
    self._page_of: dict[bytes, int] = {}
    self._key_of: dict[int, bytes] = {}
    self._kept: collections.OrderedDict[int, None] = collections.OrderedDict()

  @property
  def available(self) -> int:
    """Pages that no sequence holds."""
    return len(self._free) + len(self._kept)

  @property
  def held(self) -> int:
    """Pages that sequences hold."""
    return self.total - self.available

  @property
  def kept(self) -> int:
    """Pages that no sequence holds and that keep a prefix."""
    return len(self._kept)

  def freed_by(self, pages: Sequence[int]) -> int:
    """How many of these pages nobody holds once their holder lets go of them."""
    return sum(self._holders[page] == 1 for page in pages)

  def take(self) -> int | None:
    """An empty page, held once; `None` where sequences hold them all."""
    if self._free:
      page = self._free.pop()
    elif self._kept:
      page, _ = self._kept.popitem(last=False)
      del self._page_of[self._key_of.pop(page)]
    else:
      return None
    self._holders[page] = 1
    return page

  def share(self, key: bytes) -> int | None:
    """The page that keeps a prefix, held once more; `None` if there is none."""
    page = self._page_of.get(key)
    if page is not None:
      self._kept.pop(page, None)
      self._holders[page] += 1
    return page

  def publish(self, page: int, key: bytes) -> None:
    """Lets other sequences share a held page; the first page of a prefix stays the one."""
    if key not in self._page_of:
      self._page_of[key], self._key_of[page] = page, key

  def release(self, pages: Sequence[int]) -> None:
    """Lets go of pages, each once."""
    for page in pages:
      self._holders[page] -= 1
      if self._holders[page]:
        continue
      del self._holders[page]
      if page in self._key_of:
        self._kept[page] = None
      else:
        self._free.append(page)

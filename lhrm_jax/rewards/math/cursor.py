"""A cursor over tokens: what every level of the grammar is read with."""

from __future__ import annotations

from lhrm_jax.rewards.math import tokens
from lhrm_jax.rewards.math.nodes import Node, TooBig, Unreadable

# One bracket costs three levels of this and about eleven frames of Python.
MAX_DEPTH = 120


class Cursor:
  """Moves over tokens. `parse.Parser` adds the levels of the grammar, which call each other."""

  def __init__(self, items: list[tokens.Token]):
    self.items = items
    self.at = 0
    self.depth = 0
    self.bars = 0

  def peek(self, ahead: int = 0) -> tokens.Token:
    i = self.at + ahead
    return self.items[i] if i < len(self.items) else tokens.END

  def next(self) -> tokens.Token:
    token = self.peek()
    self.at += 1
    return token

  def take(self, *texts: str) -> bool:
    """Steps over the next token if it is one of `texts`."""
    token = self.peek()
    if token.kind != "text" and token.text in texts:
      self.at += 1
      return True
    return False

  def expect(self, *texts: str) -> tokens.Token:
    token = self.peek()
    if token.kind == "text" or token.text not in texts:
      raise Unreadable(f"expected {texts[0]!r}, found {token.text or 'the end'!r}")
    return self.next()

  def deeper(self) -> Cursor:
    return self

  def __enter__(self):
    self.depth += 1
    if self.depth > MAX_DEPTH:
      raise TooBig(f"nested deeper than {MAX_DEPTH} levels")

  def __exit__(self, *_):
    self.depth -= 1

  def skip(self, count: int) -> bool:
    self.at += count
    return True

  # The levels that the innermost one comes back to.

  def inside(self, items: list[tokens.Token]) -> Node:
    """Reads `items`, a part of these tokens, as an answer of its own."""
    raise NotImplementedError

  def answer(self) -> Node:
    raise NotImplementedError

  def item(self) -> Node:
    raise NotImplementedError

  def sum(self) -> Node:
    raise NotImplementedError

  def factors(self) -> Node:
    raise NotImplementedError

  def power(self) -> Node:
    raise NotImplementedError

  def exponent(self) -> Node:
    raise NotImplementedError

  def braced(self) -> Node:
    raise NotImplementedError

  def starts_atom(self) -> bool:
    raise NotImplementedError

"""A cursor over tokens, and the levels of the grammar that call each other through it."""

from __future__ import annotations

import abc

from lhrm_jax.rewards.math import tokens
from lhrm_jax.rewards.math.nodes import Node, TooBig, Unreadable

# One bracket costs three levels of this and about twelve frames of Python.
MAX_DEPTH = 120


class Cursor:
  """A place in a list of tokens.

  Attributes:
    items: the tokens.
    at: index of the next one.
    depth: levels of nesting around it.
    bars: `|...|` around it that are not closed.
  """

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


class Grammar(Cursor, abc.ABC):
  """A cursor that also reads the levels of the grammar which inner levels come back to."""

  @abc.abstractmethod
  def inside(self, items: list[tokens.Token]) -> Node:
    """Reads `items`, a part of these tokens, as an answer of its own."""

  @abc.abstractmethod
  def answer(self) -> Node: ...

  @abc.abstractmethod
  def item(self) -> Node: ...

  @abc.abstractmethod
  def sum(self) -> Node: ...

  @abc.abstractmethod
  def factors(self) -> Node: ...

  @abc.abstractmethod
  def power(self) -> Node: ...

  @abc.abstractmethod
  def exponent(self) -> Node: ...

  @abc.abstractmethod
  def atom(self) -> Node: ...

  @abc.abstractmethod
  def argument(self) -> Node:
    r"""Reads one argument of a TeX command: a group, or a single symbol (`\frac13`)."""

  @abc.abstractmethod
  def braced(self) -> Node: ...

  @abc.abstractmethod
  def starts_atom(self) -> bool: ...

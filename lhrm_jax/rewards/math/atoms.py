"""The innermost level of the grammar: names, brackets and commands."""

from __future__ import annotations

import re
from fractions import Fraction

from lhrm_jax.rewards.math import (
  environments,
  functions,
  nodes,
  numerals,
  remarks,
  tokens,
  vocabulary,
)
from lhrm_jax.rewards.math.cursor import Grammar
from lhrm_jax.rewards.math.nodes import Matrix, Node, Num, Op, Seq, Sym, Text, Unreadable

_CONSTANTS = {"pi": "pi", "infty": "oo", "inf": "oo", "infinity": "oo", "oo": "oo"}
# Commands that cannot begin a factor.
NO_ATOM = frozenset(
  [r"\%", r"\pm", r"\mp", r"\cup", r"\cap", r"\setminus", r"\}", r"\rfloor", r"\rceil", r"\end",
   r"\&", "\\\\", r"\circ", r"\prime", r"\and", r"\or", r"\#", r"\|", r"\mod", r"\pmod",
   r"\choose", r"\over", *("\\" + name for name in vocabulary.CURRENCIES)]
)  # fmt: skip
_CLOSERS = {"(": (")", "]"), "[": ("]", ")"), r"\{": (r"\}",)}
# Letters that stand for functions when an argument in brackets follows.
_FUNCTION_LETTERS = frozenset("fghFGHPQRSTVWXYE")
_UNIT_VECTORS = (Sym("i"), Sym("j"), Sym("k"))
_ZERO = Num(Fraction(0))


def atom(p: Grammar) -> Node:
  """Reads one factor without its exponent."""
  token = p.peek()
  if token.kind == "num":
    return numerals.number(p)
  if token.kind == "text":
    p.next()
    return Text(token.text)
  if token.kind == "word":
    return _word(p)
  if token.text in _CLOSERS:
    return _bracketed(p)
  if token.text == "{":
    return p.braced()
  if token.text == "|":
    return _absolute(p)
  if token.kind == "cmd":
    return _command(p)
  raise Unreadable(f"nothing in the grammar begins with {token.text or 'the end'!r}")


def primed(node: Node) -> Node:
  if isinstance(node, Sym):
    return Sym(node.name + "'")
  raise Unreadable("a prime stands on a name only")


def _word(p: Grammar) -> Node:
  token = p.next()
  text = token.text
  if text in vocabulary.FUNCTIONS:
    return functions.function(p, text)
  if text.lower() in _CONSTANTS:
    return Sym(_CONSTANTS[text.lower()])
  if text == "x" and p.peek().kind == "num" and not p.peek().spaced:
    return Sym("x_" + p.next().text)
  if len(text) > 1:
    if len(text) > 40:
      raise Unreadable("a word this long is not a product")
    # A run of letters is a product, of which this factor is the first letter: in `xy^2` the power
    # belongs to the last.
    p.at -= 1
    p.items[p.at] = tokens.Token("word", text[1:])
    return Sym(text[0])
  return _named(p, text)


def _named(p: Grammar, name: str) -> Node:
  """A symbol with its subscript, or a function letter with its argument."""
  if p.peek().text == "_":
    p.next()
    name, node = _subscripted(p, name)
    if node is not None:
      return node
  if name[0] == "C" and (chosen := _combinations(p, name)) is not None:
    return chosen
  while p.take("'"):
    name += "'"
  if p.peek().text == "(" and (
    name[0] in _FUNCTION_LETTERS or name[-1] == "'" or _lone_argument(p)
  ):
    inside = _bracketed(p)
    if name in nodes.symbols(inside):  # g(3 - g) is a product
      return Op("mul", (Sym(name), inside))
    args = inside.items if isinstance(inside, Seq) else (inside,)
    return Op("call:" + name, args)
  return Sym(name)


def _combinations(p: Grammar, name: str) -> Node | None:
  """`C_5^2`, the number of ways to choose 2 of 5."""
  total = name[2:]
  if name[:2] != "C_" or not total.isdigit() or p.peek().text != "^" or len(total) > 4:
    return None
  at = p.at
  p.next()
  chosen = p.exponent()
  if isinstance(chosen, Num) and chosen.value <= int(total):
    return Op("binom", (Num(Fraction(int(total))), chosen))
  p.at = at
  return None


def _lone_argument(p: Grammar) -> bool:
  """Whether brackets around one letter or number follow directly, as in `b(0)`."""
  inside = p.peek(1)
  one = inside.kind == "num" or (inside.kind == "word" and len(inside.text) == 1)
  return one and p.peek(2).text == ")" and not p.peek().spaced


def _subscripted(p: Grammar, name: str) -> tuple[str, Node | None]:
  if p.peek().text != "{":
    token = p.next()
    if token.kind not in ("num", "word", "cmd", "text"):
      raise Unreadable(f"{token.text!r} is not a subscript")
    return f"{name}_{_subscript(token)}", None
  inner, i = [], 1
  while p.peek(i).text != "}" or p.peek(i).kind == "text":
    if p.peek(i).kind == "end":
      raise Unreadable("a subscript is not closed")
    inner.append(p.peek(i))
    i += 1
  plain = [t.kind in ("num", "word", "text", "cmd") or t.text in (",", "'", "*") for t in inner]
  if all(plain):
    p.at += i + 1
    return name + "_" + " ".join(map(_subscript, inner)), None
  return name, Op("call:" + name + "_", (p.braced(),))


def _subscript(token: tokens.Token) -> str:
  r"""A subscript as part of a name: `\max` and `\text{max}` are the same."""
  bare = token.text.lstrip("\\")
  return bare if bare in vocabulary.FUNCTIONS else token.text


def _bracketed(p: Grammar) -> Node:
  opening = p.next().text
  if opening == r"\{":
    if p.take(r"\}"):
      return Seq("{}", ())
    if (built := _builder(p)) is not None:
      return built
  array = opening == "(" and p.peek().text == r"\begin" and p.peek(2).text == "array"
  with p.deeper():
    bars, p.bars = p.bars, 0
    inside = p.answer()
    p.bars = bars
  closing = p.expect(*_CLOSERS[opening]).text
  if array and closing == ")" and isinstance(inside, Matrix) and inside.shape == (2, 1):
    inside = Op("column", (inside.rows[0][0], inside.rows[1][0]))  # or a binomial
  if opening == "(" and closing == ")" and p.peek().text == "_" and isinstance(inside, Num):
    return numerals.based(p, inside.written)
  if opening == r"\{":
    items = inside.items if isinstance(inside, Seq) and inside.brackets == "," else (inside,)
    return Seq("{}", items)
  if isinstance(inside, Seq) and inside.brackets == ",":
    if opening + closing not in ("()", "[]") and len(inside.items) != 2:
      raise Unreadable("brackets that do not match")
    return Seq(opening + closing, inside.items)
  if isinstance(inside, nodes.Rel):
    return inside
  if opening + closing in ("()", "[]"):
    return inside  # grouping only
  raise Unreadable(f"{opening} {closing} around a single value")


_RELATION_SIGNS = frozenset(["<", ">", "=", r"\le", r"\ge", r"\ne", r"\in", r"\notin", r"\equiv"])


def _builder(p: Grammar) -> Node | None:
  r"""`\{x \in \mathbb{R} \mid x > 1\}`, from behind its first brace; `None` for any other set."""
  depth, at, bar, end = 1, p.at, None, None
  while at < len(p.items):
    token = p.items[at]
    if token.kind != "text":
      depth += (token.text in (r"\{", "{", "(", "[")) - (token.text in (r"\}", "}", ")", "]"))
      if depth == 0:
        end = at
        break
      if depth == 1 and token.text in ("|", ":") and bar is None:
        bar = at
    at += 1
  if bar is None or end is None:
    return None
  head, tail = p.items[p.at : bar], p.items[bar + 1 : end]
  if not head or (head[0].kind == "num" and len(head) == 1):
    return None
  if not any(t.kind == "text" or t.text in _RELATION_SIGNS for t in tail):
    return None
  with p.deeper():
    parts = tuple(p.inside(tokens_) for tokens_ in (head, tail))
  p.at = end + 1
  return nodes.Union("such", parts)


def _absolute(p: Grammar) -> Node:
  p.expect("|")
  p.bars += 1
  with p.deeper():
    inside = p.sum()
  p.bars -= 1
  p.expect("|")
  return Op("abs", (inside,))


def _command(p: Grammar) -> Node:
  name = p.next().text[1:]
  if name in ("frac", "binom"):
    top, bottom = p.argument(), p.argument()
    return Op("div" if name == "frac" else "binom", (top, bottom))
  if name == "sqrt":
    return functions.root(p)
  if name in vocabulary.FUNCTIONS:
    return functions.function(p, name)
  if name in ("pi", "infty"):
    return Sym(_CONSTANTS[name])
  if name in ("lfloor", "lceil"):
    with p.deeper():
      inside = p.sum()
    p.expect(r"\rfloor", r"\rceil")
    return Op("floor" if name == "lfloor" else "ceil", (inside,))
  if name == "begin":
    return environments.matrix(p)
  if name == "emptyset":
    return Seq("{}", ())
  if name.startswith("R") and len(name) <= 2:
    if p.peek().text == "^" and p.peek(1).text in ("+", "-", "*", "{") and p.peek(1).kind == "op":
      marks = [p.peek(i).text for i in range(1, 4)]
      if marks[0] != "{" or (marks[1] in "+-*" and marks[2] == "}"):
        p.at += 4 if marks[0] == "{" else 2
        sign = marks[marks[0] == "{"]
        if name == "R" and sign in "+-":
          positive = sign == "+"
          return Seq("()", (_ZERO, Sym("oo")) if positive else (Op("neg", (Sym("oo"),)), _ZERO))
        return Sym(f"set_{name[1:] or 'R'} {sign}")
    if name == "R":
      return Seq("()", (Op("neg", (Sym("oo"),)), Sym("oo")))
    return Sym("set_" + name[1:])
  if name in ("overline", "bar"):
    inside = p.argument()
    # A line over capital letters is a segment, over anything else a conjugate or a mean.
    segment = nodes.symbols(inside) and all(
      s[0].isupper() and len(s) <= 2 for s in nodes.symbols(inside)
    )
    return inside if segment and len(nodes.symbols(inside)) > 1 else Op("conj", (inside,))
  if name in ("hat", "widehat", "tilde"):
    inside = p.argument()
    bare = inside in _UNIT_VECTORS or len(nodes.symbols(inside)) > 1  # an angle, say
    return inside if bare else Op("call:" + name, (inside,))
  if name == "underbrace":
    note = None
    inside = p.braced()
    if p.take("_"):
      note = p.argument()
    if isinstance(note, Text) and nodes.is_number(inside) and not _counts(note.text):
      return inside  # a word below a number says what it is
    return Op("call:underbrace", (inside,) if note is None else (inside, note))
  if name in vocabulary.CURRENCIES:
    negative = p.take("-")
    money = nodes.Quantity(p.power(), name)
    return Op("neg", (money,)) if negative else money
  if name == "det":
    return Op("det", (p.power(),))
  if name == "lim":
    return functions.limit(p)
  if name in ("angle", "triangle"):
    return p.argument()
  if name in ("sum", "prod"):
    return functions.big_operator(p, name)
  if name.isalpha():
    return _named(p, "\\" + name)
  raise Unreadable(f"nothing in the grammar begins with \\{name}")


def _counts(note: str) -> bool:
  """Whether the words below a brace may be a count, or change the value above it."""
  return remarks.changes_value(note) or re.search(r"\d", note) is not None

"""The innermost level of the grammar: numbers, names, brackets, functions and matrices."""

from __future__ import annotations

import re
from fractions import Fraction

from lhrm_jax.rewards.math import environments, nodes, remarks, tokens, vocabulary, words
from lhrm_jax.rewards.math.cursor import Cursor
from lhrm_jax.rewards.math.nodes import Matrix, Node, Num, Op, Seq, Sym, Text, Unreadable

_CONSTANTS = {"pi": "pi", "infty": "oo", "inf": "oo", "infinity": "oo", "oo": "oo"}
# Commands that never begin a factor.
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


def atom(p: Cursor) -> Node:
  """Reads one factor without its exponent."""
  token = p.peek()
  if token.kind == "num":
    return _number(p)
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


def argument(p: Cursor) -> Node:
  """Reads one argument of a TeX command: a group, or a single symbol (`\\frac13`)."""
  if p.peek().text == "{":
    return p.braced()
  token = p.peek()
  if token.kind == "num" and len(token.text) > 1:
    p.items[p.at] = tokens.Token("num", token.text[1:])
    return Num(Fraction(token.text[0]))
  if token.kind == "word" and len(token.text) > 1:
    p.items[p.at] = tokens.Token("word", token.text[1:])
    return Sym(token.text[0])
  with p.deeper():
    return atom(p)


def primed(node: Node) -> Node:
  if isinstance(node, Sym):
    return Sym(node.name + "'")
  raise Unreadable("a prime stands on a name only")


def _number(p: Cursor) -> Node:
  text = p.next().text
  whole, dot, decimals = text.partition(".")
  # 0.1\overline{6} and 0.\overline{3}; the tokenizer leaves the dot of the second alone.
  if p.peek().text in (r"\overline", r"\bar", r"\dot") and dot:
    return _repeating(p, whole, decimals)
  if p.peek().text == "_":
    return _based(p, text)
  digits = len((whole + decimals).lstrip("0")) if dot else 0
  return Num(Fraction(text), digits)


def _repeating(p: Cursor, whole: str, decimals: str) -> Node:
  p.next()
  block = _digits_argument(p)
  shift = 10 ** len(decimals)
  start = Fraction(int((whole + decimals) or "0"), shift)
  return Num(start + Fraction(int(block), shift * (10 ** len(block) - 1)))


def _digits_argument(p: Cursor) -> str:
  braced = p.take("{")
  token = p.next()
  if token.kind != "num" or not token.text.isdigit():
    raise Unreadable("only digits repeat")
  if braced:
    p.expect("}")
  return token.text


def _based(p: Cursor, text: str) -> Node:
  """`204_5`: an integer written in another base."""
  p.expect("_")
  base = _base_argument(p)
  if not 2 <= base <= 36:
    raise Unreadable(f"{base} is no base of a number")
  try:
    value = int(text, base)
  except ValueError:
    raise Unreadable(f"{text} is no number in base {base}") from None
  return Op("base", (Num(Fraction(value)), Num(Fraction(base))))


def _base_argument(p: Cursor) -> int:
  r"""The 8 of `_8`, `_{(8)}` and `_{\text{eight}}`."""
  if p.peek().text == "{" and (p.peek(1).kind == "text" or p.peek(1).text == "("):
    p.next()
    inside = p.next()
    if inside.kind == "text":
      named = words.spelled(inside.text)
      if named is None:
        raise Unreadable(f"{inside.text!r} is no base")
      base = int(named)
    else:
      base = int(_digits_argument(p)[:3])
      p.expect(")")
    p.expect("}")
    return base
  return int(_digits_argument(p)[:3])


def _word(p: Cursor) -> Node:
  token = p.next()
  text = token.text
  if text in vocabulary.FUNCTIONS:
    return _function(p, text)
  if text.lower() in _CONSTANTS:
    return Sym(_CONSTANTS[text.lower()])
  if text == "x" and p.peek().kind == "num" and not p.peek().spaced:
    return Sym("x_" + p.next().text)
  if len(text) > 1:
    if len(text) > 40:
      raise Unreadable("a word this long is no product")
    # A run of letters is a product, of which this factor is the first letter: in `xy^2` the power
    # belongs to the last.
    p.at -= 1
    p.items[p.at] = tokens.Token("word", text[1:])
    return Sym(text[0])
  return _named(p, text)


def _named(p: Cursor, name: str) -> Node:
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


def _combinations(p: Cursor, name: str) -> Node | None:
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


def _lone_argument(p: Cursor) -> bool:
  """Whether one letter or number stands in the brackets that follow at once, as in `b(0)`."""
  inside = p.peek(1)
  one = inside.kind == "num" or (inside.kind == "word" and len(inside.text) == 1)
  return one and p.peek(2).text == ")" and not p.peek().spaced


def _subscripted(p: Cursor, name: str) -> tuple[str, Node | None]:
  if p.peek().text != "{":
    token = p.next()
    if token.kind not in ("num", "word", "cmd", "text"):
      raise Unreadable(f"{token.text!r} is no subscript")
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
  r"""A subscript as part of a name: `\max` and `\text{max}` are one."""
  bare = token.text.lstrip("\\")
  return bare if bare in vocabulary.FUNCTIONS else token.text


def _bracketed(p: Cursor) -> Node:
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
    return _based(p, inside.written)
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


def _builder(p: Cursor) -> Node | None:
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


def _absolute(p: Cursor) -> Node:
  p.expect("|")
  p.bars += 1
  with p.deeper():
    inside = p.sum()
  p.bars -= 1
  p.expect("|")
  return Op("abs", (inside,))


def _command(p: Cursor) -> Node:
  name = p.next().text[1:]
  if name in ("frac", "binom"):
    top, bottom = argument(p), argument(p)
    return Op("div" if name == "frac" else "binom", (top, bottom))
  if name == "sqrt":
    return _root(p)
  if name in vocabulary.FUNCTIONS:
    return _function(p, name)
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
    inside = argument(p)
    # A line over capital letters is a segment, over anything else a conjugate or a mean.
    segment = nodes.symbols(inside) and all(
      s[0].isupper() and len(s) <= 2 for s in nodes.symbols(inside)
    )
    return inside if segment and len(nodes.symbols(inside)) > 1 else Op("conj", (inside,))
  if name in ("hat", "widehat", "tilde"):
    inside = argument(p)
    bare = inside in _UNIT_VECTORS or len(nodes.symbols(inside)) > 1  # an angle, say
    return inside if bare else Op("call:" + name, (inside,))
  if name == "underbrace":
    note = None
    inside = p.braced()
    if p.take("_"):
      note = argument(p)
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
    return _limit(p)
  if name in ("angle", "triangle"):
    return argument(p)
  if name in ("sum", "prod"):
    return _big(p, name)
  if name.isalpha():
    return _named(p, "\\" + name)
  raise Unreadable(f"nothing in the grammar begins with \\{name}")


def _counts(note: str) -> bool:
  """Whether the words below a brace may say how often, or make another value of what is above."""
  return remarks.changes_value(note) or re.search(r"\d", note) is not None


def _root(p: Cursor) -> Node:
  degree: Node = Num(Fraction(2))
  if p.take("["):
    with p.deeper():
      degree = p.sum()
    p.expect("]")
  if p.peek().kind == "num":  # \sqrt12 is meant as \sqrt{12}
    return Op("root", (Num(Fraction(p.next().text)), degree))
  return Op("root", (argument(p), degree))


def _function(p: Cursor, name: str) -> Node:
  r"""A named function: `\sin x`, `\sin^2(x)`, `\log_2 8`, `sqrt(2)`, `max(a, b)`."""
  if name == "sqrt":
    return _root(p)
  base = power = None
  for _ in range(2):
    if p.take("_"):
      base = argument(p)
    elif p.take("^"):
      power = p.exponent()
  with p.deeper():
    arg = _function_argument(p)
  args = arg.items if isinstance(arg, Seq) else (arg,)
  if not args:
    raise Unreadable(f"{name} of nothing")
  if base is not None:
    args = (*args, base)
  inverse = power is not None and power == Op("neg", (Num(Fraction(1)),))
  node = Op(f"fn:{'arc' + name if inverse else name}", args)
  return node if power is None or inverse else Op("pow", (node, power))


def _function_argument(p: Cursor) -> Node:
  """What a function applies to: brackets, or the factors up to the next sign or function."""
  if p.peek().text in ("(", "[", "{"):
    inside = atom(p)
    if p.peek().text != "^":
      return inside
    p.next()
    return Op("pow", (inside, p.exponent()))
  negative = p.take("-")
  factors = [p.power()]
  while p.starts_atom() and not _is_function(p.peek()) and p.peek().text not in ("(", "["):
    factors.append(p.power())
  node = factors[0] if len(factors) == 1 else Op("mul", tuple(factors))
  return Op("neg", (node,)) if negative else node


def _is_function(token: tokens.Token) -> bool:
  return token.text.lstrip("\\") in vocabulary.FUNCTIONS


def _limit(p: Cursor) -> Node:
  r"""`\lim_{x \to 0} f(x)`: an unknown function of where it is taken and of what."""
  where = (argument(p),) if p.take("_") else ()
  with p.deeper():
    body = p.factors()
  return Op("call:lim", (*[a for w in where for a in nodes.children(w)], body))


def _big(p: Cursor, name: str) -> Node:
  r"""`\sum_{k=0}^{n} body`: kept as an unevaluated function of its bounds and its body."""
  low = high = Num(Fraction(0))
  for _ in range(2):
    if p.take("_"):
      low = argument(p)
    elif p.take("^"):
      high = p.exponent()
  bound = None
  if isinstance(low, nodes.Rel) and isinstance(low.args[0], Sym):
    bound, low = low.args[0].name, low.args[-1]
  with p.deeper():
    body = p.factors()
  if bound is not None:
    body = nodes.rename(body, bound, "bound")
  return Op(f"call:{name}", (low, high, body))

"""Reads an answer by recursive descent: LaTeX and plain notation to the nodes of `nodes.py`.

The grammar is closed and every recursion is counted, so any string ends in a tree of at most
`MAX_TOKENS` leaves and `MAX_DEPTH` levels, or in `Unreadable` or `TooBig`. Nothing is evaluated
here. From loose to tight:

    answer   : group (";" group)*
    group    : item (("," | and | or) item)*
    item     : sets (relation sets)*
    sets     : ratio ((cup | cap | setminus) ratio)*
    ratio    : sum (":" sum)*
    sum      : product (("+" | "-" | pm) product)*
    product  : power (("*" | "/")? power)*
    power    : atom postfix* ("^" argument)?
"""

from fractions import Fraction

from lhrm_jax.rewards.math import atoms, nodes, tokens, units
from lhrm_jax.rewards.math.nodes import Node, Num, Op, Quantity, Rel, Seq, Sym, Text, Unreadable

# One bracket costs three levels of this and about eleven frames of Python.
MAX_DEPTH = 120
_RELATIONS = {
  "=": "=", "<": "<", ">": ">", r"\le": "<=", r"\ge": ">=", r"\ne": "!=", r"\approx": "~",
  r"\equiv": "==", r"\in": "in", r"\notin": "notin", r"\rightarrow": "=",
}  # fmt: skip
_SET_OPERATIONS = {r"\cup": "union", r"\cap": "intersection", r"\setminus": "minus"}


def parse(text: str) -> Node:
  """Parses a cleaned answer (`clean.clean`).

  Raises:
    Unreadable: outside the grammar.
    TooBig: over one of the caps.
  """
  parser = Parser(tokens.tokenize(text))
  node = parser.answer()
  if parser.peek().kind != "end":
    raise Unreadable(f"nothing in the grammar continues with {parser.peek().text!r}")
  return node


class Parser:
  """A cursor over tokens with one method for each level of the grammar."""

  def __init__(self, items: list[tokens.Token]):
    self.items = items
    self.at = 0
    self.depth = 0
    self.bars = 0

  # Moving over tokens.

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

  def deeper(self) -> "Parser":
    return self

  def __enter__(self):
    self.depth += 1
    if self.depth > MAX_DEPTH:
      raise nodes.TooBig(f"nested deeper than {MAX_DEPTH} levels")

  def __exit__(self, *_):
    self.depth -= 1

  # The levels of the grammar.

  def answer(self) -> Node:
    groups = [self.group()]
    while self.take(";", "\\\\"):
      if self.peek().kind == "end":
        break
      groups.append(self.group())
    if len(groups) == 1:
      return groups[0]
    # `p=5,q=2; p=7,q=2` is two records; `1, 2; 3` is one list.
    if all(_is_record(group) for group in groups):
      return Seq(",", tuple(groups))
    return Seq(",", tuple(item for group in groups for item in _flat(group)))

  def group(self) -> Node:
    """Items joined by commas, "and" and "or"."""
    parts: list[list[Node]] = [[self.item()]]
    while True:
      if self.take(","):
        if self.take("and", "or", r"\and", r"\or"):
          pass
        if self.peek().kind == "end" or self.peek().text == ";":
          break
        parts[-1].append(self.item())
      elif self.take("and", "or", r"\and", r"\or"):
        parts.append([self.item()])
      else:
        break
    records = [Seq(",", tuple(part)) for part in parts]
    if len(parts) > 1 and all(_is_record(record) for record in records):
      return Seq(",", tuple(records))
    items = tuple(item for part in parts for item in part)
    return items[0] if len(items) == 1 else Seq(",", items)

  def item(self) -> Node:
    args, ops = [self.sets()], []
    while self.peek().kind != "text" and self.peek().text in _RELATIONS:
      ops.append(_RELATIONS[self.next().text])
      if ops[-1] == "=" and self.peek().text in _RELATIONS:
        ops[-1] = _RELATIONS[self.next().text]  # "= \approx"
      args.append(self.sets())
    if not ops:
      return args[0]
    if self.peek().text == "(" and self.peek(1).text in ("mod", r"\mod"):
      raise Unreadable("congruences are outside the grammar")
    return Rel(tuple(ops), tuple(args))

  def sets(self) -> Node:
    left = self.ratio()
    while self.peek().text in _SET_OPERATIONS:
      kind = _SET_OPERATIONS[self.next().text]
      left = nodes.Union(kind, (left, self.ratio()))
    return left

  def ratio(self) -> Node:
    parts = [self.sum()]
    while self.take(":"):
      parts.append(self.sum())
    return parts[0] if len(parts) == 1 else Op("ratio", tuple(parts))

  def sum(self) -> Node:
    terms = [self.product()]
    while True:
      if self.take("+"):
        terms.append(self.product())
      elif self.peek().text == "-" and self.peek().kind == "op":
        self.next()
        terms.append(Op("neg", (self.product(),)))
      elif self.peek().text in (r"\pm", r"\mp"):
        kind = self.next().text[1:]
        terms.append(Op(kind, (self.product(),)))
      else:
        return terms[0] if len(terms) == 1 else Op("add", tuple(terms))

  def product(self) -> Node:
    with self.deeper():
      sign = ""
      while self.peek().text in ("+", "-", r"\pm", r"\mp"):
        token = self.next().text
        if token == "-":
          sign = {"": "neg", "neg": ""}.get(sign, sign)
        elif token != "+":
          sign = token[1:]
      node = self.factors()
      return Op(sign, (node,)) if sign else node

  def factors(self) -> Node:
    node = self.power()
    if _is_whole(node):
      node = self.mixed(node)
    while True:
      if self.take("*"):
        node = _times(node, self.signed_power())
      elif self.take("/"):
        node = Op("div", (node, self.signed_power()))
      elif self.starts_atom():
        node = _times(node, self.power())
      else:
        return node

  def signed_power(self) -> Node:
    """A factor after an explicit operator may carry a sign: `2 * -3`."""
    negative = False
    while self.peek().text in ("+", "-"):
      negative ^= self.next().text == "-"
    node = self.power()
    return Op("neg", (node,)) if negative else node

  def mixed(self, whole: Node) -> Node:
    r"""A mixed number, where one goes on here: `1\frac{1}{2}` or `1 1/2`."""
    if self.peek().text == r"\frac":
      part = self.power()
      if isinstance(part, Op) and part.kind == "div" and all(map(_is_whole, part.args)):
        top, bottom = (arg.value for arg in part.args)
        if 0 <= top < bottom:
          return Op("add", (whole, part))
      return _times(whole, part)
    top, slash, bottom = (self.peek(i) for i in range(3))
    if top.kind == bottom.kind == "num" and top.spaced and slash.text == "/":
      self.skip(3)
      part = Op("div", (Num(Fraction(top.text)), Num(Fraction(bottom.text))))
      return Op("add", (whole, part))
    return whole

  def power(self) -> Node:
    with self.deeper():
      node = self.postfix(atoms.atom(self))
      if self.take("^"):
        if self.take(r"\circ") or (
          [self.peek(i).text for i in range(3)] == ["{", r"\circ", "}"] and self.skip(3)
        ):
          return self.postfix(Op("deg", (node,)))
        if self.take(r"\prime"):
          return self.postfix(atoms.primed(node))
        node = self.postfix(Op("pow", (node, self.exponent())))
      return node

  def exponent(self) -> Node:
    if self.peek().text == "{":
      return self.braced()
    if self.peek().text in ("-", "+"):  # plain notation: 10^-3
      negative = self.next().text == "-"
      node = self.power()
      return Op("neg", (node,)) if negative else node
    if self.peek().kind == "num":  # plain notation: 2^10
      return Num(Fraction(self.next().text))
    return self.power() if self.peek().text == "(" else atoms.atom(self)

  def skip(self, count: int) -> bool:
    self.at += count
    return True

  def postfix(self, node: Node) -> Node:
    while True:
      token = self.peek()
      if token.kind == "text":
        self.next()
        node = _annotated(node, token.text, self)
      elif token.text == "!" and token.kind == "op":
        self.next()
        node = Op("fact", (node,))
      elif token.text in ("%", r"\%"):
        self.next()
        node = Op("pct", (node,))
      elif token.text == r"\circ":
        self.next()
        node = Op("deg", (node,))
      elif token.text == "'":
        self.next()
        node = atoms.primed(node)
      elif token.kind == "word" and _takes_unit(node) and units.is_unit_word(token.text):
        words = []
        while self.peek().kind == "word" and units.is_unit_word(self.peek().text):
          words.append(self.next().text)
        node = _annotated(node, " ".join(words), self)
      elif token.kind == "word" and self.lone_unit(node):
        node = _annotated(node, self.next().text, self)
      else:
        return node

  def lone_unit(self, node: Node) -> bool:
    """Whether one letter apart from the number before it ends the answer: `5 m`, but not `5m`."""
    token = self.peek()
    return (
      isinstance(node, Num)
      and token.spaced
      and token.text in ("m", "g", "s", "h", "L")
      and (self.peek(1).kind == "end" or self.peek(1).text == "}")
    )

  def starts_atom(self) -> bool:
    """Whether the next token can begin a factor of an implied product."""
    token = self.peek()
    if token.kind == "word":
      return token.text not in ("and", "or")
    if token.kind == "text":
      return False
    if token.kind == "num":
      # `2 3` is no product; `x 3` and `(2) 3` are.
      return self.items[self.at - 1].kind != "num"
    if token.kind == "op":
      if token.text == "|":
        return self.bars == 0 and self.closes_bar()
      return token.text in ("(", "{", "[")
    if token.kind == "cmd":
      return token.text not in atoms.NO_ATOM and token.text not in _RELATIONS
    return False

  def closes_bar(self) -> bool:
    return any(item.text == "|" for item in self.items[self.at + 1 :])

  def braced(self) -> Node:
    """`{ answer }`, a group of TeX."""
    self.expect("{")
    with self.deeper():
      bars, self.bars = self.bars, 0
      node = self.answer()
      self.bars = bars
    self.expect("}")
    return node


def _times(left: Node, right: Node) -> Node:
  if isinstance(left, Op) and left.kind == "mul":
    return Op("mul", (*left.args, right))
  return Op("mul", (left, right))


def _is_whole(node: Node) -> bool:
  return isinstance(node, Num) and not node.digits and node.value.denominator == 1


def _flat(node: Node) -> tuple[Node, ...]:
  return node.items if isinstance(node, Seq) and node.brackets == "," else (node,)


def _is_record(node: Node) -> bool:
  """Whether `node` is a bare list of two or more `name = value`."""
  return (
    isinstance(node, Seq)
    and node.brackets == ","
    and len(node.items) > 1
    and all(
      isinstance(i, Rel) and i.ops == ("=",) and isinstance(i.args[0], Sym) for i in node.items
    )
  )


def _takes_unit(node: Node) -> bool:
  """Bare words are units only behind something numeric: `5 miles`, but not `x miles`."""
  return not nodes.symbols(node) and not isinstance(node, Text)


def _annotated(node: Node, text: str, parser: Parser) -> Node:
  if units.is_percent(text):
    return Op("pct", (node,))
  if units.is_time_of_day(text):
    raise Unreadable("a time of day is compared as text")
  if parser.take("^"):  # \text{cm}^2
    power = parser.exponent()
    if isinstance(power, Num):
      text += f"^{power.value}"
  if isinstance(node, Quantity):
    return Quantity(node.value, f"{node.unit} {text}")
  return Quantity(node, text)

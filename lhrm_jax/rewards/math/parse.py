"""Reads an answer by recursive descent: LaTeX and plain notation to the nodes of `nodes.py`.

The grammar is closed and every recursion is counted, so any string gives a tree of at most
`MAX_TOKENS` leaves and `MAX_DEPTH` levels, or raises `Unreadable` or `TooBig`. Nothing is evaluated
here. From loose to tight:

    answer   : groups ((choose | over) groups)?
    groups   : group (";" group)*
    group    : item (("," | and | or) item)*
    item     : sets (relation sets)*
    sets     : ratio ((cup | cap | setminus) ratio)*
    ratio    : sum (":" sum)*
    sum      : product (("+" | "-" | pm) product)*
    product  : power (("*" | "/")? power)*
    power    : atom postfix* ("^" argument)?
"""

from fractions import Fraction

from lhrm_jax.rewards.math import (
  atoms,
  lists,
  measures,
  nodes,
  remarks,
  tokens,
  units,
  vocabulary,
)
from lhrm_jax.rewards.math.cursor import Grammar
from lhrm_jax.rewards.math.nodes import Node, Num, Op, Quantity, Rel, Seq, Sym, Text, Unreadable

_RELATIONS = {
  "=": "=", "<": "<", ">": ">", r"\le": "<=", r"\ge": ">=", r"\ne": "!=", r"\approx": "~",
  r"\equiv": "==", r"\in": "in", r"\notin": "notin", r"\rightarrow": "=",
}  # fmt: skip
_CURRENCY_COMMANDS = frozenset("\\" + name for name in vocabulary.CURRENCIES)
_SET_OPERATIONS = {r"\cup": "union", r"\cap": "intersection", r"\setminus": "minus"}


def parse(text: str) -> Node:
  """Parses a cleaned answer (`clean.clean`).

  Raises:
    Unreadable: outside the grammar.
    TooBig: over one of the caps.
  """
  return Parser(remarks.strip(tokens.tokenize(text))).whole()


class Parser(Grammar):
  """A cursor over tokens with one method for each level of the grammar."""

  def whole(self) -> Node:
    """Reads all tokens as one answer."""
    node = self.answer()
    if self.peek().kind != "end":
      raise Unreadable(f"nothing in the grammar continues with {self.peek().text!r}")
    return node

  def inside(self, items: list[tokens.Token]) -> Node:
    """Reads `items`, a part of these tokens, as an answer of its own."""
    part = Parser(items)
    part.depth = self.depth
    return part.whole()

  # The levels of the grammar.

  def answer(self) -> Node:
    node = self.groups()
    if self.peek().text in (r"\choose", r"\over"):
      kind = "binom" if self.next().text == r"\choose" else "div"
      return Op(kind, (node, self.groups()))
    return node

  def groups(self) -> Node:
    groups = [self.group()]
    while self.take(";", "\\\\"):
      if self.peek().kind == "end":
        break
      groups.append(self.group())
    return lists.of_groups(groups)

  def group(self) -> Node:
    """Items joined by commas, "and" and "or"."""
    parts: list[list[Node]] = [[self.item()]]
    joints = set()
    while True:
      if self.take(","):
        joint = self.joint() or ","
        if self.peek().kind == "end" or self.peek().text in (";", r"\&"):
          break
        parts[-1].append(self.item())
      elif joint := self.joint():
        parts.append([self.item()])
      else:
        break
      joints.add(joint)
    return lists.of_items(parts, joints)

  def joint(self) -> str:
    """Steps over "and" or "or" and returns it, or returns nothing."""
    if self.take("and", r"\and"):
      return "and"
    return "or" if self.take("or", r"\or") else ""

  def item(self) -> Node:
    args, ops = [self.first_side()], []
    while self.peek().kind != "text" and self.peek().text in _RELATIONS:
      ops.append(_RELATIONS[self.next().text])
      if ops[-1] == "=" and self.peek().text in _RELATIONS:
        ops[-1] = _RELATIONS[self.next().text]  # "= \approx"
      args.append(self.sets())
    modulus = self.modulus()
    if not ops:
      return args[0] if modulus is None else Op("residue", (args[0], modulus))
    if modulus is None:
      return Rel(tuple(ops), tuple(args))
    if len(ops) > 1 or ops[0] not in ("=", "=="):
      raise Unreadable("a congruence of several sides")
    return Op("congruent", (*args, modulus))

  def first_side(self) -> Node:
    """The left side of a relation; `\\ge 12` has none."""
    if self.peek().kind != "text" and self.peek().text in ("<", ">", r"\le", r"\ge", r"\ne"):
      return Text("")
    return self.sets()

  def modulus(self) -> Node | None:
    r"""The 5 of `\pmod{5}`, `\pmod 5` and `(mod 5)`."""
    bracket = self.peek().text == "(" and self.peek(1).text in ("mod", r"\mod")
    if not bracket and self.peek().text not in (r"\pmod", r"\mod", "mod"):
      return None
    self.skip(2 if bracket else 1)
    node = Num(Fraction(self.next().text)) if self.peek().kind == "num" else self.argument()
    if bracket:
      self.expect(")")
    return node

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
        break
    if len(terms) == 2 and isinstance(terms[0], Seq) and isinstance(terms[1], Op):
      taken = terms[1].args[0]
      if terms[1].kind == "neg" and isinstance(taken, Seq) and taken.brackets == "{}":
        return nodes.Union("minus", (terms[0], taken))  # R - {3}
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
        return measures.measured_sum(node)

  def signed_power(self) -> Node:
    """A factor after an explicit operator may carry a sign: `2 * -3`."""
    negative = False
    while self.peek().text in ("+", "-"):
      negative ^= self.next().text == "-"
    node = self.power()
    return Op("neg", (node,)) if negative else node

  def mixed(self, whole: Node) -> Node:
    r"""A mixed number, where one continues here: `1\frac{1}{2}` or `1 1/2`."""
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
      node = self.postfix(self.atom())
      if self.take("^"):
        if self.taken_mark(r"\circ"):
          return self.postfix(self.minutes(Op("deg", (node,))))
        if self.take(r"\prime"):
          return self.postfix(atoms.primed(node))
        power = self.exponent()
        transposed = isinstance(node, nodes.Matrix) and power == Sym("T")
        node = self.postfix(Op("transpose", (node,)) if transposed else Op("pow", (node, power)))
      return node

  def taken_mark(self, mark: str) -> bool:
    """Steps over `mark`, alone or in braces."""
    braced = [self.peek(i).text for i in range(3)] == ["{", mark, "}"]
    return self.take(mark) or (braced and self.skip(3))

  def minutes(self, degrees: Node) -> Node:
    """Degrees with the minutes and seconds of arc behind them, if there are any."""
    for size in (60, 3600):
      at = self.at
      if self.peek().kind != "num":
        break
      value = Num(Fraction(self.next().text) / size)
      marks = 0
      while self.take("'") or (self.take("^") and self.taken_mark(r"\prime")):
        marks += 1
      if marks == 0 or marks != (1 if size == 60 else 2):
        self.at = at
        break
      degrees = Op("add", (degrees, Op("deg", (value,))))
    return degrees

  def exponent(self) -> Node:
    if self.peek().text == "{":
      return self.braced()
    if self.peek().text in ("-", "+"):  # plain notation: 10^-3
      negative = self.next().text == "-"
      node = self.power()
      return Op("neg", (node,)) if negative else node
    if self.peek().kind == "num":  # plain notation: 2^10
      return Num(Fraction(self.next().text))
    return self.power() if self.peek().text == "(" else self.atom()

  def postfix(self, node: Node) -> Node:
    while True:
      token = self.peek()
      if token.kind == "text":
        self.next()
        node = measures.annotated(node, token.text, self)
      elif token.text == "!" and token.kind == "op":
        self.next()
        double = self.peek().text == "!" and not self.peek().spaced and self.take("!")
        node = Op("fact2" if double else "fact", (node,))
      elif token.text in ("%", r"\%"):
        self.next()
        node = Op("pct", (node,))
      elif token.text == r"\circ":
        self.next()
        node = self.minutes(Op("deg", (node,)))
      elif token.text == "'":
        self.next()
        node = atoms.primed(node)
      elif token.text in _CURRENCY_COMMANDS and nodes.is_number(node):
        node = Quantity(node, self.next().text[1:])
      elif token.kind == "word" and _takes_unit(node) and units.is_unit_word(token.text):
        words = []
        while self.peek().kind == "word" and units.is_unit_word(self.peek().text):
          words.append(self.next().text)
        node = measures.annotated(node, " ".join(words), self)
      else:
        return node

  def atom(self) -> Node:
    return atoms.atom(self)

  def argument(self) -> Node:
    if self.peek().text == "{":
      return self.braced()
    token = self.peek()
    if token.kind == "num" and len(token.text) > 1:
      self.items[self.at] = tokens.Token("num", token.text[1:])
      return Num(Fraction(token.text[0]))
    if token.kind == "word" and len(token.text) > 1:
      self.items[self.at] = tokens.Token("word", token.text[1:])
      return Sym(token.text[0])
    with self.deeper():
      return self.atom()

  def starts_atom(self) -> bool:
    """Whether the next token can begin a factor of an implied product."""
    token = self.peek()
    if token.kind == "word":
      return token.text not in ("and", "or", "mod")
    if token.kind == "text":
      return False
    if token.kind == "num":
      # `2 3` is not a product; `x 3` and `(2) 3` are.
      return self.items[self.at - 1].kind != "num"
    if token.kind == "op":
      if token.text == "|":
        return self.bars == 0 and self.closes_bar()
      modulus = token.text == "(" and self.peek(1).text in ("mod", r"\mod")
      return token.text in ("(", "{", "[") and not modulus
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


def _takes_unit(node: Node) -> bool:
  """Bare words are units only behind something numeric: `5 miles`, but not `x miles`."""
  return not nodes.symbols(node) and not isinstance(node, Text)

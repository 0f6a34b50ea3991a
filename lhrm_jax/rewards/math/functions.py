"""Named functions, roots, limits, and sums over a range."""

from __future__ import annotations

from fractions import Fraction

from lhrm_jax.rewards.math import nodes, tokens, vocabulary
from lhrm_jax.rewards.math.cursor import Grammar
from lhrm_jax.rewards.math.nodes import Node, Num, Op, Seq, Sym, Unreadable


def root(p: Grammar) -> Node:
  degree: Node = Num(Fraction(2))
  if p.take("["):
    with p.deeper():
      degree = p.sum()
    p.expect("]")
  if p.peek().kind == "num":  # \sqrt12 is meant as \sqrt{12}
    return Op("root", (Num(Fraction(p.next().text)), degree))
  return Op("root", (p.argument(), degree))


def function(p: Grammar, name: str) -> Node:
  r"""A named function: `\sin x`, `\sin^2(x)`, `\log_2 8`, `sqrt(2)`, `max(a, b)`."""
  if name == "sqrt":
    return root(p)
  base = power = None
  for _ in range(2):
    if p.take("_"):
      base = p.argument()
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


def _function_argument(p: Grammar) -> Node:
  """Reads a function's argument: brackets, or the factors up to the next sign or function."""
  if p.peek().text in ("(", "[", "{"):
    inside = p.atom()
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


def limit(p: Grammar) -> Node:
  r"""`\lim_{x \to 0} f(x)`: an unknown function of its point and its body."""
  where = (p.argument(),) if p.take("_") else ()
  with p.deeper():
    body = p.factors()
  return Op("call:lim", (*[a for w in where for a in nodes.children(w)], body))


def big_operator(p: Grammar, name: str) -> Node:
  r"""`\sum_{k=0}^{n} body`: kept as an unevaluated function of its bounds and its body."""
  low = high = Num(Fraction(0))
  for _ in range(2):
    if p.take("_"):
      low = p.argument()
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

"""Invents answers that look like a right one and are not."""

import re
from collections.abc import Iterator

_NUMBER = re.compile(r"(?<![\d.{_\\])\d+(?:\.\d+)?(?![\d.}])")
_GROUP = re.compile(r"([\^_]|\\sqrt(?:\[\d+\])?|\\s?(?:sin|cos|ln|log))\s*\{([^{}]+)\}")
_FRACTION = re.compile(r"\\[dt]?frac\s*\{([^{}]+)\}\s*\{([^{}]+)\}")
_UNITS = {"cm": "kg", "km": "cm", "m": "s", "kg": "g", "hours": "minutes", "min": "h",
          "dollars": "cents", "inches": "feet", "ft": "in", "m/s": "km/h"}  # fmt: skip


def near_misses(gold: str) -> Iterator[tuple[str, str]]:
  """Pairs of what was changed and the changed text; equal to `gold` only by rare accident."""
  body = gold.strip().strip("$").strip().rstrip(".")
  yield from _factorials(body)
  yield from _signs(body)
  yield from _points(body)
  yield from _braces(body)
  yield from _brackets(body)
  for unit, other in _UNITS.items():
    changed = re.sub(rf"(\\text\s*\{{\s*){re.escape(unit)}(\s*\}})", rf"\g<1>{other}\g<2>", body)
    if changed != body:
      yield "unit", changed


def _factorials(body: str) -> Iterator[tuple[str, str]]:
  for match in _NUMBER.finditer(body):
    if match[0] not in ("1", "2") and body[match.end() : match.end() + 1] != "!":
      yield "factorial", body[: match.end()] + "!" + body[match.end() :]
  if "!" in body:
    yield "factorial lost", body.replace("!", "")


def _signs(body: str) -> Iterator[tuple[str, str]]:
  yield "sign", body[1:] if body.startswith("-") else "-" + body
  for match in re.finditer(r"(?<=[\w})\]])\s*([-+])\s*(?=[\w\\(])", body):
    other = "+" if match[1] == "-" else "-"
    yield "sign", body[: match.start(1)] + other + body[match.end(1) :]


def _points(body: str) -> Iterator[tuple[str, str]]:
  for match in _NUMBER.finditer(body):
    if int(match[0].replace(".", "")) == 0:
      continue
    before, after = body[: match.start()], body[match.end() :]
    if "." in match[0]:
      yield "point lost", before + match[0].replace(".", "") + after
    else:
      yield "point", before + "." + match[0] + after
      if len(match[0]) > 1:
        yield "point", before + match[0][0] + "." + match[0][1:] + after


def _braces(body: str) -> Iterator[tuple[str, str]]:
  for match in _GROUP.finditer(body):
    inside = match[2]
    sign = re.search(r"(?<=[\w)])\s*[-+*]", inside)
    if sign:
      cut = sign.start()
    elif re.fullmatch(r"\d{2,}", inside):
      cut = len(inside) - 1
    else:
      continue
    moved = match[1] + "{" + inside[:cut] + "}" + inside[cut:]
    yield "brace", body[: match.start()] + moved + body[match.end() :]
  for match in _FRACTION.finditer(body):
    top, bottom = match[1], match[2]
    if bottom.isdigit() and len(bottom) > 1 and top.isdigit():
      moved = rf"\frac{{{top}{bottom[0]}}}{{{bottom[1:]}}}"
      if int(bottom[1:]):
        yield "brace", body[: match.start()] + moved + body[match.end() :]
    if top.isdigit() and len(top) > 1 and bottom.isdigit():
      moved = rf"\frac{{{top[:-1]}}}{{{top[-1]}{bottom}}}"
      yield "brace", body[: match.start()] + moved + body[match.end() :]


def _brackets(body: str) -> Iterator[tuple[str, str]]:
  plain = body.replace(r"\left", "").replace(r"\right", "")
  if len(plain) > 2 and plain[0] in "([" and plain[-1] in ")]" and "," in plain:
    first = {"(": "[", "[": "("}[plain[0]]
    last = {")": "]", "]": ")"}[plain[-1]]
    yield "bracket", first + plain[1:]
    yield "bracket", plain[:-1] + last

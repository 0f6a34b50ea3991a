"""Cuts a cleaned answer into tokens of a closed vocabulary.

A character or command that is not in the vocabulary makes the answer unreadable; nothing is passed
on unread. Quotes, backticks, underscored names and the like never get past this file.
"""

import dataclasses
import re

from lhrm_jax.rewards.math.nodes import TooBig, Unreadable
from lhrm_jax.rewards.math.vocabulary import COMMANDS, FUNCTIONS, SAME, TEXTS, TRANSPARENT

MAX_TOKENS = 600
MAX_DIGITS = 400

_COUNTED = re.compile(r"(\d[\d,]*(?:\.\d+)?)\s*([a-zA-Z][a-zA-Z ]*)")
UNIT_LETTERS = ("m", "g", "s", "h", "L", "l", "N", "J", "W", "V", "A", "K")
_NESTED_TEXT = re.compile(r"\\(?:text\w*|emph|mathrm|mathbf)\s*\{[^{}]*\}")
_TIME_OF_DAY = re.compile(r"\d.*\b[ap]\.?\s?m\b", re.I)
_WORD_LIST = re.compile(r"[\s,]*(?:,|and|or|&)[\s,]*", re.I)
_TOKEN = re.compile(
  r"(?P<space>\s+)"
  r"|(?P<num>\d+(?:\.\d+|\.(?=\\(?:overline|bar|dot)|\s*[-+*/)\]}]))?|\.\d+)"
  r"|(?P<word>(?:and|or)(?![a-z])|[a-zA-Z]+)"
  r"|(?P<cmd>\\[a-zA-Z]+|\\\\|\\[{}|%#&])"
  r"|(?P<op><=|>=|!=|==|\*\*|[-+*/^_=<>()\[\]{}|,;:!'%&])"
)


@dataclasses.dataclass(frozen=True, slots=True)
class Token:
  """`kind` is num, word, cmd, op, text or end; `spaced` says whether white space came before it."""

  kind: str
  text: str
  spaced: bool = False


END = Token("end", "")


def tokenize(text: str) -> list[Token]:
  """Cuts `text` into tokens.

  Raises:
    Unreadable: a character or command outside the vocabulary.
    TooBig: more tokens, or more digits in one number, than an answer may have.
  """
  tokens: list[Token] = []
  i, spaced = 0, False
  while i < len(text):
    match = _TOKEN.match(text, i)
    if match is None:
      raise Unreadable(f"the character {text[i]!r} is outside the grammar")
    kind, value, i = match.lastgroup, match[0], match.end()
    if kind == "space":
      spaced = True
      continue
    if kind == "num" and len(value) > MAX_DIGITS:
      raise TooBig(f"a number of {len(value)} digits, more than {MAX_DIGITS}")
    if kind == "cmd" and value[1:] in TEXTS:
      i = _text_command(text, i, value[1:], tokens, spaced)
    elif kind == "cmd":
      value, i = _known_command(value, text, i)
      # `\lt` and its like become the plain operators they stand for.
      plain = value if value.startswith("\\") else None
      tokens.append(Token("cmd" if plain else "op", value, spaced))
    else:
      value = {"<=": r"\le", ">=": r"\ge", "!=": r"\ne", "==": "=", "**": "^"}.get(value, value)
      tokens.append(Token("cmd" if value[0] == "\\" else kind, value, spaced))
    spaced = False
    if len(tokens) > MAX_TOKENS:
      raise TooBig(f"more than {MAX_TOKENS} symbols in one answer")
  return tokens


def _known_command(value: str, text: str, i: int) -> tuple[str, int]:
  """The canonical command, and where the text continues: `\\quadx` is `\\quad` then `x`."""
  name = value[1:]
  if not name.isalpha():
    return value, i
  if name not in COMMANDS:
    for cut in range(len(name) - 1, 1, -1):
      if name[:cut] in COMMANDS:
        return _canonical(name[:cut]), i - (len(name) - cut)
    if len(name) <= 3 and name != "not":  # an author's own macro, kept as an opaque symbol
      return "\\" + name, i
    raise Unreadable(rf"the command \{name} is outside the grammar")
  return _canonical(name), i


def _after_value(tokens: list[Token]) -> bool:
  """Whether a unit may stand here: behind a number, a bracket, a degree sign or another unit."""
  last = tokens[-1] if tokens else END
  return last.kind in ("num", "text") or last.text in (")", "}", r"\circ", "/", "*", r"\%")


def _canonical(name: str) -> str:
  same = SAME.get(name, name)
  return same if not same.isalpha() else "\\" + same


def _text_command(text: str, i: int, name: str, tokens: list[Token], spaced: bool) -> int:
  """Reads the argument of `\\text{...}` and its like, appends its tokens, returns where it ends."""
  while i < len(text) and text[i] in " *":
    i += 1
  if i >= len(text):
    return i
  if text[i] == "{":
    depth, j = 0, i
    while j < len(text):
      depth += {"{": 1, "}": -1}.get(text[j], 0)
      j += 1
      if depth == 0:
        break
    inner, end = text[i + 1 : j - (depth == 0)], j
  else:
    inner, end = text[i], i + 1
  bare = re.sub(r"\^?\s*\\circ\s*", "deg", inner).strip()
  if _TIME_OF_DAY.search(bare):
    raise Unreadable("a time of day is compared as text")
  if name == "mathbb":
    tokens.append(Token("cmd", r"\R" if bare == "R" else r"\R" + bare[:1], spaced))
  elif name == "textcircled":  # one opaque symbol for each number
    tokens.append(Token("cmd", r"\circled" + "".join(chr(97 + ord(c) % 26) for c in bare), spaced))
  elif name == "underbrace":
    tokens += [
      Token("cmd", r"\underbrace", spaced),
      Token("op", "{"),
      *tokenize(inner),
      Token("op", "}"),
    ]
  elif bare in SAME and bare.isalpha() and SAME[bare] in FUNCTIONS:  # \operatorname{tg}
    tokens.append(Token("cmd", "\\" + SAME[bare], spaced))
  elif bare.lower() in ("infinity", "inf"):
    tokens.append(Token("cmd", r"\infty", spaced))
  elif _NESTED_TEXT.fullmatch(bare):
    tokens.extend(tokenize(bare))
  elif bare == "to":
    tokens.append(Token("op", ":", True))
  elif _WORD_LIST.fullmatch(inner) and bare:
    word = "or" if "or" in bare.lower() else "and" if "and" in bare.lower() else ","
    tokens.append(Token("op" if word == "," else "word", word, True))
  elif counted := _COUNTED.fullmatch(bare):  # \text{17 apples}
    tokens.extend([*tokenize(counted[1]), Token("text", counted[2], True)])
  elif bare in ("C", "F") and tokens and r"\circ" in [t.text for t in tokens[-2:]]:
    tokens.append(Token("text", "deg" + bare, spaced))
  elif (
    bare in UNIT_LETTERS and name not in ("mathbf", "mathit", "mathcal") and _after_value(tokens)
  ):
    tokens.append(Token("text", bare, spaced))
  elif (
    name in TRANSPARENT or len(bare) <= 1 or bare in FUNCTIONS or not re.search(r"[a-zA-Z]", bare)
  ):
    inside = tokenize(bare)
    if name in TRANSPARENT and len(inside) > 1:
      inside = [Token("op", "{"), *inside, Token("op", "}")]
    tokens.extend(inside)
  elif bare:
    tokens.append(Token("text", bare, spaced))
  return end

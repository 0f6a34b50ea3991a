"""`verify`: is the answer of a response right?"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import re
from collections.abc import Sequence
from fractions import Fraction

from lhrm_jax.rewards.math import choice, clean, compare, extract, parse, words
from lhrm_jax.rewards.math.exact import NotExact, Undefined
from lhrm_jax.rewards.math.nodes import Node, Num, Quantity, TooBig, Unreadable, walk
from lhrm_jax.text import responses, tags


@dataclasses.dataclass(frozen=True)
class Verdict:
  """The verdict on a response.

  Attributes:
    correct: True or False; `None` where it could not be decided, which scores 0 and is counted
      separately.
    extracted: the answer the response commits to, shortened for a log; `None` if there is none.
    reason: one line that says why.
  """

  correct: bool | None
  extracted: str | None
  reason: str

  @property
  def score(self) -> float:
    return 1.0 if self.correct else 0.0


def verify(gold: str | Sequence[str], response: str) -> Verdict:
  """Judges the answer part of `response` against `gold`, by value and not by text.

  The answer part is the text after `</think>` in think mode and inside the tags in no-think mode; a
  malformed response with an opening tag (`text.parse_response`) is wrong. Text without an opening
  tag is judged from its last `</think>` on, or as a whole, so that plain completions can be scored
  too. Never raises and always ends: see `docs/rewards.md` for what counts as equal.

  Args:
    gold: the accepted answer, or a list of accepted answers, each in LaTeX or plain notation.
    response: the whole text of a response, opening tag included.
  """
  try:
    golds = [gold] if isinstance(gold, str) else list(gold)
    answer, problem = answer_part(str(response))
    if answer is None:
      return Verdict(False, None, problem)
    return _judge([str(g) for g in golds if g is not None], answer)
  except RecursionError:
    return Verdict(None, None, "the answer is nested too deeply")
  except Exception as error:  # last resort: a verdict must not end a run
    return Verdict(None, None, f"the verifier failed: {type(error).__name__}: {error}"[:300])


def answer_part(response: str) -> tuple[str | None, str]:
  """The part of `response` that is judged, or `None` and why there is none."""
  text = response.lstrip()
  if any(tag in text for tag in tags.OPENING_TAGS):
    parsed = responses.parse_response(text)
    return parsed.answer, f"the response {parsed.problem}"
  # No opening tag: where the template opens it, a reasoning model only closes it.
  return text.rpartition(tags.CLOSING_TAGS[tags.THINK])[2], ""


def _judge(golds: list[str], answer: str) -> Verdict:
  found = extract.find(answer)
  letters = [choice.letter_of(extract.gold_text(gold)) for gold in golds]
  if any(letters):
    verdict = _judge_choice([pair for pair in letters if pair], answer, found)
    if verdict is not None:
      return verdict
  if found is None:
    return Verdict(None, None, "no final answer was found")
  shown = extract.tidy(found.text)
  if found.how == "unclosed":
    return Verdict(False, None, "the last box is never closed")
  if found.how == "denied":
    return Verdict(None, shown, "the response denies or doubts its last box")
  if not found.text.strip(" $.\\~"):
    return Verdict(False, None, "the answer is empty")
  reasons = []
  for gold in golds:
    correct, reason = matches(extract.gold_text(gold), found.text)
    if correct:
      return Verdict(True, shown, reason)
    reasons.append((correct, reason))
  undecided = [reason for correct, reason in reasons if correct is None]
  if undecided:
    return Verdict(None, shown, undecided[0])
  return Verdict(False, shown, reasons[0][1] if reasons else "there is no gold answer")


def _judge_choice(letters, answer: str, found: extract.Found | None) -> Verdict | None:
  """A verdict on a multiple-choice gold; `None` leaves it to the comparison of values."""
  final = found is not None and found.how in ("box", "tag", "hash", "bare")
  pick = choice.picked(found.text) if final else None
  if pick is None and found is not None and found.how == "box":
    pick = choice.stated_after_box(answer, found.text)
  pick = pick or (None if final else choice.stated(answer))
  if pick is None:
    return None
  right = any(pick == letter for letter, _ in letters)
  return Verdict(right, pick, f"picked {pick}, the gold is {letters[0][0]}")


_MAX_PLAIN = 700
_INTEGER = re.compile(r"\s*\$?\s*([-+]?\d{1,300})\s*\$?\.?\s*")
_SOLUTION = re.compile(
  r"^\s*(?:the\s+)?(?:final\s+)?(?:solution|answer)s?\s*(?:is|are|:)\s*:?", re.I
)
_SPELLED = re.compile(r"[A-Za-z][A-Za-z -]{0,60}")
_NO_BRACES = str.maketrans("{}", "  ")
_DATE = re.compile(r"\d{4}-[01]\d-[0-3]\d")
_SCIENTIFIC = re.compile(r"[-+]?\d{1,30}(?:\.\d{1,30})?[eE][-+]?\d{1,3}")
_COMMA_DECIMAL = re.compile(r"[-+]?(?:\d+,\d{1,2}|0,\d+|\d+,\d{4,})")


_PLAIN = re.compile(
  r"\s*\$?\s*([-+]?)\s*(?:(\d{1,300}(?:\.\d{1,9})?|\.\d{1,9})|(\d{1,100})\s*/\s*(\d{1,100})"
  r"|\\[dt]?frac\s*\{\s*(-?\d{1,100})\s*\}\s*\{\s*(\d{1,100})\s*\})\s*\$?\.?\s*"
)


def _plain_number(text: str) -> Fraction | None:
  """An integer, a decimal of at most nine places or a fraction; `None` for any other text.

  Longer decimals are left to the comparison of values, which knows of numbers that were cut off.
  """
  match = _PLAIN.fullmatch(text)
  if match is None:
    return None
  sign, decimal, *parts = match.groups()
  if decimal:
    value = Fraction(decimal)
  else:
    top, bottom = parts[:2] if parts[0] else parts[2:]
    if not int(bottom):
      return None
    value = Fraction(int(top), int(bottom))
  return -value if sign == "-" else value


def matches(gold: str, answer: str) -> tuple[bool | None, str]:
  """Compares two answers without anything around them; returns the verdict and a reason."""
  short = max(len(gold), len(answer)) <= _MAX_PLAIN  # runs of spaces cost their square below
  ours, theirs = (_INTEGER.fullmatch(side) if short else None for side in (gold, answer))
  if ours and theirs:  # by far the most answers, in a microsecond
    right = int(ours[1]) == int(theirs[1])
    return right, "the same integer" if right else "another integer"
  number = [_plain_number(side) if short else None for side in (gold, answer)]
  if None not in number:
    return (True, "the same number") if number[0] == number[1] else (False, "another number")
  if len(answer) > clean.MAX_RAW_CHARS:
    return None, f"the answer has more than {clean.MAX_RAW_CHARS} characters"
  if words.same_words(gold, answer):
    return True, "the same words"
  letters = choice.several(gold)
  if letters and letters == choice.several(answer):
    return True, "the same letters"
  wanted = _read(gold)
  given = _read(answer)
  if isinstance(wanted, str) and isinstance(given, str):
    # Out of reach of the grammar on both sides: only the very same notation is the same.
    same = words.same_notation(gold, answer)
    return (True, "the same notation") if same else (None, f"it could not be read: {given}")
  if isinstance(wanted, str):
    return None, f"the gold could not be read: {wanted}"
  if isinstance(given, str):
    return None, f"the answer could not be read: {given}"
  verdict, reason = False, "another value"
  for ours, theirs in itertools.product(_with_unit(gold, wanted), _with_unit(answer, given)):
    if isinstance(ours, _BareUnit) and not any(isinstance(n, Quantity) for n in walk(theirs)):
      continue  # 2 m may be twice m: it is not 2
    try:
      outcome = compare.same(ours, theirs)
    except (TooBig, Unreadable, Undefined, NotExact) as error:
      outcome, reason = None, f"the answer could not be evaluated: {error}"
    if outcome:
      return True, "the same value"
    if outcome is None:
      verdict = None
  if _comma_decimal(wanted[0], answer):
    return True, "the same decimal"
  if verdict is None and reason == "another value":
    reason = "no test decides"
  return verdict, reason


class _BareUnit(Quantity):
  """A number with one letter behind it, `5 m`, which may be a unit or a variable."""


_MAX_MEASURE = 80
_UNIT_LETTER = re.compile(
  r"[\s{]*([-+]?(?:\d{1,30}(?:\.\d{1,30})?|\.\d{1,30})(?:[eE][-+]?\d{1,2})?)\s+"
  r"((?:[mgshLlNJWVAK]|\\Omega|[kcm][mg]|min|hr|sec)(?:\^\{?[23]\}?)?"
  r"(?:\s?/\s?(?:s|sec|min|hr?|[kc]?m|kg)(?:\^\{?[23]\}?)?)?)[\s}]*"
)


def _with_unit(text: str, readings: tuple[Node, ...]) -> tuple[Node, ...]:
  match = _UNIT_LETTER.fullmatch(clean.clean(text)) if len(text) < _MAX_MEASURE else None
  if match is None:
    return readings
  unit = "ohm" if match[2] == r"\Omega" else match[2]
  return (*readings, _BareUnit(Num(Fraction(match[1])), unit))


def _comma_decimal(gold: Node, answer: str) -> bool | None:
  """`0,5` for a gold that is a plain decimal; `None` where the answer is not written so."""
  text = clean.strip_end(answer.strip().strip("$").strip())
  if not isinstance(gold, Num) or gold.value.denominator == 1 or not _COMMA_DECIMAL.fullmatch(text):
    return None
  return Fraction(text.replace(",", ".")) == gold.value


@functools.lru_cache(maxsize=4096)
def _read(text: str) -> tuple[Node, ...] | str:
  """The readings of an answer, or why it has none: `1,234` may be a list, `2e-3` a decimal."""
  text = _SOLUTION.sub("", text)
  if _DATE.fullmatch(text.strip(" $.")):
    return "a date is compared as text"
  plain = clean.strip_end(text.strip().strip("$").strip())
  bare = clean.unwrap(plain).translate(_NO_BRACES).strip(" .")
  if (spelled := words.spelled(bare) if _SPELLED.fullmatch(bare) else None) is not None:
    return (Num(spelled),)
  nodes: list[Node] = [Num(Fraction(plain))] if _SCIENTIFIC.fullmatch(plain) else []
  for commas in ("auto", "list"):
    try:
      node = parse.parse(clean.clean(text, commas=commas))
    except (Unreadable, TooBig, ValueError) as error:
      if not nodes:
        return str(error)
      break
    if node not in nodes:
      nodes.append(node)
    if "," not in text:
      break
  return tuple(nodes)

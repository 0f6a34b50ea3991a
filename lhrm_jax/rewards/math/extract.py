"""Finds the one answer a response commits to.

In this order: the content of its last box, or of its last boxes where only "and" or a comma
separates them; of `<answer>` tags; what follows `####`; the response itself where it is nothing but
an answer; a plain final statement ("The answer is 42"). A response that names numbers along the way
and commits to none is undecided.
"""

from __future__ import annotations

import dataclasses
import re

from lhrm_jax.rewards.math import clean, units
from lhrm_jax.text import boxes

# Only the end of a long response is searched, so that the time a search takes is bounded.
MAX_TAIL = 60_000
MAX_STATEMENT = 6_000  # without a box or a tag, the answer is this close to the end


@dataclasses.dataclass(frozen=True)
class Found:
  """An answer as written; `how` is box, tag, hash, bare, statement, unclosed or denied."""

  text: str
  how: str


_STOP = re.compile(r"<\|[a-z_]{2,20}\|>|</s>")
_PLEASANTRY = re.compile(r"\bI hope (?:it|this) (?:is correct|helps)[.!]?", re.I)
_EMPHASIS = re.compile(r"^\*\*(.*)\*\*$", re.S)
_CALCULATOR = re.compile(r"<<[^<>]{0,200}>>")


def find(text: str) -> Found | None:
  """The answer `text` commits to, or `None`."""
  text = text.replace("\0", " ")  # the mark of a formula below
  text = _STOP.split(text[-MAX_TAIL:] if len(text) > MAX_TAIL else text, maxsplit=1)[0]
  text = _PLEASANTRY.sub("", _CALCULATOR.sub("", text)).strip()
  if not text:
    return None
  if (found := boxed(text)) is not None:
    return found
  head, closed, _ = text.rpartition("</answer>")
  if closed and "<answer>" in head:
    return Found(head.rpartition("<answer>")[2].strip(), "tag")
  if "####" in text:
    lines = [line.strip() for line in text.splitlines() if line.lstrip().startswith("####")]
    marked = [line.lstrip("#").strip() for line in lines if line.strip("# ")]
    if marked:
      return Found(marked[-1], "hash")
  text = text[-MAX_STATEMENT:]
  if is_bare(text):
    return Found(_EMPHASIS.sub(r"\1", text), "bare")
  return statement(text)


# Boxes.

# What may separate two boxes of one answer: commas, "and", and a few words around them.
_GAP_NOISE = re.compile(r"\\(?:text|mbox|mathrm)\s*\{([^{}]*)\}|\\q?quad|\\[()\[\],;! ]|[$~&]|\\\\")
_MAX_GAP = 60


def boxed(text: str) -> Found | None:
  """The content of the last box of `text`, or of the last boxes that stand together."""
  found = boxes.outermost(text)
  if not found:
    return None
  if found[-1].content is None:
    return Found(text[found[-1].start :].partition("{")[2], "unclosed")
  chosen = [found[-1]]
  for box in reversed(found[:-1]):
    if not _joined(text[box.end : chosen[0].start]):
      break
    chosen.insert(0, box)
  upheld = [box for box in chosen if not _is_denied(text, box.start, box.end)]
  inside = [_EMPHASIS.sub(r"\1", box.content.strip()) for box in upheld or chosen]
  return Found(r" \text{ and } ".join(inside), "box" if upheld else "denied")


# "The answer is not $\\boxed{7}$", "\\boxed{7} is wrong" and "\\boxed{7}?", each in one sentence.
_DENIED_BOX = re.compile(
  r"(?:\b(?:is|are|be|was|it'?s|definitely|equals?)\s+(?:not|never)|n't|n't\s+be|\bcannot|\bcannot\s+be"
  r"|\b(?:i\s+doubt|not\s+sure|unsure)\b[\w\s']{0,30})"
  r"\s+(?:equal(?:\s+to)?\s*)?(?:\\[(\[]|[$*_(\[])*\s*$",
  re.I,
)
_DENIED_AFTER = re.compile(
  r"\s*(?:\\[)\]]|[$*_)\]])*\s*(?:\?|(?:is|was|are)\s+(?:wrong|incorrect|false|impossible"
  r"|not\s+(?:the\s+(?:right\s+|correct\s+|final\s+)?(?:answer|solution)|correct|right|possible))\b"
  r"|(?:is|was)n't\b)",
  re.I,
)


def _is_denied(text: str, start: int, end: int) -> bool:
  """Whether the sentence around the box from `start` to `end` denies that it is an answer."""
  before, after = text[max(0, start - _MAX_GAP) : start], text[end : end + _MAX_GAP]
  return bool(_DENIED_BOX.search(before) or _DENIED_AFTER.match(after))


def _joined(gap: str) -> bool:
  """Whether two boxes with `gap` between them are parts of one answer."""
  if len(gap) > _MAX_GAP:
    return False
  plain = _GAP_NOISE.sub(lambda m: f" {m[1] or ''} ", gap).strip()
  if not plain:
    return True
  words = re.findall(r"[A-Za-z]+", plain)
  if len(words) > 5 or re.search(r"[.!?]\s|[.!?]$|\n\s*\n", plain):
    return False
  return plain[0] == "," or any(w.lower() in ("and", "or") for w in words)


# Bare answers.

_MATH = re.compile(
  r"\$\$(.{1,1500}?)\$\$|\\\[(.{1,1500}?)\\\]|\\\((.{1,1500}?)\\\)"
  r"|(?<!\\)\$((?:[^$\\]|\\.){1,1500}?)(?<!\\)\$",
  re.S,
)
_PROSE = re.compile(
  r"\\(?:text\w*|mbox|mathrm|operatorname|begin|end)\s*\{[^{}]*\}|\\[a-zA-Z]+"
  r"|(?<=[\d)])(?:and|or)(?=[^a-z])|\b(?:and|or|sqrt|pi|sin|cos|tan|log|ln|exp|percent|pct|percentage|units?|inf|infinity)\b"
)
# Letters of a script no mathematics is written in.
_FOREIGN = re.compile(r"[\u00c0-\u024f\u0400-\u1fff\u3000-\ud7ff]")
_LETTERS = re.compile(r"[^\W\d_]{3,}")


_WORD = re.compile(r"[A-Za-z]{2,}")
_SMALL_WORDS = frozenset(
  ["is", "it", "so", "of", "to", "we", "he", "in", "at", "be", "by", "on", "no"]
)


def is_bare(text: str) -> bool:
  """Whether `text` is nothing but an answer: one piece of mathematics, or a word or two."""
  if len(text) > 400 or "\n\n" in text:
    return len(text) <= 2000 and re.fullmatch(r"\$[^$]*\$|\\\[.*\\\]", text, re.S) is not None
  if re.fullmatch(r"\$\$?[^$]*\$?\$", text.strip(" .")):
    return True
  if re.search(r"(?<=[^\s\\])[.!?:]\s+\S", text) or (
    _FOREIGN.search(text) and re.search(r"\d", text)
  ):
    return False
  words = [word for word in _WORD.findall(_PROSE.sub(" ", text)) if not units.is_unit_word(word)]
  if re.search(r"\d", text) or _MATH.search(text):
    return not any(len(word) > 2 or word.lower() in _SMALL_WORDS for word in words)
  return len(text.split()) <= 3


# Statements.

_MARK = re.compile("\0(\\d+)\0")
_BREAK = re.compile(r"\n+|(?<=[.!?])\s+(?=[A-Z#*\\$\u4e00-\u9fff])|[\u3002\uff01\uff1f\u0964]")
_CUE = re.compile(
  r"(?:\banswer(?:\s+\w+){0,3}?|\bresult|\bsolution|r\u00e9ponse|\u7b54\u6848)\s*"
  r"(?:\bis\b|\bare\b|\bwould be\b|:|=|\best\b|\u662f|\uff1a|(?=\0))",
  re.I,
)
# Digits next to a Latin letter belong to a name; other scripts write no space before a word.
_NUMBER = re.compile(
  r"(?<![A-Za-z0-9_.,^{/])[-+\u2212]?\s?[$\u20ac\u00a3]?(?:\d[\d,]*(?:\.\d+)?|\.\d+)"
  r"(?:\s*/\s*\d+(?:\.\d+)?)?\s?%?"
  r"(?![A-Za-z0-9_^{])"
)
_ENDS_IN = re.compile(
  r"(?:\bis|\bare|\bequals|\bit's|\u662f|=)\s*[*(]*(" + _NUMBER.pattern + r")\W*$"
)
_UNSURE = re.compile(
  r"\b(?:one of|either|not (?:sure|true|correct|right|the)|might be|may be|maybe|perhaps|possibly"
  r"|guess|whether|plausible|rather than|doubt|unknown|anything but)\b"
  r"|(?:\bnot|n't) (?:think|believe|see|say|know|known)\b|\bno one\b"
  r"|\bif (?:the|my|this|that|our) answer\b|\?[\W_]*$",
  re.I,
)
# A value right behind one of these is the one that it is not.
_DENIED = re.compile(
  r"(?:\bnot|n't|\bnever|\bcannot)\s+(?:be\s+)?(?:equal(?:\s+to)?\s+)?[\W_]*$", re.I
)


# Words beside a stated number that change its value.
_BOUND = re.compile(
  r"(?:\b(?:at (?:least|most)"
  r"|(?:more|less|fewer|greater|larger|smaller|higher|lower|other|rather) than"
  r"|under|over|above|below|up to|close to|half|twice|double|triple|thrice"
  r"|(?:square|cube|root|half|double|third|quarter|reciprocal|inverse|negative) of)"
  r"\s+(?:of\s+)?)[\W_]*$",
  re.I,
)
_CHANGED = re.compile(
  r"[\s*$]*(?:squared|cubed|factorial|(?:more|less|fewer|greater|larger) than|minus|times"
  r"|or (?:more|less|so)|divided by|modulo|mod)\b",
  re.I,
)
# How far from the end a statement may be, unless it says that it is final.
_FINAL_CUE = re.compile(r"\bfinal answer(?:\s+is\b|\s*:)", re.I)
_LAST_SENTENCES = 4


def statement(text: str) -> Found | None:
  """The answer in a plain final statement of `text`."""
  protected, formulas = _protect(text)
  sentences = [s.strip() for s in _BREAK.split(protected) if s and s.strip(" .*\\$)]}'\"")]
  if not sentences:
    return None
  for i in range(len(sentences) - 1, -1, -1):
    near = i >= len(sentences) - _LAST_SENTENCES
    cues = list((_CUE if near else _FINAL_CUE).finditer(sentences[i]))
    if cues:
      after = sentences[i][cues[-1].end() :].strip()
      if _UNSURE.search(sentences[i]):
        return None
      if not after:
        after = sentences[i + 1] if i + 1 < len(sentences) else ""
      return _committed(after, formulas, words=True) or _committed(sentences[i], formulas)
  return _committed(sentences[-1], formulas)


def _protect(text: str) -> tuple[str, list[str]]:
  """Replaces each formula by a mark, so that dots and signs in it end no sentence."""
  formulas: list[str] = []

  def mark(match: re.Match) -> str:
    inner = next(g for g in match.groups() if g is not None)
    if match[4] is not None and _is_currency(inner):
      return match[0].replace("$", "\u00a4")
    formulas.append(inner.replace("\u00a4", ""))
    return f"\0{len(formulas) - 1}\0"

  text = re.sub(r"\\\$", "\u00a4", text)
  # A currency sign shifts the pairing of the ones after it, so pairs are read again without it.
  for _ in range(20):
    previous, text = text, _MATH.sub(mark, text)
    if text == previous:
      break
  return text.replace("\u00a4", ""), formulas


def _is_currency(inner: str) -> bool:
  """Whether `$...$` is money on either side of plain text: `$5 and $`."""
  if not re.match(r"\s*\d", inner):
    return False
  plain = _PROSE.sub(" ", inner)
  return re.match(r"\d", inner) is not None and (
    inner[-1] in " (=+-*/"
    or len(_LETTERS.findall(plain)) > 0
    or inner.count("(") != inner.count(")")
  )


def _committed(sentence: str, formulas: list[str], *, words: bool = False) -> Found | None:
  """The one value a sentence commits to: its formulas at the end, or its only number.

  `words` allows a few plain words to be the answer, which only a cue before them makes them.
  """
  sentence = sentence.replace("**", "").replace("\\_", "_").strip()
  if _UNSURE.search(sentence):
    return None
  marks = list(_MARK.finditer(sentence))
  if marks:
    chosen = _last_formulas(sentence, marks, formulas)
    if _DENIED.search(sentence[: marks[-len(chosen)].start()]):
      return None
    tail = sentence[marks[-1].end() :]
    if not _NUMBER.search(tail):
      percent = "%" if re.match(r"\s*(?:%|percent\b|pct\b)", tail) else ""
      return Found(r" \text{ and } ".join(chosen) + percent, "statement")
    sentence = tail
  ending = _ENDS_IN.search(sentence)
  if any(
    _BOUND.search(sentence[max(0, m.start() - _MAX_GAP) : m.start()])
    or _CHANGED.match(sentence[m.end() : m.end() + _MAX_GAP])
    for m in _NUMBER.finditer(sentence)
  ):
    return None
  if (
    any(
      _DENIED.search(sentence[max(0, m.start() - _MAX_GAP) : m.start()])
      for m in _NUMBER.finditer(sentence)
    )
    and not ending
  ):
    return None
  numbers = [ending[1]] if ending else [m[0] for m in _NUMBER.finditer(sentence.rpartition("=")[2])]
  if len({n.strip().replace(",", "") for n in numbers}) == 1:
    return Found(re.sub(r"[$\u20ac\u00a3\s]|[.,]$", "", numbers[-1].strip()), "statement")
  plain = sentence.strip(" .*:()\"'")
  if marks or not plain or not words:
    return None
  few = len(plain) <= 60 and len(plain.split()) <= 6
  return Found(plain, "statement") if (few and not numbers) or is_bare(plain) else None


def _last_formulas(sentence: str, marks: list[re.Match], formulas: list[str]) -> list[str]:
  """The last formula of a sentence, and those before it that "and" or a comma joins to it."""
  chosen = [formulas[int(marks[-1][1])]]
  for before, after in zip(reversed(marks[:-1]), reversed(marks), strict=False):
    if not re.fullmatch(r"\s*(?:,|;|,? ?and|,? ?or)\s*", sentence[before.end() : after.start()]):
      break
    chosen.insert(0, formulas[int(before[1])])
  return chosen


def gold_text(gold: str) -> str:
  """The answer a gold states: itself, or what a whole worked solution given as gold commits to."""
  if (found := boxed(_STOP.split(gold)[0])) is not None:
    return found.text
  if len(gold) > 300 or (len(gold) > 60 and not is_bare(gold) and _CUE.search(gold)):
    found = find(gold)
    if found is not None:
      return found.text
  if "####" in gold:
    found = find(gold)
    if found is not None:
      return found.text
  return gold.strip()


def tidy(text: str) -> str:
  """`text` as shown in a verdict: one line, not long."""
  text = " ".join(clean.strip_end(text).split())
  return text if len(text) <= 200 else text[:197] + "..."

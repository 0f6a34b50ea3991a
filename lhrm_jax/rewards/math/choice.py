"""Multiple choice: which letter a gold asks for and which one a response picks."""

import re

from lhrm_jax.rewards.math import clean
from lhrm_jax.text import boxes

# Behind "(C)": a formula continues, as in "(C)+1". Spaces set off an option's text: "(C) +1".
_NO_OPERATOR = r"(?![+/^=]|\s+[+/^=]\s)"
_GOLD = re.compile(
  r"^\W*(?:\\(?:text|mathrm|textbf|mathbf)\s*\{)?\s*"
  rf"(?:\(\s*([A-J])\s*\){_NO_OPERATOR}|([A-J])(?:[.:]|\){_NO_OPERATOR}|(?=\W*$)))\s*(.*)$",
  re.S,
)
_LETTER = re.compile(r"(?<![A-Za-z'\\])\(?([A-J])\)?(?![A-Za-z'])")
_PICK = re.compile(
  r"(?:answer(?:\s+\w+){0,3}?\s*(?:is|:)|r\u00e9ponse\s+est|option|choice|choose|it'?s|it is|pick"
  r"|\u7b54\u6848\u662f)[\s*:]*(?:for sure |definitely |clearly |option |choice )*"
  r"[\s*:$\\({]*(?:(?:text|textbf|mathrm|mathbf|boxed)\{)*\(?([A-J])\)?(?![A-Za-z'])"
)
_ANSWERS = ("answer", "réponse", "\u7b54\u6848")
_HEAD = re.compile(r"^\W*([A-J])(?:[.):\u3002\uff1a]|\s*$)")


def letter_of(gold: str) -> tuple[str, str] | None:
  """The letter a gold asks for and the option's own text, or `None` if there is none."""
  match = _GOLD.match(gold.strip())
  if match is None:
    return None
  rest = match[3].strip(" }$.)")
  return (match[1] or match[2], rest)


def picked(text: str) -> str | None:
  """The letter a short answer, such as the content of a box, is; `None` if none or several."""
  plain = re.sub(r"[{}$*]|\\[()\[\]]", " ", clean.unwrap(text[:300])).strip()
  plain = re.sub(r"^(?:option|choice|answer)\s*:?\s+(?=\(?[A-J]\b)", "", plain, flags=re.I)
  head = re.match(rf"^\(?\s*([A-J])\s*(?:\){_NO_OPERATOR}|[.:]|$)\s*(.*)$", plain, re.S)
  if head is None:
    return None
  others = set(_LETTER.findall(head[2])) - {head[1]}
  return None if others - {"A"} or re.search(r"\b(?:or|and)\b|,\s*\(?[A-J]\b", head[2]) else head[1]


_TEXTCIRCLED = re.compile(r"\\textcircled\s*\{?\s*(\d|10)\s*\}?")
_CIRCLED = re.compile(r"[①-⑩](?:\s*(?:,|;|、|,?\s*and\b)?\s*[①-⑩])+")
_SEVERAL = re.compile(r"\(?[A-J]\)?(?:\s*(?:,|;|&|\u3001|,?\s*and\b)?\s*\(?[A-J]\)?)+")
_AFTER_BOX = re.compile(r"\banswer\s*(?:is|:)[\s*:]*\(?([A-J])\)?[\s*.$]*$", re.I)


def several(text: str) -> frozenset[str] | None:
  """The letters of an answer that picks several: `BCD`, or `B, C and D` in any order."""
  circled = _TEXTCIRCLED.sub(lambda m: chr(ord("①") - 1 + int(m[1])), text[:300])
  plain = re.sub(r"[{}$*]|\\[()\[\]]", " ", clean.unwrap(circled)).strip(" .")
  if _CIRCLED.fullmatch(plain):
    return frozenset(re.findall("[①-⑩]", plain))
  if not _SEVERAL.fullmatch(plain):
    return None
  letters = re.findall(r"[A-J]", plain)
  together = re.fullmatch(r"[A-J]+", plain)
  if len(set(letters)) != len(letters) or (together and letters != sorted(letters)):
    return None
  return frozenset(letters)


def stated_after_box(text: str, box: str) -> str | None:
  """The letter of a closing line, "Answer: D", behind a box that holds a formula and no letter."""
  if re.search(r"\b(?:or|and)\b|,", box) or picked(box):
    return None
  match = _AFTER_BOX.search(text[boxes.last(text).end :][-300:])
  return match[1] if match else None


# What takes a pick back, before it in its sentence and behind it.
_DENIES = re.compile(
  r"\b(?:not|never|cannot|can'?t|isn'?t|doubt|unlikely|neither|nor|eliminat\w+|rul\w+ out)\b"
  r"[^.!?\n]*$",
  re.I,
)
_DENIED = re.compile(
  r"[^\S\n]*(?:is|are|was|would be|seems|looks)\s+(?:\w+ly\s+)?"
  r"(?:not|wrong|incorrect|false|unlikely|impossible)\b",
  re.I,
)
_OTHER_HEADS = re.compile(r"(?<![A-Za-z'\\])\(?[A-J](?:[.):\u3002\uff1a]|\s*$)")


def stated(text: str) -> str | None:
  """The letter the end of a longer text commits to: "the answer is B" before "option B"."""
  text = text[-1500:]
  if found := [match for match in _PICK.finditer(text) if not _is_denied(text, match)]:
    answers = [match for match in found if match[0].lower().startswith(_ANSWERS)]
    last = (answers or found)[-1]
    rest = text[last.end() : last.end() + 20]
    return None if re.match(r"\s*(?:or|and|/|,)\s*\(?[A-J]\b", rest) else last[1]
  if _PICK.search(text):
    return None
  head = _HEAD.match(text)
  return head[1] if head and not _OTHER_HEADS.search(text[head.end() :]) else None


def _is_denied(text: str, pick: re.Match) -> bool:
  return bool(_DENIES.search(text[: pick.start(1)]) or _DENIED.match(text[pick.end() :]))

# ruff: noqa: RUF001
"""Finds rows that ask the same question, however it is written and wrapped.

Data sets wrap one question in many ways: with a request for a boxed answer, in the words of a chat
template, with other white space, quotes or LaTeX. An evaluated question is left out of training in
all of these forms.
"""

import collections
import dataclasses
import re
import unicodedata
from collections.abc import Iterable

from lhrm_jax.data.schema import HFTRow, PromptRow

# A question of fewer words counts only where it stands alone: "How are you?" is in many texts.
_LEAST_WORDS_WITHIN = 5
# So many words of training that are part of an evaluation prompt are its question: the rest then
# says how to answer.
_LEAST_WORDS_PART = 8

_BOXED = " #### "  # the mark of GSM8K's answers stands for every request for a marked answer
_COMMANDS = {
  "dfrac": "frac", "tfrac": "frac", "times": "*", "cdot": "*", "ast": "*", "div": "/", "le": "<=",
  "leq": "<=", "leqslant": "<=", "ge": ">=", "geq": ">=", "geqslant": ">=", "ne": "!=",
  "neq": "!=", "boxed": _BOXED, "fbox": _BOXED, "%": "%",
  **dict.fromkeys(("left", "right", "displaystyle", "text", "textbf", "mathrm", "mathbf", "quad",
                   "qquad", "operatorname", "mbox"), " "),
}  # fmt: skip
# The patterns below begin with a character where they can, and look behind it: `re` skips to one
# quickly, and responses are long.
_LATEX = re.compile(r"[\\~$](?:(?<=\\)([a-z]+|.)|(?<!\\))", re.DOTALL)
_CHARACTERS = str.maketrans({
  **{c: f"^{n}" for n, c in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")},
  "−": "-", "–": "-", "—": " ", "×": "*", "·": "*", "⋅": "*", "÷": "/", "⁄": "/", "≤": "<=",
  "≥": ">=", "≠": "!=", "π": " pi ", "√": " sqrt ", "'": "", "’": "", "‘": "", "`": "",
})  # fmt: skip
# White space but for line breaks, which a table replaces faster than a pattern.
_BLANKS = str.maketrans(
  dict.fromkeys(set(re.findall(r"\s", "".join(map(chr, range(0x3001))))) - {"\n"}, " ")
)
_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff]")
# Bold text too.
_HYPHEN = re.compile(r"-(?<=[^\W\d_]{2}-)(?=[^\W\d_]{2})|\*\*(?:(?<!\d\*\*)|(?!\d))")
# Signs that only punctuate: a dash beside a word, emphasis, brackets around words, marks of lists
# and quotations. Those of formulas stay.
_FORMULA = (
  "d?frac|sqrt|root|sin|cos|tan|cot|sec|csc|arc(?:sin|cos|tan)|log|ln|exp|lim|int|sum|prod|binom|gcd"
  "|lcm|max|min|pi|alpha|beta|gamma|theta|lambda|mu|sigma|phi|omega|infty"
)
_DASH = re.compile(rf" -(?= ?(?!(?:{_FORMULA})\b)[^\W\d_]{{2}})| -(?<=[^\W\d_]{{2}} -)(?= )")
_EMPHASIS = re.compile(r"""\*(?<![^\s("']\*)([^\s*](?:[^*\n]{0,200}[^\s*])?)\*(?![^\s.,;:?!)"'])""")
_ASIDE = re.compile(
  r"\((?<![\w)]\()([^()+*/=<>^%|\n-]{0,200}[^\W\d_]{2}[^()+*/=<>^%|\n-]{0,200})\)"
)
_MARKS = re.compile(r"[ ]*(?:[-*>#+]+ )+")
_THOUSANDS = re.compile(r",(?<=\d,)(?=\d{3}(?!\d))")
# Control tokens of chat templates separate text as line breaks do.
_CONTROL = re.compile(r"<\|[^<>|\n]{1,40}\|>|</?s>|<(?:start|end)_of_turn>|\[/?inst\]|<</?sys>>")
_CJK = r"\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3"  # scripts without spaces: a character is a word
_CJK_END = re.compile(rf"[\u3002?!:](?=[{_CJK}])")
_BREAK = re.compile(r"""[.?!:\n](?:(?<=\n)\n*|(?<!\n)(["')\]]?)[ \n]+)""")
# Sentences that say who answers, and how; and where in a sentence of the question they begin.
_REQUEST = re.compile(
  r"####|\bboxed\s*\{|step[ -]by[ -]step|</?(?:think|answer)>"
  r"|\b(?:put|output|give|write|place|present|enclose|provide|return) (?:\w+ )?final answer\b"
  r"|^you are an? .*\b(?:assistant|expert|model|solver|teacher|tutor|mathematician)\b",
  re.DOTALL,
)
# Every request holds one of these, which are found faster.
_REQUEST_HINTS = (
  "####", "boxed", "step", "think>", "answer>", "final answer", "you are a",
)  # fmt: skip
_BEGINNINGS = tuple(
  re.compile(rf"\b(?:{words})\b.*", re.DOTALL)
  for words in (
    "please|lets|let us",
    "think|reason|solve|put|output|give|write|place|present|enclose|provide|return|show|the final",
  )
)
_LABEL = re.compile(
  r"[\s#*>-]*(?:(?:user|human|system|assistant|model|question|problem|query|instruction|input"
  r"|response|answer|solution|exercise|task|prompt)\s*\d*[\s:.)*#]*|[qa]\d*[:.)][\s*]*)"
)
_SIGNS = r"\d*\.?\d+|(?<=[\d)])!|!=|<=|>=|[-+*/=<>^%()|&]"
_WORD = re.compile(rf"[{_CJK}]|[^\W\d_{_CJK}]+|{_SIGNS}")
_ASCII_WORD = re.compile(rf"[a-z]+|{_SIGNS}", re.ASCII)  # the same, several times as fast


@dataclasses.dataclass(frozen=True)
class Question:
  """The question of a text, normalised.

  Attributes:
    words: numbers, words and signs, without case, punctuation and requests for a form of answer.
    breaks: places in `words` where a sentence or line begins, and the end.
  """

  words: tuple[str, ...]
  breaks: tuple[int, ...]


def normalise(text: str, *, requests: bool = False) -> Question:
  """The question of a text.

  Args:
    text: a prompt, or a response.
    requests: whether requests for a form of answer stay.
  """
  pieces = _pieces(text)
  asked = pieces if requests else [_without_request(piece) for piece in pieces]
  words: list[str] = []
  breaks = [0]
  for piece in asked if any(map(_WORD.search, asked)) else pieces:
    words += (_ASCII_WORD if piece.isascii() else _WORD).findall(piece)
    if len(words) > breaks[-1]:
      breaks.append(len(words))
  return Question(tuple(words), tuple(breaks))


def _pieces(text: str) -> list[str]:
  """Sentences and lines, in one notation, without labels."""
  text = unicodedata.normalize("NFKC", text.translate(_CHARACTERS)).translate(_CHARACTERS)
  text = _INVISIBLE.sub("", text).casefold().translate(_BLANKS)
  if "<" in text or "[" in text:
    text = _CONTROL.sub("\n", text)
  text = _LATEX.sub(_plain, text)
  while "  " in text:
    text = text.replace("  ", " ")
  text = _EMPHASIS.sub("\\1", _HYPHEN.sub(" ", text))
  text = _THOUSANDS.sub("", _DASH.sub("", _ASIDE.sub(" \\1 ", text)))
  if not text.isascii():
    text = _CJK_END.sub("\\g<0>\n", text)
  found, start = [], 0
  for match in _BREAK.finditer(text):
    found.append(text[start : max(match.start(), match.end(1))])
    start = match.end()
  found.append(text[start:])
  found = [piece[marks.end() :] if (marks := _MARKS.match(piece)) else piece for piece in found]
  return [piece for piece in found if not _LABEL.fullmatch(piece)]


def _plain(latex: re.Match) -> str:
  """A command's name, or its plain notation; a space for spacing and delimiters."""
  name = latex[1] or ""
  return _COMMANDS.get(name, f" {name} " if name.isalpha() else " ")


def _without_request(piece: str) -> str:
  if not any(hint in piece for hint in _REQUEST_HINTS) or not _REQUEST.search(piece):
    return piece
  found = (beginning.search(piece) for beginning in _BEGINNINGS)
  return piece[: next((match.start() for match in found if match), 0)]


def _turns(row: PromptRow | HFTRow) -> list[str]:
  """The user's turns in a row."""
  return [*(content for role, content in row.earlier if role == "user"), row.prompt]


class Asked:
  """The questions of an evaluation; `row in asked` says whether a row asks one of them.

  It does if its question, or that of one of the user's turns, is the same after `normalise`; if it
  holds one, from the beginning of a sentence or line to the end of one; or if an evaluation prompt
  holds it so.
  """

  def __init__(self, rows: Iterable[PromptRow | HFTRow]):
    self._whole: set[tuple[str, ...]] = set()
    # First words of a question, or of what follows a break in one -> where they stand.
    self._starts: dict[tuple[str, ...], set[Question]] = collections.defaultdict(set)
    self._parts: dict[tuple[str, ...], set[tuple[Question, int]]] = collections.defaultdict(set)
    for row in rows:
      question = normalise("\n".join(_turns(row)))
      self._whole.add(question.words)
      for start in question.breaks[:-1]:
        first = _first(question, start)
        self._parts[first].add((question, start))
        if not start and len(question.words) >= _LEAST_WORDS_WITHIN:
          self._starts[first].add(question)

  def __contains__(self, row: PromptRow | HFTRow) -> bool:
    turns = _turns(row)
    if len(turns) > 1 and any(normalise(turn).words in self._whole for turn in turns):
      return True
    question = normalise("\n".join(turns))
    if question.words in self._whole:
      return True
    for start in question.breaks[:-1]:
      first = _first(question, start)
      if any(_holds(question, start, asked.words) for asked in self._starts.get(first, ())):
        return True
    if len(question.words) < _LEAST_WORDS_PART:
      return False
    parts = self._parts.get(_first(question, 0), ())
    return any(_holds(asked, start, question.words) for asked, start in parts)


def _first(question: Question, start: int) -> tuple[str, ...]:
  return question.words[start : start + _LEAST_WORDS_WITHIN]


def _holds(question: Question, start: int, words: tuple[str, ...]) -> bool:
  """Whether a question has these words from `start` up to a break."""
  end = start + len(words)
  return end in question.breaks and question.words[start:end] == words

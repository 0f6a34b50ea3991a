"""Removes LaTeX noise and Unicode variants from an answer, before it is parsed.

Everything here is a linear pass over a string that `MAX_CHARS` already bounds.
"""

# ruff: noqa: RUF001 - look-alike characters are what this file is about
import re
import unicodedata

from lhrm_jax.rewards.math.nodes import TooBig

# A longer text is not an answer. Redundant braces are removed before the second cap applies.
MAX_RAW_CHARS = 20_000
MAX_CHARS = 1_500

_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n")
_SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉₊₋", "0123456789+-")
_UNICODE = {
  "−": "-", "–": "-", "—": "-", "﹣": "-", "‐": "-", "‑": "-", "×": r"\times ", "✕": r"\times ",
  "⋅": r"\cdot ", "·": r"\cdot ", "∙": r"\cdot ", "•": r"\cdot ", "÷": r"\div ", "∕": "/", "⁄": "/",
  "√": r"\sqrt ", "∛": r"\sqrt[3] ", "π": r"\pi ", "∞": r"\infty ", "≤": r"\le ", "≥": r"\ge ",
  "⩽": r"\le ", "⩾": r"\ge ", "≠": r"\ne ", "≈": r"\approx ", "≡": r"\equiv ", "∈": r"\in ",
  "∪": r"\cup ", "∩": r"\cap ", "∖": r"\setminus ", "°": r"^\circ ", "º": r"^\circ ",
  "±": r"\pm ", "∓": r"\mp ", "∅": r"\emptyset ", "θ": r"\theta ", "α": r"\alpha ",
  "β": r"\beta ", "γ": r"\gamma ", "δ": r"\delta ", "λ": r"\lambda ", "μ": r"\mu ", "φ": r"\phi ",
  "ω": r"\omega ", "σ": r"\sigma ", "ρ": r"\rho ", "τ": r"\tau ", "ε": r"\epsilon ",
  "Δ": r"\Delta ",
  "ℝ": r"\R ", "∣": "|", "｜": "|", "…": r"\ldots ", "′": "'", "’": "'", "‘": "'", "“": '"',
  "”": '"', "、": ",", "，": ",", "。": ".", "⟨": r"\langle ", "⟩": r"\rangle ",
}  # fmt: skip
_UNICODE_RE = re.compile("[" + "".join(_UNICODE) + "]")
_SUPERSCRIPT_RE = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]+")
_SUBSCRIPT_RE = re.compile("[₀₁₂₃₄₅₆₇₈₉₊₋]+")


def normalise_unicode(text: str) -> str:
  """Rewrites digits, minus signs, fractions and operators of Unicode as ASCII and LaTeX."""
  if text.isascii():
    return text
  text = "".join(_CIRCLED.get(char, char) for char in text)
  text = _SUPERSCRIPT_RE.sub(lambda m: "^{" + m[0].translate(_SUPERSCRIPTS) + "}", text)
  text = _SUBSCRIPT_RE.sub(lambda m: "_{" + m[0].translate(_SUBSCRIPTS) + "}", text)
  text = _UNICODE_RE.sub(lambda m: _UNICODE[m[0]], text)
  out = []
  for char in text:
    if char.isascii():
      out.append(char)
      continue
    digit = unicodedata.digit(char, None)
    if digit is not None:
      out.append(str(digit))
      continue
    plain = unicodedata.normalize("NFKC", char)
    if "⁄" in plain:  # a vulgar fraction: 1/2
      top, _, bottom = plain.partition("⁄")
      out.append(rf"\frac{{{top}}}{{{bottom}}}")
    elif unicodedata.category(char) in ("Zs", "Cf"):
      out.append(" " if unicodedata.category(char) == "Zs" else "")
    else:
      out.append(plain)
  # NFKC may itself produce a character of the table (e.g. from a full-width minus).
  return _UNICODE_RE.sub(lambda m: _UNICODE[m[0]], "".join(out))


def collapse_braces(text: str) -> str:
  """`text` with doubled braces made single, `{{x}}` to `{x}`; unbalanced text stays as it is."""
  if "{{" not in text:
    return text
  partner: dict[int, int] = {}
  stack = []
  for i, char in enumerate(text):
    if char == "{" and not _escaped(text, i):
      stack.append(i)
    elif char == "}" and not _escaped(text, i):
      if not stack:
        return text
      partner[stack.pop()] = i
  if stack:
    return text
  drop = set()
  for i, j in partner.items():
    if partner.get(i + 1) == j - 1:
      drop.update((i + 1, j - 1))
  return "".join(char for i, char in enumerate(text) if i not in drop)


def _escaped(text: str, i: int) -> bool:
  return i > 0 and text[i - 1] == "\\"


_ROW_GAP = re.compile(r"\\\\\s*\[\s*-?[\d.]+\s*(?:pt|em|ex|mm|cm)\s*\]")
_SIZES = re.compile(r"\\(?:left|right|[bB]igg?[lrm]?)(?![a-zA-Z])\s*\.?(?=\s*)")
_FENCES = re.compile(r"\\(?:left|right|middle|[bB]igg?[lrm]?)(?![a-zA-Z])")
# A system written as an array with a brace on its left only.
_BRACED_SYSTEM = re.compile(
  r"\\left\s*\\\{\s*\\begin\{(array|aligned|matrix|gathered)\}\s*(?:\{[lcr| ]*\})?"
  r"((?:(?!\\begin|\\end).)*)\\end\{\1\}\s*\\right\s*\.",
  re.S,
)
# Marks before and behind an answer that end a proof or begin a conclusion.
_FLOURISH = re.compile(
  r"^\s*\\(?:therefore|because|implies|Rightarrow|Longrightarrow)(?![a-zA-Z])"
  r"|\\(?:blacksquare|square|Box|qed|qedsymbol|checkmark|surd)\s*\.?\s*$"
)
_OPEN_FENCE = re.compile(r"\\(?:left|right)\s*\.")
_LAYOUT = re.compile(
  r"\\(?:displaystyle|textstyle|scriptstyle|limits|nolimits|nonumber|hfill|hline|newline|noindent|par"
  r"|(?:begin|end)\{(?:tiny|small|normalsize|large|Large|LARGE|huge|Huge|center)\}"
  r"|[vh]?phantom\{[^{}]*\}|hspace\*?\{[^{}]*\}|vspace\*?\{[^{}]*\})(?![a-zA-Z])"
)
# Thousands written with a separator that can be nothing else: `{,}`, `,\!`, `\,`.
_TEX_THOUSANDS = re.compile(
  r"(?<![\d.])\d{1,3}(?:(?:\s*\{\s*,\s*\}|,?\s*\\[!,;:]|,\s*\\ )\s*\d{3})+(?!\d)"
)
_SPACED_THOUSANDS = re.compile(r"(?<![\d.,/}])\d{1,3}(?:[ ~]\d{3})+(?![\d/])")
_COMMA_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")
_NOT_DIGIT = re.compile(r"\D")
_DELIMITERS = re.compile(r"\\\(|\\\)|(?<!\\)\\\[|(?<!\\)\\\]|(?<!\\)\$")
_DOUBLED = re.compile(r"\\\\(?=[a-zA-Z]{2,}|[{}()$%])")
# Signs of money, as the commands the tokenizer knows.
_CURRENCY = {
  r"\$": r" \dollar ", r"\pounds": r" \sterling ", "€": r" \euro ", "£": r" \sterling ",
  "¥": r" \yen ", "￥": r" \yen ",
  "₹": r" \rupee ", "₽": r" \rouble ",
}  # fmt: skip
_CURRENCY_RE = re.compile(
  r"\\\$|[€£¥₹₽￥]|\\pounds(?![a-zA-Z])"
  r"|\\(?:text)?(?:dollar|euro|sterling)(?![a-zA-Z])"
)
# A struck relation: its parts would read as a name before the relation itself.
_NEGATIONS = {"=": r"\ne ", "in": r"\notin ", "<": r"\ge ", ">": r"\le "}
_NEGATED = re.compile(r"\\not\s*\\?(=|in(?![a-zA-Z])|[<>])")
_LETTER_NAMES = {"imath": "i", "jmath": "j", "top": "T", "intercal": "T"}
_LETTER_COMMANDS = re.compile(r"\\(imath|jmath|top|intercal)(?![a-zA-Z])")
_LONE_SIGN = re.compile(r"(?<![\^_}])\{\s*([-+=<>:])\s*\}")
# Open ends written with a bracket turned outwards: `]1, 2[`.
_TURNED = re.compile(r"([\[\]])([^()\[\]]*[,;][^()\[\]]*)([\[\]])")
_TURNED_ONLY = re.compile(rf"\s*{_TURNED.pattern}(?:\s*\\cup\s*{_TURNED.pattern})*[\s.]*")
_HOURS = re.compile(r"(?<![\w.\\{])(\d{1,6})\s*h\s+(\d{1,2})\s*min(?![a-zA-Z])")
# `{}_7C_2` and `^7P_2`, with the total before the letter.
_CHOSEN = re.compile(
  r"(?<![\w})\]])(?:\{\s*\})?\s*[_^]\s*\{?\s*(\d{1,4})\s*\}?\s*(?:\\(?:text|mathrm)\s*\{\s*([CP])\s*\}|([CP]))"
  r"\s*_\s*(?:\{\s*(\d{1,4})\s*\}|(\d))"
)
_HALF_LINE = re.compile(
  r"(?:\\mathbb\s*(?:\{\s*R\s*\}|R)|\u211d|\\R)\s*_\s*\{\s*(>|<|\\geq?(?:slant)?|\\leq?(?:slant)?)\s*0\s*\}"
)
# `0.(3)`, and `0.333\\ldots` where one digit three times over leaves no doubt.
_REPEATING = re.compile(r"(?<![\d.])(\d+\.)\((\d{1,30})\)(?![\d(^])")
_DOTTED = re.compile(r"(?<![\d.])(\d+\.\d*?)(\d)\2\2+\s*(?:\.\.\.|\\l?dots\b)")
_HTML_SCRIPT = re.compile(r"<(sup|sub)>([^<>]{1,100})</\1>")
# Commands that set a colour or a size; a tag or a label is not part of the answer either.
_COLOURED = re.compile(
  r"\\(?:textcolor|colorbox|scalebox|raisebox|fcolorbox\s*\{[^{}]*\})\s*(?:\[[^\[\]{}]*\]\s*)?"
  r"\{[^{}]*\}\s*(?=\{)|\\bbox\s*(?:\[[^\[\]{}]*\]\s*)?(?=\{)"
  r"|\\enclose\s*\{\s*(?:circle|box|roundedbox)\s*\}\s*(?=\{)"
  r"|\\color\s*(?:\[[^\[\]{}]*\]\s*)?\{[^{}]*\}|\\(?:tag\*?|label|ref|eqref)\s*\{[^{}]*\}"
  r"|\\(?:tiny|scriptsize|footnotesize|small|normalsize|large|Large|LARGE|huge|Huge|bf|rm|it|sf|tt|sl"
  r"|em|boldmath|mathstrut|strut|notag|centering)(?![a-zA-Z])"
)
_ORDINAL_TEXT = (
  r"\\(?:text(?:rm|up|superscript|normal)?|mathrm|mbox|rm)\s*\{\s*(?:st|nd|rd|th)\s*\}"
)
_ORDINAL = re.compile(
  r"(?<![\d.])(\d{1,9})\s*(?:(?:st|nd|rd|th)(?![a-zA-Z])|\^?\s*"
  + _ORDINAL_TEXT
  + r"|\^\s*\{\s*(?:(?:st|nd|rd|th)|"
  + _ORDINAL_TEXT
  + r")\s*\})(\s+[a-zA-Z]{3,})?\s*(?=[$.,)}]|$)"
)
_CIRCLED = {chr(0x2460 + i): rf"\textcircled{{{i + 1}}}" for i in range(20)}
_SPACES = re.compile(r"(?<!\\)\\[,;:!> ]|\\q?quad|\\(?:thinspace|enspace|space)(?![a-zA-Z])|[~\s]+")


def clean(text: str, *, commas: str = "auto") -> str:
  """Returns `text` with noise removed, ready for the tokenizer.

  Args:
    text: an answer, with or without mathematics delimiters.
    commas: how `1,234` outside brackets is read: `"auto"` as one number, `"list"` as two.

  Raises:
    TooBig: the text is longer than an answer may be.
  """
  if len(text) > MAX_RAW_CHARS:
    raise TooBig(f"the answer has {len(text)} characters, more than {MAX_RAW_CHARS}")
  text = normalise_unicode(text)
  if r"\\begin" in text or r"\begin" not in text:
    text = _DOUBLED.sub(lambda _: "\\", text)  # text that was escaped twice
  text = collapse_braces(text)
  if len(text) > MAX_CHARS:
    raise TooBig(f"the answer has {len(text)} characters, more than {MAX_CHARS}")
  text = _ROW_GAP.sub(r"\\\\ ", _bare(text))
  text = _CURRENCY_RE.sub(
    lambda m: _CURRENCY.get(m[0], rf" \{m[0].lstrip(chr(92)).removeprefix('text')} "), text
  )
  text = _LETTER_COMMANDS.sub(lambda m: f" {_LETTER_NAMES[m[1]]} ", text)
  text = _LONE_SIGN.sub(r"\1", text)
  text = _HOURS.sub(r"\1\\text{ h }\2\\text{ min}", text)
  text = _CHOSEN.sub(_combinations, text)
  text = _HALF_LINE.sub(_half_line, text)
  text = _DOTTED.sub(r"\1\\overline{\2}", text)
  text = _REPEATING.sub(r"\1\\overline{\2}", text)
  text = _NEGATED.sub(lambda m: _NEGATIONS[m[1]], text)
  text = _HTML_SCRIPT.sub(lambda m: ("^" if m[1] == "sup" else "_") + f"{{{m[2]}}}", text)
  text = without_colour(text)
  text = _ORDINAL.sub(_plain_ordinal, text)
  text = _DELIMITERS.sub(" ", text)
  text = _TEX_THOUSANDS.sub(lambda m: _NOT_DIGIT.sub("", m[0]), text)
  text = _BRACED_SYSTEM.sub(r"\\begin{cases}\2\\end{cases}", text)
  text = _OPEN_FENCE.sub(" ", text)
  text = _FENCES.sub("", text)
  text = _FLOURISH.sub(" ", _LAYOUT.sub(" ", text).strip())
  text = _SPACES.sub(" ", text)
  if ("[" in text or "]" in text) and _TURNED_ONLY.fullmatch(text):
    text = _TURNED.sub(_facing, text)
  if commas == "auto":
    text = _COMMA_THOUSANDS.sub(
      lambda m: _NOT_DIGIT.sub("", m[0]) if _outside_brackets(text, m.start()) else m[0], text
    )
  if r"\begin" not in text:
    text = _SPACED_THOUSANDS.sub(lambda m: _NOT_DIGIT.sub("", m[0]), text)
  return strip_end(text)


def _combinations(match: re.Match) -> str:
  total, chosen = match[1], match[4] or match[5]
  if (match[2] or match[3]) == "C":
    return rf"\binom{{{total}}}{{{chosen}}}"
  return rf"\frac{{{total}!}}{{({total}-{chosen})!}}"


def _half_line(match: re.Match) -> str:
  closed = match[1].startswith("\\")
  if match[1] == ">" or match[1].startswith(r"\ge"):
    return ("[" if closed else "(") + r"0,\infty)"
  return r"(-\infty,0" + ("]" if closed else ")")


def _facing(match: re.Match) -> str:
  opening, inside, closing = match.groups()
  return ("(" if opening == "]" else "[") + inside + (")" if closing == "[" else "]")


def without_colour(text: str) -> str:
  """`text` without colours, sizes, tags and labels."""
  return _COLOURED.sub(" ", text) if "\\" in text else text


_EDGES = re.compile(r"^(?:\s|\\[,;:! ])+|(?:\s|(?<!\\)\\[,;:! ])+$")


def _bare(text: str) -> str:
  """`text` without space at its ends and without one pair of braces around all of it."""
  text = _EDGES.sub("", text)
  if not (text.startswith("{") and text.endswith("}") and not _escaped(text, len(text) - 1)):
    return text
  depth = 0
  for i, char in enumerate(text):
    if char in "{}" and not _escaped(text, i):
      depth += 1 if char == "{" else -1
      if depth == 0:
        return _EDGES.sub("", text[1:-1]) if i == len(text) - 1 else text
  return text


def _plain_ordinal(match: re.Match) -> str:
  """`22nd` as 22 and `15th day` as a count of days; anything else as it is."""
  number = match[1]
  endings = {"1": "st", "2": "nd", "3": "rd"}
  ending = "th" if number[-2:-1] == "1" else endings.get(number[-1], "th")
  suffix = match[0][len(number) :]
  if not re.match(r"[^a-zA-Z]*(?:\\[a-z]+\W*)?" + ending, suffix):
    return match[0]
  return number + (rf" \text{{{match[2].strip()}}}" if match[2] else "")


def strip_end(text: str) -> str:
  """`text` without space around it and the marks that end a sentence, but for a factorial."""
  text = text.strip()
  while text and (text[-1] in ".,;:" or (text[-1] == "\\")):
    text = text[:-1].rstrip()
  return text


def _outside_brackets(text: str, end: int) -> bool:
  head = text[:end]
  opened = head.count("(") + head.count("[") + head.count(r"\{")
  return opened <= head.count(")") + head.count("]") + head.count(r"\}")


_WRAPPER = re.compile(
  r"\\(?:text(?:bf|it|rm|sf|tt|normal|up)?|mbox|hbox|mathrm|mathbf|mathit|mathsf|operatorname"
  r"|boldsymbol|bm|bf|rm|it)\*?(?![a-zA-Z])"
)


def unwrap(text: str) -> str:
  """`text` without the commands that only set its size, font and spacing."""
  return _SPACES.sub(" ", _LAYOUT.sub(" ", _SIZES.sub("", _WRAPPER.sub("", text))))

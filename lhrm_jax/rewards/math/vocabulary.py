"""The closed vocabulary of the grammar: every command and word it knows."""


def words(text: str) -> frozenset[str]:
  """The words of `text`, separated by white space."""
  return frozenset(text.split())


FUNCTIONS = words(
  """sin cos tan cot sec csc arcsin arccos arctan arccot sinh cosh tanh coth asin acos atan log ln
  exp lg sqrt abs max min gcd lcm"""
)
_GREEK = words(
  """alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi
  rho sigma tau upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Sigma Upsilon Phi Psi
  Omega ell hbar angle triangle circ degree prime"""
)
# Commands that stand for a plainer one.
SAME = {
  "dfrac": "frac", "tfrac": "frac", "cfrac": "frac", "dbinom": "binom", "tbinom": "binom",
  "leq": "le", "leqslant": "le", "geq": "ge", "geqslant": "ge", "neq": "ne", "lt": "<", "gt": ">",
  "cdot": "*", "times": "*", "ast": "*", "div": "/", "lvert": "|", "rvert": "|", "vert": "|",
  "mid": "|", "lbrace": r"\{", "rbrace": r"\}", "lbrack": "[", "rbrack": "]", "langle": "(",
  "rangle": ")", "colon": ":", "dots": "ldots", "cdots": "ldots", "dotsc": "ldots",
  "backslash": "setminus", "smallsetminus": "setminus", "varnothing": "emptyset", "land": "and",
  "wedge": "and", "lor": "or", "vee": "or", "simeq": "approx", "cong": "approx", "to": "rightarrow",
  "Rightarrow": "rightarrow", "implies": "rightarrow", "varepsilon": "epsilon", "varphi": "phi",
  "bigcup": "cup", "bigcap": "cap", "lparen": "(", "rparen": ")", "degree": "circ",
  "arccsc": "arccsc", "dotsm": "ldots", "tg": "tan", "ctg": "cot", "cotg": "cot", "arctg": "arctan",
  "arcctg": "arccot", "sh": "sinh", "ch": "cosh",
  "bmod": "mod", "Longrightarrow": "rightarrow",
}  # fmt: skip
_OTHERS = words(
  """frac binom sqrt pi infty le ge ne approx equiv in notin cup cap setminus pm mp ldots emptyset
  lfloor rfloor lceil rceil overline bar dot begin end R and or rightarrow sum prod underline
  underbrace max min choose over mod pmod odot oplus star perp parallel dollar euro sterling yen
  rupee rouble det circled lim hat widehat tilde"""
)
COMMANDS = _GREEK | FUNCTIONS | frozenset(SAME) | _OTHERS
# Commands whose argument is text, or a name in another font.
TEXTS = words(
  """text textbf textit textrm textsf texttt textsc textnormal textup mbox hbox mathrm mathbf mathit
  mathsf operatorname boldsymbol bm mathbb mathcal emph framebox ensuremath textcircled underbrace
  vec overrightarrow boxed fbox mathop bold underline"""
)
# Those of them that leave their argument unchanged.
TRANSPARENT = words("vec overrightarrow boxed fbox framebox ensuremath emph mathop underline")
MATRICES = words("matrix pmatrix bmatrix Bmatrix smallmatrix array vmatrix")
SYSTEMS = words("cases aligned align gathered dcases rcases")
CURRENCIES = words("dollar euro sterling yen rupee rouble")
# Words that may stand behind a number and say nothing about its size.
COUNTS = words(
  """unit percent percentage pct point piece people person student way euro pound yuan rupee peso
  yen month year apple item book ticket mph kmh joule watt newton volt ampere ohm hertz hz mol
  square sq cubic cu per gallon quart pint cup tablespoon teaspoon acre hectare dozen time
  chicken animal card coin ball block page mark step side edge face vertex vertices digit number
  solution word child children men women man woman boy girl player game
  hundred thousand million billion trillion"""
)
# Operations of the evaluator; those of the first set grow without bound.
GROWING = words("exp sinh cosh tanh coth")
ELEMENTARY = GROWING | words("sin cos tan cot sec csc asin acos atan acot asinh acosh atanh")

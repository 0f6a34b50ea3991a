"""A table of answers that are and are not equal, by what they are about."""
# ruff: noqa: E501, RUF001 - one case is one entry, and look-alike characters are among the cases

# (gold, answer): the same value.
EQUAL = {
  "integers": [("42", "42"), ("42", "+42"), ("-5", "−5"), ("7", "007"), ("42", "42."), ("0", "-0")],
  "separators": [
    ("1234567", "1,234,567"), ("1234567", "1{,}234{,}567"), ("12000", r"12\,000"),
    ("12000", r"12,\!000"), ("1000", "1 000"), ("1,000.5", "1000.5"),
  ],
  "decimals": [("0.5", ".5"), ("0.5", "0.50"), ("1/8", "0.125"), ("1.5e-3", "0.0015"),
               ("0.0015", r"1.5 \times 10^{-3}"), ("3.0 \\cdot 10^8", "300000000")],
  "fractions": [
    (r"\frac{3}{4}", "3/4"), (r"\frac34", "0.75"), (r"\dfrac{6}{8}", r"\tfrac{3}{4}"),
    (r"-\frac{1}{2}", r"\frac{-1}{2}"), (r"1\frac{1}{2}", "1.5"), ("1 1/2", "3/2"), ("½", "0.5"),
    ("2½", "5/2"), (r"\frac{1}{2}", r"\left(\frac{1}{2}\right)"), (r"-2\frac{1}{3}", "-7/3"),
  ],
  "percent": [(r"25\%", "25"), ("25%", "0.25"), (r"25\%", "1/4"), ("12.5 percent", r"12.5\%")],
  "units": [
    ("5", r"5\text{ cm}"), (r"15\mbox{ cm}^2", "15"), ("100 cm", r"1\text{ m}"), (r"\$10", "10"),
    ("10 dollars", r"\$10"), ("90 minutes", "1.5 hours"), ("18", "18 apples"), ("7 km", "7000 m"),
    ("3 feet", "36 inches"),
  ],
  "radicals": [
    (r"\sqrt{12}", r"2\sqrt{3}"), (r"\sqrt3", r"3^{1/2}"), (r"\frac{1}{\sqrt{2}}", r"\frac{\sqrt2}{2}"),
    (r"\sqrt[3]{-8}", "-2"), ("√5", r"\sqrt{5}"), ("2sqrt(3)", r"2\sqrt{3}"),
    (r"\sqrt{3+2\sqrt{2}}", r"1+\sqrt{2}"),
  ],
  "powers": [("2^{10}", "1024"), ("2^10", "1024"), (r"2^{-3}", r"\frac18"), ("x^2 x^3", "x^5"),
             ("2**3", "8"), ("3²", "9"), (r"27^{\frac{2}{3}}", "9")],
  "constants": [(r"\frac{9}{4}\pi", r"\frac{9\pi}{4}"), ("2π", r"2\pi"), ("e^2", r"e \cdot e"),
                (r"\ln e", "1"), ("2*pi*r", r"2 \pi r")],
  "polynomials": [
    ("(x+1)^2", "x^2+2x+1"), ("(x-2)(x+2)", "x^2-4"), (r"\frac{x^2-1}{x-1}", "x+1"),
    ("4a-2", "-2+4a"), (r"\frac{1}{x}+\frac{1}{y}", r"\frac{x+y}{xy}"), ("ab", "ba"),
  ],
  "equations": [
    ("5", "x=5"), ("x=5", "5"), ("y=2x+1", "2x-y+1=0"), ("x+y=3", "2x+2y=6"), ("f(x)=x^2", "x^2"),
    ("f(n)=n^2", "f(x)=x^2"), ("x = 1/3", r"x = \frac{1}{3} \approx 0.33"), ("|AB|=1", "1"),
  ],
  "inequalities": [
    ("x>3", "3<x"), (r"x\ge 3", r"[3,\infty)"), ("-2<x<5", "(-2,5)"), (r"x \in (1,2)", "1<x<2"),
    ("-x<2", "x>-2"), ("2x>6", "x>3"), (r"|x|<2", "(-2,2)"), ("x<1 or x>3", r"(-\infty,1)\cup(3,\infty)"),
    (r"x\neq 3", r"(-\infty,3)\cup(3,\infty)"), ("x>1 and x<3", "(1,3)"), ("x≥2", r"x \geq 2"),
  ],
  "intervals": [
    ("[0,1)", r"\left[0, 1\right)"), (r"(0,1)\cup[1,2]", "(0,2]"), (r"(-\infty, 5]", r"(-oo, 5]"),
    (r"\mathbb{R}", r"(-\infty,\infty)"), (r"(0, \frac{1}{2}]", "(0,0.5]"),
  ],
  "sets": [
    (r"\{1,2,3\}", r"\{3,2,1\}"), ("1,2", "2 and 1"), (r"\{1\}", "1"), (r"\{2, 4\}", "x=2 or x=4"),
    ("x=2, x=-3", "-3, 2"), (r"\emptyset", r"\{\}"), ("1, 2", r"\{1, 2, 2\}"),
  ],
  "tuples": [
    ("(1,2)", r"\left( 1, 2 \right)"), ("(x,y)=(1,2)", "(1,2)"), ("(1/2, 3)", "(0.5,3)"),
    ("x=1, y=2", "(1,2)"), ("(1;2;3)", "(1,2,3)"), ("(1,2),(3,4)", "(3,4),(1,2)"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", "(1,2)"), (r"\langle 1,2\rangle", "(1,2)"),
  ],
  "matrices": [
    (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{bmatrix} 1 & 2 \\ 3 & 4 \end{bmatrix}"),
    (r"\begin{pmatrix}1/2&0\end{pmatrix}", r"\begin{pmatrix}0.5&0\end{pmatrix}"),
    (r"2\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}2\\4\end{pmatrix}"),
  ],
  "complex": [("3+4i", "4i+3"), ("(1+i)^2", "2i"), (r"\frac{1}{i}", "-i"), (r"\sqrt{-4}", "2i"),
              (r"e^{i\pi}", "-1")],
  "degrees": [(r"48^\circ", "48"), ("60°", r"60^{\circ}"), (r"60^\circ", r"\frac{\pi}{3}"),
              ("90 degrees", r"90^\circ")],
  "functions": [
    (r"\sin^2 x + \cos^2 x", "1"), (r"\tan x", r"\frac{\sin x}{\cos x}"), (r"\log_2 8", "3"),
    (r"2\sin x\cos x", r"\sin 2x"), (r"\ln 4", r"2\ln 2"), (r"\sin 30^\circ", r"\frac12"),
    (r"\log 1000", "3"), (r"\arcsin 1", r"\frac{\pi}{2}"), (r"\log_3 x", r"\frac{\ln x}{\ln 3}"),
    (r"\sin^{-1}(1)", r"\pi/2"),
  ],
  "plus-minus": [(r"1\pm\sqrt{2}", r"1+\sqrt{2}, 1-\sqrt{2}"), (r"x=\pm 3", "-3, 3"),
                 (r"\pm 2", r"\{2,-2\}"), ("±5", r"\pm 5")],
  "bases": [("204_5", "204_{5}"), ("204_5", "204"), ("1010_2", r"1010_{2}")],
  "repeating": [("1/3", r"0.\overline{3}"), (r"0.\overline{9}", "1"), ("1/6", r"0.1\overline{6}"),
                (r"\frac{1}{11}", r"0.\overline{09}")],
  "text": [(r"\text{Evelyn}", "Evelyn"), ("even", r"\text{Even}"), ("Yes", "yes."),
           (r"\text{4:30 p.m.}", r"4:30 \text{ p.m.}"), ("no solution", r"\text{No solution}")],
  "choice": [("B", "(B)"), ("B", r"\text{(B)}"), ("(D) Alina", "D"), ("C", "C. 12"),
             ("C", "(C) +1"), ("(C) + 1", "C+1")],
  "combinatorics": [("5!", "120"), (r"\binom{5}{2}", "10"), (r"\frac{1}{2004!}", r"\frac{1}{2004!}"),
                    (r"\lfloor 3.7 \rfloor", "3"), ("|-3|", "3")],
  "ratios": [("1:2", r"\frac12"), ("2:3", "4:6"), ("1:2:3", "2:4:6")],
  "noise": [
    ("1/2", r"$$\displaystyle \frac{1}{2}$$"), ("x+1", r"\(x + 1\)"), ("1/2", r"\\frac{1}{2}"),
    ("12", "**12**"), ("3", r"{{{3}}}"), (r"\frac{1}{2}", r"\frac {1} {2}"), ("１２", "12"), ("٣", "3"),
  ],
}  # fmt: skip

# (gold, answer): another value.
DIFFERENT = {
  "numbers": [("42", "43"), ("42", "-42"), ("0.5", "0.51"), ("12", "12.5"), ("1/2", "2"),
              ("1000", "1,00"), ("32349", "32, 349"), ("3.14", r"\pi"), ("1/3", "0.33"), ("7", "-7")],
  "hedges": [("7", "7 or 8"), ("7", "6, 7"), ("7", r"\{6,7\}"), ("7", r"\pm 7"), ("B", "A or B"),
             ("7", "7, 7.5"), ("1,2", "1,2,3"), ("2021", r"\pm 2021"), ("B", "B or C")],
  "formulas behind a letter": [("C", "(C)+1"), ("(C)+1", "C"), ("(A)/2", "A"), ("A", "(A)^2"),
                               ("B", "(B) = 3"), ("(B) + 3", "B")],
  "structure": [("(1,2)", "(2,1)"), ("(0,1)", "[0,1]"), (r"\{1,2\}", "(1,2)"), ("[0,1)", "[0,1]"),
                ("x>3", r"x\ge 3"), ("x>3", "x<3"), ("1,1,2", "1,2"), ("(1,2,3)", "(1,2)"),
                ("x=1, y=2", "x=2, y=1"), ("x=1,y=2", "2,1")],
  "algebra": [("x+1", "x-1"), ("x", "y"), ("x", "X"), ("x^2", "2x"), ("7", "x"), ("x+y=3", "x+y=4"),
              (r"\sqrt{x^2}", "x"), ("f(x)", "f(y)"), ("2x+z=1", "1"), ("7=11a+c", "11a+c")],
  "units": [("5 cm", "5 kg"), ("5 cm", "5 m"), ("4:30", "4:30 p.m."), ("4:30 p.m.", "4:30 a.m."),
            ("10 dollars", "10 cents")],
  "tricks": [("7", "x=x"), ("7", ""), ("7", r"\text{the answer}"), ("7", "?"), ("7", "the number 7x"),
             ("7", r"7+10^{-30}"), ("7", r"7+\sqrt{2}\cdot10^{-100}"), ("204_5", "54"), ("7", r"7\text{ or }8"),
             ("7", "7 8"), ("7", "7..8"), ("7", "7%8"), ("0", r"10^{-60}"), ("1", r"0.\overline{98}"),
             ("7", "[6, 8]"), ("7", r"\infty"), ("7", "6<x<8"), ("7", r"x \in \mathbb{R}")],
  "matrices": [(r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{pmatrix}1&2\\3&5\end{pmatrix}"),
               (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}2\\1\end{pmatrix}")],
  "functions": [(r"\sin x", r"\cos x"), (r"\log_2 8", "2"), (r"\ln 2", r"\log_2 3"), (r"60^\circ", "61")],
  "text": [("Evelyn", "Briana"), ("yes", "no"), ("d", r"\text{E}"), ("B", "C")],
}  # fmt: skip
DIFFERENT["large"] = [
  (r"10^{200}\sqrt{2}", r"10^{200}\sqrt{2}+1"), (r"10^{40}x", r"10^{40}x+1"),
  (r"e^{200}", r"e^{200}+1"), (r"10^{30}", r"10^{30}+1"),
]  # fmt: skip
EQUAL["large"] = [(r"e^{200}", r"e^{100} \cdot e^{100}"), (r"10^{40}x", r"10^{20}x \cdot 10^{20}")]
EQUAL["spot checks"] = [
  ("(x,y)=(1,2)", "y=2,x=1"), ("x=1,y=2", "y=2,x=1"), (r"\frac{a}{b}", "ab^{-1}"), ("x y^2", "xy^2"),
  ("7", r"7,7"), ("7", "[7]"), ("7", r"x\approx 7"), ("3.5", r"\frac{7}{2}=3.5"), ("0.12", r"12\%"),
  ("17", r"\text{17 apples}"), ("17", r"\mathrm{Area} = 17"), ("17", r"17\ \mathrm{cm}"),
  (r"x^2+y^2=4", "y^2 = 4 - x^2"), (r"\pi", "3.14159265358979"), (r"\ln|x|+C", r"\ln|x|+C"),
  (r"\mathbb{Z}", r"\mathbb{Z}"), (r"3\text{ hours}", r"180\text{ minutes}"), ("4e3", "4000"),
  (r"8\pi", r"8 \pi \text{ units}^2"), (r"-1 \pm i", "-1+i,-1-i"), (r"x \equiv 2 \pmod 5", r"x\equiv2\pmod{5}"),
  (r"\begin{pmatrix} 1 \\ 4 \end{pmatrix}", r"\begin{pmatrix} 1 \\[2pt] 4 \end{pmatrix}"),
]  # fmt: skip
# Zeros behind a rough approximation claim what it is not.
DIFFERENT["padded approximations"] = [
  (r"\sqrt{2}", "1.0000000000"), (r"\sqrt{2}", "1.50000000000"), (r"\pi", "3.1400000000"),
  (r"\frac{\pi}{3}", "1.0000000000"), (r"\frac13", "0.3000000000"), (r"10\sqrt2", "14.000000000"),
]  # fmt: skip
EQUAL["long approximations"] = [
  (r"\sqrt{2}", "1.41421356237309"), (r"10\sqrt2", "14.142135623731"), (r"\frac{\pi}{300}", "0.0104719755119660"),
]  # fmt: skip
DIFFERENT["spot checks"] = [
  ("7", "6=7"), ("7", "7=8"), ("7", "x=6, y=7"), ("7", "7; 8"), ("7", r"7\\8"), ("7", r"\text{7 or 8}"),
  ("7", "7 (8)"), ("12", "1,2"), ("1,2", "12"), ("x=7", "y=7"), ("-5", "|-5|"), ("A", r"\textbf{(B)}\ 5"),
  (r"3\frac{1}{2}", r"\frac{3}{2}"), (r"\infty", r"-\infty"), ("2:3", "3:2"), ("3i", "3"), ("101_2", "101_3"),
  (r"\sqrt{2}", "1.41421356"), ("0", r"\emptyset"), ("(3,-3)", r"\pm3"), ("[1,2]", "1,2"), (r"\mathbb{Z}", r"\mathbb{Q}"),
  ("xy^2", "(xy)^2"), ("5", r"\text{5 or 6}"),
]  # fmt: skip

# What each kind of reading must tell apart, and what it must not.
EQUAL |= {
  "sets of integers": [
    (r"\{1,2,3\}", r"\{x\in\mathbb{Z}\mid 1\le x\le 3\}"), (r"\{-1,0,1\}", r"\{x\in\mathbb{Z}: |x|<2\}"),
    (r"\{2,3\}", r"\{n\in\mathbb{N}\mid 1<n<4\}"), (r"\{x\in\mathbb{Z}\mid 1\le x\le 3\}", r"\{k\in\mathbb{Z}\mid 0<k<4\}"),
  ],
  "ways to choose": [("21", r"{}_7C_2"), ("21", "_{7}C_{2}"), ("21", "^7C_2"), ("42", r"{}_7\mathrm{P}_2")],
  "half lines": [(r"\mathbb{R}_{>0}", r"(0,\infty)"), (r"(-\infty,0]", r"\mathbb{R}_{\leq 0}")],
  "reals said beside a condition": [(r"x \in \mathbb{R},\ x\neq 2", r"(-\infty,2)\cup(2,\infty)"), ("n^2", r"n^2\ (n\in\mathbb{N})")],
  "bare compound units": [
    (r"3 \times 10^8 \text{ m/s}", "3e8 m/s"), (r"3 \times 10^8 \text{ m/s}", "300000 km/s"), ("2 km^2", "2000000 m^2"),
    ("1 h 15 min", r"75\text{ min}"), ("7:30", r"7{:}30"), ("£5", r"\pounds 5"),
  ],
  "systems without a brace": [(r"\begin{array}{l}x=1\\y=2\end{array}", "x=1,y=2")],
  "nested looks": [("8", r"\text{\textbf{8}}"), ("8", r"\textsc{8}"), ("8", r"\begin{Large}8\end{Large}"), ("8", r"8\newline")],
  "number words": [
    ("21", "twenty-one"), ("305", r"\text{three hundred and five}"), ("2/3", "two thirds"), ("1/2", r"\text{half}"),
    ("3", "third"), ("12", "twelfth"), ("3/4", "three quarters"), ("1000", "a thousand"), ("two", "2"),
  ],
  "articles": [("square", r"\text{a square}"), ("The ellipse", r"\text{ellipse}")],
  "outward brackets": [
    ("]1,2]", "(1,2]"), ("[1,2)", "[1,2["), (r"(-\infty,3)\cup(5,\infty)", r"]-\infty,3[\cup]5,\infty["),
    (r"\sqrt[3]{5}, [1,2]", r"\sqrt[3]{5},[1,2]"),
  ],
  "struck relations": [(r"x \ne 4", r"x \not= 4"), (r"x\ge 3", r"x \not< 3"), (r"x\notin A", r"x\not\in A")],
  "repeating in other notations": [
    ("2/3", "0.(6)"), ("2/3", "0.666..."), ("1/6", r"0.1666\ldots"), ("5/3", "1.(6)"), ("1.5(2)", "3"),
  ],
  "bases in words": [("201_8", r"201_{\text{eight}}"), ("201_8", "201_{(8)}")],
  "flourishes": [
    ("19", r"\therefore 19\;\blacksquare"), ("19", r"19\ \checkmark"), ("19", r"\underbrace{19}_{\text{sum}}"),
    ("19", r"\vphantom{1}19"), ("-6", "{-}6"), (r"\hat{i}+\hat{j}", r"\hat{\imath}+\hat{\jmath}"),
  ],
  "transposes": [
    (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}^T", r"\begin{pmatrix}1&3\\2&4\end{pmatrix}"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}^{\top}", r"\begin{pmatrix}1&2\end{pmatrix}"),
  ],
  "counts side by side": [
    ("4,7", r"4\text{ boys and }7\text{ girls}"), ("4,7", r"4\text{ boys, }7\text{ girls}"),
  ],
  "sets of one": [("5", r"x\in\{5\}")],
  "circled lists": [("①②④", "①, ②, ④"), (r"\textcircled{1}\textcircled{3}", "①, ③")],
  "powers of ten in words": [("3000000000000", r"3\text{ trillion}")],
  "close but equal": [(r"\tanh x", r"\frac{e^{2x}-1}{e^{2x}+1}"), (r"\tanh 2", r"\frac{e^4-1}{e^4+1}"), ("6", r"6\approx 6.0")],
  "whole numbers rounded": [(r"\lceil n/3\rceil", r"\lfloor (n+2)/3\rfloor"), (r"\lfloor n/2\rfloor+\lceil n/2\rceil", "n"), (r"\lfloor x\rfloor-\lfloor x-1\rfloor", "1")],
  "braces kept": [("2^{n-1}", "2^{n - 1}"), (r"\sqrt{10}", r"\sqrt {10}"), ("-3./2", "-1.5"), ("5.", "5")],
  "double factorials": [("7!!", "105"), ("8!!", "384"), (r"(2n)!!", "2^n n!")],
  "extreme sizes": [(r"e^{-600}", r"\frac{1}{e^{600}}"), (r"2^{-900}\sqrt 2", r"\frac{\sqrt 8}{2^{901}}")],
  "letters that could be units": [
    (r"\frac{9 m}{4}", r"\frac94 m"), ("3 g-g^2", "g(3-g)"), (r"\sqrt{3 m}", r"\sqrt3\sqrt m"),
    ("b=5 h", "b=2h+3h"), ("-8 s", r"-8\text{ s}"), ("y<3 h", r"y<h\cdot 3"), ("2 l", "l+l"),
  ],
  "names before brackets": [("a(b+c)", "ab+ac"), ("n(n+1)", "n^2+n"), ("f(0)+1", "1+f(0)")],
  "floors and ceilings": [
    (r"\lceil \frac{n}{4}\rceil", r"\lfloor \frac{n+3}{4}\rfloor"), (r"\lfloor x+1\rfloor", r"\lfloor x\rfloor+1"),
    (r"\lceil x\rceil", r"-\lfloor -x\rfloor"), (r"\lfloor n/2\rfloor+\lceil n/2\rceil", "n"),
    (r"\lfloor \sqrt{n}\rfloor+1", r"1+\lfloor n^{1/2}\rfloor"), (r"n-\lfloor n/3\rfloor", r"\lceil 2n/3\rceil"),
  ],
  "whole numbers": [
    (r"\binom{n}{3}", r"\frac{n(n-1)(n-2)}{6}"), (r"\binom{n+1}{k}", r"\binom{n}{k}+\binom{n}{k-1}"),
    (r"\frac{(n+2)!}{n!}", "(n+1)(n+2)"), ("(n+1)!-n!", r"n\cdot n!"), (r"\gcd(a,b)", r"\gcd(b,a)"),
    ("(-1)^{n+1}", "-(-1)^n"), (r"\cos(n\pi)", "(-1)^n"), ("C_6^3", "20"), (r"{5 \choose 2}", "10"),
  ],
  "compound units": [
    (r"36\text{ km/h}", r"10\text{ m/s}"), (r"\$2.50", r"250\text{ cents}"), ("£5", "5"),
    (r"5\text{ ft }6\text{ in}", r"66\text{ in}"), (r"1\text{ h }20\text{ min}", r"80\text{ min}"),
    (r"12^\circ 30'", r"12.5^\circ"), (r"20^\circ 30'36''", r"20.51^\circ"), (r"9.8\text{ m/s}^2", r"9.8\,\mathrm{m}/\mathrm{s}^2"),
    (r"25^\circ\text{C}", "25"), (r"7\text{ cm}^2", r"7\text{ square centimeters}"), (r"5\text{ million}", "5000000"),
  ],
  "ordinals": [("33", "33rd"), ("11", r"11^{\text{th}}"), ("42", r"42\text{nd}"), ("3rd place", "3")],
  "conditions": [
    (r"\{x\in\mathbb{R}\mid x\le 4\}", r"(-\infty,4]"), (r"\{y : y>0\}", r"(0,\infty)"),
    (r"x=0\text{ or }x\ge 2", r"\{0\}\cup[2,\infty)"),
    (r"\mathbb{R}\setminus\{0,1\}", r"(-\infty,0)\cup(0,1)\cup(1,\infty)"),
    (r"\text{all reals}", r"(-\infty,\infty)"), (r"x\neq 1,3", r"(-\infty,1)\cup(1,3)\cup(3,\infty)"), (r"x\ne\pm1", r"\mathbb{R}-\{-1,1\}"),
    (r"\emptyset", r"\text{no solution}"), (r"(0,\infty)", r"\mathbb{R}^+"), (r"x>\sqrt2", r"(\frac{2}{\sqrt2},+\infty)"),
  ],
  "looks": [
    ("17", r"\textcolor{red}{17}"), ("17", r"{\large 17}"), (r"\frac23", r"\color{green}\frac23"), ("17", r"\colorbox{red}{$17$}"),
    ("17", r"17\tag{2}"), ("17", r"\fcolorbox{red}{white}{17}"), ("17", r"\textcolor[rgb]{1,0,0}{17}"),
  ],
  "remarks": [
    ("f(x)=3x", r"f(x)=3x\text{ for all }x\in\mathbb{R}"), ("f(n)=2n", r"f(n)=2n \text{ for all positive integers } n"),
    ("a_n=3n", r"a_n=3n\ (n\in\mathbb{N})"), ("20", r"\text{There are }20\text{ ways}"), ("20", r"\text{The final answer is }20"),
    (r"\frac{22}{7}", r"\frac{22}{7}\text{ (approximately }3.14\text{)}"), (r"M_{\max}=18", "18"), (r"x_{\text{max}}=2", r"x_{\max}=2"),
    (r"\text{first: }2,\text{ second: }5", "2,5"), ("5:7", r"5\text{ to }7"), ("21", r"\text{twenty-one}"), (r"\text{infinity}", r"\infty"),
  ],
  "several letters": [("ABD", "A, B, D"), ("ABD", r"\text{A, B and D}"), ("AC", "(A), (C)")],
  "systems": [
    (r"\begin{cases}a=3\\b=7\end{cases}", "a=3, b=7"), (r"\begin{cases}a=3\\b=7\end{cases}", "(3,7)"),
    (r"\left\{\begin{array}{l}x=1\\y=2\end{array}\right.", "x=1,y=2"), (r"\begin{aligned}x&=1\\y&=2\end{aligned}", "(1,2)"),
    (r"\begin{cases}x^2 & x>0\\-x & x\le0\end{cases}", r"\begin{cases}x^2, & \text{if } x>0\\-x, & \text{if } x\leq 0\end{cases}"),
    (r"\begin{cases}1&\text{if }n\text{ is even}\\0&\text{if }n\text{ is odd}\end{cases}", r"\begin{cases}1,& n\text{ even}\\0,& n\text{ odd}\end{cases}"),
  ],
  "determinants and inverses": [
    (r"\begin{vmatrix}a&b\\c&d\end{vmatrix}", "ad-bc"),
    (r"\begin{pmatrix}2&0\\0&2\end{pmatrix}^{-1}", r"\frac12\begin{pmatrix}1&0\\0&1\end{pmatrix}"),
    (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", "[[1,2],[3,4]]"),
  ],
  "integers in solutions": [
    (r"x\equiv 3\pmod 8", r"x\equiv -5\pmod{8}"), (r"x\equiv 4\pmod{7}", r"x\equiv 4\ (\mathrm{mod}\ 7)"),
    (r"n=8k+3, k\in\mathbb{Z}", r"n\equiv 3\pmod 8"), (r"x\equiv 1, 4 \pmod 5", r"x\equiv \pm 1\pmod 5"),
    (r"x=\frac{\pi}{3}+2k\pi, k\in\mathbb{Z}", r"x=2n\pi+\frac{\pi}{3}\ (n\in\mathbb{Z})"),
    (r"x=k\pi, k\in\mathbb{Z}", r"x=2k\pi \text{ or } x=\pi+2k\pi, k\in\mathbb{Z}"), (r"x=k\pi, k\in\mathbb{Z}", r"x=n\pi \text{ for any integer } n"),
    (r"x=(-1)^k\frac{\pi}{6}+k\pi, k\in\mathbb{Z}", r"x=\frac{\pi}{6}+2k\pi, x=\frac{5\pi}{6}+2k\pi, k\in\mathbb{Z}"),
    (r"x=\frac{\pi}{2}+k\pi, k\in\mathbb{Z}", r"\left\{-\frac{\pi}{2}+k\pi \mid k\in\mathbb{Z}\right\}"),
  ],
  "equations up to a factor": [
    ("xy=8", r"x=\frac{8}{y}"), (r"\frac1x+\frac1y=1", "x+y=xy"), ("PV=nRT", r"P=\frac{nRT}{V}"), ("x^2=8y", r"y=\frac{x^2}{8}"),
    (r"\frac{x^2}{4}+\frac{y^2}{9}=1", "9x^2+4y^2=36"), ("x+2y>4", "2y>4-x"),
  ],
  "readings of the gold alone": [
    ("x^2<9", "(-3,3)"), (r"\frac{x-1}{x+2}\ge0", r"(-\infty,-2)\cup[1,\infty)"), ("|x-3|<2", "(1,5)"), ("2x+1>5", "x>2"),
    ("y-3=2(x+1)", "2x+5"), (r"\left(\begin{array}{c}6\\2\end{array}\right)", "15")],
  "conjugates": [(r"\overline{w}", r"\bar{w}"), (r"z\overline{z}", "|z|^2"), (r"\overline{2+3i}", "2-3i"), (r"\overline{AB}=5", "5")],
  "other notations": [
    (r"\operatorname{ctg} x", r"\cot x"), ("2<sup>n</sup>-1", "2^n-1"), (r"\textcircled{2}\textcircled{4}", "②④"),
    ("(243)_7", "243_7"), (r"\underbrace{5\cdots5}_{k}", r"\underbrace{5 \cdots 5}_{k}"), (r"L_{\odot}^2", r"L_\odot^2"),
    (r"\int_0^1 x dx", r"\int_{0}^{1} x\,dx"), (r"\text{充要条件}", "充要条件"),
  ],
}  # fmt: skip
DIFFERENT |= {
  "the question repeated": [("(-3,3)", "x^2<9"), ("(1,5)", "|x-3|<2"), ("x>2", "2x+1>5"), ("x=5", "2x=10"), ("5", "2x=10")],
  "braces kept": [
    (r"\frac{3}{8xy}", r"\frac{3}{8}xy"), ("7^{n+1}", "7^n+1"), (r"\sqrt{2x+1}", r"\sqrt{2x}+1"), ("a_{k+1}", "a_k+1"),
    (r"\cos{2x}+1", r"\cos{2x+1}"), (r"\frac{12}{5}", r"\frac{1}{25}"), (r"\sqrt[4]{81}", r"\sqrt{[4]81}"), ("10^{100}", "10^{1}00"),
  ],
  "marks kept": [
    ("5", "5!"), ("5!", "5"), ("8", "8!!"), ("(2n)!", "2n!"), ("0.75", "75"), ("7", ".7"), ("64", ".64"), ("3 1/2", "31/2"),
    ("13", "1 3"), ("17", r"1\,7"), ("17", "{1}{7}"), ("17", r"1\color{red}7"), ("7", "7?"), ("7", "7-"), ("7", "7'"),
  ],
  "extreme sizes": [
    (r"3+e^{-700}", "3"), (r"\frac{1}{7^{800}}\sqrt2", "0"), (r"\frac{\ln 2}{900!}", r"\frac{\ln 3}{900!}"), (r"\pi", r"\pi+10^{-400}"),
    (r"\sqrt{10^{600}+1}", "10^{300}"), (r"(\frac{\sqrt3}{2})^{2000}", "0"), ("f(1)", "f(1+10^{-30})"), ("x>1", r"(1+10^{-40},\infty)"),
  ],
  "letters that could be units": [
    (r"\frac{9 m}{4}", r"\frac94"), ("(4 h, 5 h)", "(4,5)"), ("7 m n", "7n"), (r"\frac{5 m}{4}+2", r"\frac{13}{4}"), ("2 m", "2"),
  ],
  "names before brackets": [
    ("g(0)+3", "3"), ("A(0)e^{rt}", "0"), ("q(2)", "2q"), ("I(0)+3", "3"), (r"y(0)\cos t", "0"), ("c(1)", "c"),
  ],
  "floors and ceilings": [
    (r"\lfloor \frac{n}{7}\rfloor", r"\lfloor \frac{n+1}{7}\rfloor"), (r"\lfloor y\rfloor", r"\lfloor y+0.001\rfloor"),
    (r"\lfloor \frac{1000}{n}\rfloor", "0"), (r"\lceil x\rceil", r"\lfloor x\rfloor+1"), (r"\lfloor \sqrt{n}\rfloor", r"\lfloor \sqrt{n+1}\rfloor"),
    (r"\lceil \frac{n}{3}\rceil", r"\lfloor\frac{n+1}{3}\rfloor"), ("|x-5000|", "5000-x"), (r"\gcd(n,101)", "1"), (r"\max(x,2)", "x"),
  ],
  "whole numbers": [("(-1)^n", "(-1)^{n+1}"), (r"\frac{1-(-1)^n}{2}", "1"), (r"\binom{n}{3}", r"\frac{n(n-1)(n-2)}{3}"), ("n!^2", "(n!)!")],
  "compound units": [
    (r"3\text{ m/s}", r"3\text{ km/h}"), (r"\$8", r"8\text{ cents}"), (r"\$8", r"8\text{ euros}"), (r"8\pi\text{ cm}", r"8\pi\text{ m}"),
    (r"25^\circ\text{C}", r"25^\circ\text{F}"), (r"1\text{ h }20\text{ min}", r"120\text{ min}"), (r"12^\circ 30'", r"12^\circ"),
    (r"7\text{ cm}^2", r"7\text{ cm}^3"), ("5", r"5\text{ million}"), (r"30^\circ", r"30\text{ radians}"), (r"5\text{ cm}", r"5\text{ cm}+0\text{ kg}"),
  ],
  "sets of integers": [
    (r"\{-1,0,1\}", r"\{x\in\mathbb{Z}: |x|\le 2\}"), (r"\{x\in\mathbb{Z}\mid 1\le x\le 3\}", "[1,3]"),
    (r"\{1,2,3\}", r"\{x\in\mathbb{Z}\mid x<4\}"), (r"\{1\}", r"\{x\in\mathbb{Z}\mid 1\le x\le 10^9\}"),
    (r"[1,3]", r"\{x\in\mathbb{Q}\mid 1\le x\le 3\}"),
  ],
  "ways to choose": [("42", r"{}_7C_2"), ("21", r"{}_7P_2"), ("21", "{}_8C_2")],
  "half lines": [(r"\mathbb{R}_{\ge 0}", r"(0,\infty)"), (r"\mathbb{R}_{>0}", r"\mathbb{R}_{<0}")],
  "reals said beside a condition": [(r"x \in \mathbb{R},\ x\neq 2", r"\mathbb{R}"), ("n^2", r"n^3\ (n\in\mathbb{N})")],
  "bare compound units": [
    (r"3 \times 10^8 \text{ m/s}", "3000 km/s"), ("2 km^2", "2000 m^2"), ("1 h 15 min", r"115\text{ min}"), ("2 m^2", "2"),
  ],
  "systems without a brace": [(r"\begin{array}{l}x=1\\y=2\end{array}", "x=1,y=3")],
  "number words": [("7", "seventeen"), ("70", "seventeen"), ("305", "three hundred fifteen"), ("3", "first three"), ("3", "one third")],
  "articles": [("circle", "an ellipse"), ("A", "a")],
  "outward brackets": [("]1,2[", "[1,2]"), ("[1,2]", "]1,2]")],
  "struck relations": [("4", r"x\not=4"), ("3", r"\not=3"), ("3", r"\not 3"), (r"x\in A", r"x\not\in A")],
  "repeating in other notations": [("2/3", "0.667..."), ("0.6", "0.666..."), ("0.6", "0.(6)")],
  "bases in words": [("201_8", r"201_{\text{nine}}")],
  "flourishes": [("99", r"\underbrace{9}_{\text{two}}"), ("19", r"\hphantom{19}")],
  "transposes": [(r"\begin{pmatrix}1&2\\3&4\end{pmatrix}^T", r"\begin{pmatrix}1&2\\3&4\end{pmatrix}")],
  "counts side by side": [("4,7", r"4\text{ boys and }8\text{ girls}"), ("4", r"4\text{ boys and }7\text{ girls}")],
  "sets of one": [("5", r"x\in\{5,6\}")],
  "circled lists": [("①②④", "①, ②"), ("①③", "A, C")],
  "functions near their bounds": [
    (r"\tanh(500)", "1"), (r"\coth(500)", "1"), (r"\tanh(1000)", r"\tanh(1001)"), (r"\tanh(x+400)", "1"),
    (r"\tan(10^{-200})", "10^{-200}"), (r"\arctan(10^{-100})", "10^{-100}"), (r"\sin(e^{-300})", "e^{-300}"),
  ],
  "roundings dropped": [
    (r"\lfloor x\rfloor", "x"), (r"\lceil x\rceil", "x"), (r"\lfloor 2x\rfloor", "2x"), (r"\lfloor n\rfloor+1", "n+1"),
    (r"x-\lfloor x\rfloor", "0"), (r"\lceil t\rceil", r"\lfloor t\rfloor+1"), (r"\lceil x\rceil-\lfloor x\rfloor", "0"),
  ],
  "approximations far off": [("6", r"5\approx 6"), ("3", r"3\approx 4"), ("6", r"6\approx 60")],
  "percent and units": [(r"\$5", r"5\%"), ("5%", "5 dollars"), ("5 kg", r"5\%")],
  "dates": [("2020-05-06", "2020-06-05"), ("2009", "2020-05-06")],
  "doubts": [
    ("3", r"3\text{ maybe}"), ("3", r"\text{perhaps }3"), ("3", r"3\text{ (guess)}"), ("3", r"3\text{ is impossible}"),
    ("3", r"3\text{ larger}"), ("3", r"3\text{ bn}"), ("3", r"3\text{ pi}"), ("3", r"3\text{ish}"), ("3", r"3\text{ trillion}"),
  ],
  "words that change a value": [
    ("5", r"5\text{ squared}"), ("5", r"5\text{ or more}"), ("5", r"\text{at least }5"), ("5", r"\text{not }5"), ("5", r"\text{minus }5"),
    ("7", r"7\text{ is wrong}"), ("7", r"\text{half of }7"), ("7", r"7\text{ hundred}"), ("7", r"\text{seven hundred}"), ("7", r"7\text{ tenths}"),
    ("x+1", r"x+1\text{ for }x>0"), (r"\text{not continuous}", r"\text{continuous}"), ("even", "not even"), ("abc", "ABC"),
  ],
  "conditions": [
    (r"\{x\mid x>1\}", r"[1,\infty)"), (r"x<3\text{ or }x>1", "(1,3)"), ("(3,3)", "[3,3)"), ("[2,2,5)", "(2,2,5)"), ("(2,3,4)", "[2,3,4)"),
    (r"\frac{x-1}{x+2}\ge0", r"(-\infty,-2]\cup[1,\infty)"), (r"x\in[-2,7]", r"-x\in[-2,7]"), (r"x>1, x\in\mathbb{Z}", "x>1"), ("x>3", "y>3"),
    (r"\{x\in\mathbb{N}\mid x>1\}", r"\{x\in\mathbb{R}\mid x>1\}"), (r"\mathbb{R}", r"\mathbb{R}^2"), ("12", ">12"), ("-1<x<1", r"x^2\le1"),
  ],
  "looks": [("17", r"71\tag{17}"), ("17", r"\phantom{17}"), ("17", r"\textcolor{red}{71}"), ("17", r"\tag{17}"), ("7", r"\cancel{7}")],
  "several letters": [("ABD", "A, B"), ("ABD", "A"), ("ABD", "ABE"), ("5:7", r"7\text{ to }5"), ("A", "AC")],
  "systems": [
    (r"\begin{cases}a=3\\b=7\end{cases}", "(7,3)"),
    (r"\begin{cases}1&\text{if }n\text{ is even}\\0&\text{if }n\text{ is odd}\end{cases}", r"\begin{cases}0&\text{if }n\text{ is even}\\1&\text{if }n\text{ is odd}\end{cases}"),
    (r"\begin{cases}2x & x\ge 0\\ -2x & x<0\end{cases}", r"\begin{cases}2x & x> 0\\ -2x & x\le0\end{cases}"), (r"\begin{vmatrix}1&2\\3&4\end{vmatrix}", "2"),
  ],
  "integers in solutions": [
    (r"x\equiv 3\pmod 8", r"x\equiv 3\pmod{4}"), (r"x\equiv 3\pmod 8", "3"), ("4", "n=4k"), (r"x=k\pi, k\in\mathbb{Z}", "0"),
    (r"x=\frac{\pi}{3}+2k\pi, k\in\mathbb{Z}", r"x=\frac{\pi}{3}+k\pi, k\in\mathbb{Z}"), (r"x=k\pi, k\in\mathbb{Z}", r"x=\frac{k\pi}{2}, k\in\mathbb{Z}"),
  ],
  "equations up to a factor": [
    ("x^2=8y", r"x=2\sqrt{2y}"), ("PV=nRT", r"P=\frac{nRV}{T}"), ("3x-6y+9=0", "x-2y-3=0"), ("x+2y>4", "2y<4-x"), ("x^2=1", "x=1"), ("y+1=x", "x+1"),
  ],
  "conjugates": [(r"\overline{w}+2", "w+2"), (r"z+\bar z", "2z"), (r"\hat{x}", "x"), ("(243)_7", "(243)_8")],
  "other notations": [("2<sup>n</sup>-1", "2n-1"), (r"\textcircled{2}\textcircled{4}", "②③"), ("①③", "13"), (r"\int_0^1 x dx", r"\int_0^2 x dx")],
}  # fmt: skip

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
  "choice": [("B", "(B)"), ("B", r"\text{(B)}"), ("(D) Alina", "D"), ("C", "C. 12")],
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
DIFFERENT["spot checks"] = [
  ("7", "6=7"), ("7", "7=8"), ("7", "x=6, y=7"), ("7", "7; 8"), ("7", r"7\\8"), ("7", r"\text{7 or 8}"),
  ("7", "7 (8)"), ("12", "1,2"), ("1,2", "12"), ("x=7", "y=7"), ("-5", "|-5|"), ("A", r"\textbf{(B)}\ 5"),
  (r"3\frac{1}{2}", r"\frac{3}{2}"), (r"\infty", r"-\infty"), ("2:3", "3:2"), ("3i", "3"), ("101_2", "101_3"),
  (r"\sqrt{2}", "1.41421356"), ("0", r"\emptyset"), ("(3,-3)", r"\pm3"), ("[1,2]", "1,2"), (r"\mathbb{Z}", r"\mathbb{Q}"),
  ("xy^2", "(xy)^2"), ("5", r"\text{5 or 6}"),
]  # fmt: skip

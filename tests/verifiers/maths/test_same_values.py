import pytest

from gpg_vl.verifiers.maths.same_values import same_value
from gpg_vl.verifiers.maths.values import read_value


def same(answer: str, gold: str) -> bool:
    left, right = read_value(answer), read_value(gold)
    return left is not None and right is not None and same_value(left, right)


# A gold answer and right answers, in both directions.
ALIKE = {
    "140": [
        *(
            "140°",
            "140 degrees",
            r"140^\circ",
            r"$140^{\circ}$",
            "140.0",
            r"140\degree",
            "140^{o}",
            "140 º",
            "140∘",
            "140度",
        ),
        *(
            "**140**",
            r"\[140^\circ\]",
            r"\(140\)",
            r"\boxed{140^\circ}",
            r"$\boxed{140}$°",
            "`140`",
            '"140"',
            "140.",
            "140。",
        ),
        *(
            "x = 140",
            "∠A = 140°",
            r"\angle A = 140^\circ",
            "角A等于140度",
            "The answer is 140",
            "Answer: 140",
            "答案：140°",
        ),
        *(
            "**Answer:** 140",
            "The measure of angle A is 140°.",
            r"The measure of \angle ABC is $140^\circ$",
            "So x = 140.",
        ),
        *(
            "140 (degrees)",
            "140° (since AB is parallel to CD)",
            "=140",
            "70 + 70 = 140",
            "１４０",
            "one hundred and forty",
        ),
        *("140 = 140.0", "280/2", r"\displaystyle 140", r"140\quad", r"\textbf{140}", "```\n140\n```", "2^7 + 12"),
    ],
    "8√3": [
        *(
            "8√{3}",
            r"8\sqrt{3}",
            r"$8 \sqrt 3$ m",
            "8*sqrt(3)",
            "√192",
            "8·√3",
            "8⋅√3",
            "24/√3",
            "8*3^(1/2)",
            "8*3^0.5",
        ),
        *(
            "8根号3",
            "8 times the square root of 3",
            r"8\sqrt{3} \approx 13.86",
            "AB = 8√3 cm",
            "13.8564064605510",
            "√3·8",
        ),
        *(r"\frac{24}{\sqrt{3}}", "4√3+4√3", "8 root 3", "(8√3)", "8√(3)"),
    ],
    r"\frac{3}{2}": [
        *(
            "3/2",
            "1.5",
            r"\dfrac{3}{2}",
            r"\frac32",
            r"\cfrac{3}{2}",
            "6/4",
            "3÷2",
            "1 1/2",
            "1½",
            "1又1/2",
            r"1\frac{1}{2}",
        ),
        *("3:2", "3 to 2", "150%", "3/2 cm", r"\left(\frac{3}{2}\right)", "2分之3", "1+1/2", "15e-1"),
    ],
    r"\frac{1}{3}": [
        "0.333333333",
        ".3333333333333333",
        r"0.\overline{3}",
        r"0.\dot{3}",
        "0.33…",
        "0.333...",
        "0.(3)",
        "1:3",
        "1∶3",
    ],
    "9πcm^{2}": [
        *(
            "9π cm²",
            r"9\pi \text{ cm}^2",
            "π·3²",
            "9π",
            "3^2π square centimeters",
            "9π sq. cm",
            "9π ㎠",
            "π(3)^2",
        ),
        *("9π平方厘米", "9pi", "28.2743338823", "900π mm²"),
    ],
    "5 m": ["500 cm", "50 dm", "5米", "5 meters", "5", "0.005 km", "5000 mm"],
    "2小时": ["2 h", "2 hours", "120 minutes", "7200 s", "2 hrs"],
    "30.25°": ["30°15′", r"30^\circ 15'", "30 degrees 15 minutes", "30°15'0\"", "121/4"],
    "60°": [r"\frac{\pi}{3} rad", "π/3 radians"],
    "50%": [r"50\%", "50 percent", "1/2", "0.5", "50", "百分之50"],
    "1200": ["1 200", "1.2×10^3", "1.2e3", "1.2E3", r"1.2\times10^{3}", "1{,}200", "1.2·10³"],
    "2": [r"\sqrt[3]{8}", "8^{1/3}", "∛8", "8^(1/3)", "2^1", "1+1", "√(2^2)", r"\sqrt{4}", "4 \\sin 30^\\circ"],
    "√2-1": ["1/(1+√2)", r"\frac{1}{1+\sqrt{2}}", "√(3-2√2)", "-1+√2"],
    "√3/3": ["tan 30°", r"\tan 30^\circ", "1/√3", r"\tan\frac{\pi}{6}"],
    "(3,-2)": [
        "(3, -2)",
        "(3.0, -2.0)",
        "（3，-2）",
        r"$(3,-2)$",
        r"(\frac{6}{2}, -2)",
        "A(3,-2)",
        "P = (3, -2)",
        "(x, y) = (3, -2)",
    ],
    "(0,5]": ["(0, 5]", r"0 < x \le 5", "5 ≥ x > 0", "0<x<=5"],
    "x>3": ["(3, ∞)", r"(3, +\infty)", "3 < x", "x > 6/2"],
    "30° or 150°": ["150° or 30°", "30°或150°", "30°, 150°", r"$30^\circ$ or $150^\circ$", "x = 30° or x = 150°"],
    "±2": ["2 or -2", r"x = \pm 2", "x=-2 or x=2"],
    "2x+3": ["$2x+3$", r"2\cdot x+3", "3+2x", "y = 2x+3", "x+x+3"],
    "x^2-1": ["(x-1)(x+1)", "y=x²-1", "x*x-1"],
    "B": [
        "(B)",
        "B.",
        "[B]",
        "【B】",
        "b",
        "B. 30°",
        "Option B",
        "The answer is (B).",
        "故选：B",
        "B选项",
        r"\boxed{\text{B}}",
    ],
    "1:2:3": ["2:4:6", "1 : 2 : 3"],
    "12°0'15\"": ['12°15"', "12.0041\\overline{6}°"],
    r"\frac{1}{2}ab": ["ab/2", "0.5ab", r"\frac{ab}{2}", "ba/2", "a·b/2"],
    "(3, -2)": ["the point (3, -2)", "The point P(3, -2)", "vertex (3, -2)", "P = (3, -2)"],
    "C": ["**C.** 30°", "**C**. 30°"],
    "45°": ["0.785398163397448 rad", "In the figure, ∠A is 45°", "Based on the figure, the angle is 45°"],
    "10": ["|AB| = 10"],
}
PAIRS = [(answer, gold) for gold, answers in ALIKE.items() for answer in answers]


@pytest.mark.parametrize(("answer", "gold"), PAIRS)
def test_one_value_in_several_ways(answer: str, gold: str) -> None:
    assert same(answer, gold)
    assert same(gold, answer)


def test_a_separator_of_thousands_in_an_answer_and_two_numbers_in_a_gold_answer() -> None:
    assert same("1,200", "1200")
    assert same("1,200", "1, 200")
    assert same("1, 200", "1,200")
    assert not same("1200", "1,200")
    assert same("1,200 cm", "1200 cm")
    assert same("1200π", "1,200π")


# A gold answer and wrong answers.
UNLIKE = {
    "140": [
        *(
            "14",
            "1 40",
            "-140",
            "140 or 40",
            "140, 40",
            "140 40",
            "140-40",
            "not 140",
            "The answer is not 140",
            "about 140",
        ),
        *(
            "at least 140",
            "half of 140",
            "≈140",
            "140 ± 5",
            "140+",
            "140)",
            "(140",
            "140=",
            "140=40",
            "x=140=40",
            "2x=140",
        ),
        *(
            "140x",
            "x",
            "140 apples",
            "140!",
            "1４0",
            "１40",
            "١٤٠",
            "140\u200b",
            "140 (or 40)",
            "140 (not 40)",
            "140°45'",
            "140 30",
        ),
        *(
            "140 degrees and 5 minutes",
            "twice x = 140",
            "x^2 = 140",
            "140 cm m",
            "140%%",
            "14０",
            "140 / 2",
            "140;",
            "140,",
        ),
    ],
    "8√3": ["8", "√3", "13.856", "8√3 8√3", "8√", "8√3+", "√(8·3)", "8^3", "8√3π", "13.85640647"],
    "65": ["65π", "65π·1^2", "65π+", "65)"],
    "π": ["3.14", "22/7", "3.1415926", "3", "180"],
    "1/3": ["0.3333", "0.33333334", "0.333333334", "0.34", "3", "0.3", "33%"],
    "2": ["2√(3^2-1)", "2^-1", "2/2", "√2", "2e1"],
    "5": ["5√(3^2)", "√(5^2+1)", "√(3+4)^2"],
    "100": ["10^3", "1e3", "100!", "10^10", "9^9^9"],
    "1000": ["1.000", "10,00", "1,0000", "1 000 0"],
    "5 m": ["5 cm", "50 cm", "5 kg", "5°", "5 m²", "5 s", "500 m"],
    "30 cm²": ["30 cm", "30 cm³", "30°", "30 m²", "3000 cm²"],
    "6 m/s": ["6 km/h", "6 m"],
    "50%": ["500%", "60%", "5", "0.05"],
    "(3,400)": ["3400", "1,200", "3,400", "(400,3)", "[3,400]"],
    "30,150": ["30150", "150, 30", "30"],
    "(0,5]": ["(0,5)", "[0,5]", "5", "0 ≤ x ≤ 5", "0 < x < 5"],
    "x>3": ["x<3", "x≥3", "3", "x > 4", "3 > 2"],
    "3:2": ["2:3", "32", "3", "3:4", "3:2:1"],
    "30° or 150°": ["30°", "150°", "30° or 30°", "30° or 150° or 90°"],
    "2x+3": ["3x+2", "2x+3y", "2a+3", "5x", "2x", "2x+3=0"],
    "y=2x": ["x=2y", "2y"],
    "x=4": ["y=4", "x=-4"],
    "B": ["A", "A, B", "B, C", "not B", "A. 30° B. 40°", "8", "BB", "B or C", "AB", "A. 30°", "B B"],
    "A": ["a lot", "an A", "A B C D"],
    "sin 40°": ["sin 40", "cos 40°", "40"],
    "12°15'": ['12°15"', "12.15°"],
    "45°": ["0.7854 rad", "0.785398163397448", "0.785398163398 cm"],
    "10": ["|x| = 10"],
    r"\frac{1}{2}ab": ["ab", "2ab", "abc/2", "ac/2"],
}
DIFFERENT = [(answer, gold) for gold, answers in UNLIKE.items() for answer in answers]


@pytest.mark.parametrize(("answer", "gold"), DIFFERENT)
def test_different_values(answer: str, gold: str) -> None:
    assert not same(answer, gold)

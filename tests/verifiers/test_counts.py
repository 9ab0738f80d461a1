from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpg_vl.verifiers.counts import read_count, read_integer
from gpg_vl.verifiers.number_words import read_number_words
from tests.support.clock import takes_less_than


@pytest.mark.parametrize(
    ("text", "value"),
    [("4", 4), (" 12.\n", 12), ("-3", -3), ("+7", 7), ("007", 7), ("9" * 18, 10**18 - 1)],
)
def test_whole_numbers(text: str, value: int) -> None:
    assert read_integer(text) == value
    assert read_count(text) == value


@pytest.mark.parametrize(
    "text",
    [
        *("", ".", "4.0", "4 items", "four", "1e3", "nan", "inf", "1_000", "1,000", "--4", "4..", "3 4", "0x4"),
        *("٤", "４", "²", "4\u200b", "\u200b4", "9" * 19, "9" * 5000),
    ],
)
def test_everything_else_is_no_plain_whole_number(text: str) -> None:
    assert read_integer(text) is None


COUNTS = {
    4: [
        *(
            "four",
            "FOUR.",
            "4.0",
            "4 shapes",
            "4 items.",
            "4 red spheres",
            "4 items in total",
            "four (4)",
            "4 (four)",
            "（4）",
        ),
        *(
            "There are 4.",
            "There are four objects.",
            "The answer is 4",
            "Answer: 4",
            "Total: 4",
            "The count is 4.",
            "A total of 4",
        ),
        *(
            "**4**",
            "$4$",
            "*4*",
            "\\(4\\)",
            '"4"',
            "[4]",
            "**4 objects**",
            "\\boxed{4}",
            "\\boxed{4 \\text{ cubes}}",
            "4\\text{ cubes}",
        ),
        *(
            "4 (2 red, 2 blue)",
            "4 (2 + 2 = 4)",
            "4 (1 red, 3 blue, 4 in total)",
            "= 4",
            "In the image, there are 4 cubes.",
            "2+2=4",
            "2 + 2 = 4",
            "2 red and 2 blue, 4 in total",
            "red: 2, blue: 2, total: 4",
            "2 cubes + 2 spheres = 4 shapes",
        ),
        *(
            "4个",
            "四",
            "共4个",
            "一共有4个。",
            "４",
            "4。",
            "图中有4个红色的球",
            "答案是4",
            "共有四个物体。",
            "2个红色和2个蓝色，共4个",
            "四个",
        ),
        *(
            "I count 4",
            "I can see four spheres.",
            "The number of red cubes is 4.",
            "In total, there are 4 objects.",
            "exactly 4",
            "4 light-blue cubes",
        ),
        *(
            "```4```",
            "The total number of objects is **4**.",
            "So there are 4 people.",
            "4 objects are visible in the image",
            "+4",
        ),
    ],
    0: ["0", "zero", "none", "There are no cubes.", "no cubes", "There are zero cubes", "没有", "零", "0 cubes"],
    1000: ["1,000", "one thousand", "a thousand", "1000.", "1{,}000", "一千"],
    21: ["twenty-one", "Twenty one cubes", "二十一", "二十一个"],
    105: ["one hundred and five", "one hundred five", "一百零五"],
    -3: ["-3"],
}


@pytest.mark.parametrize(("text", "value"), [(text, value) for value, texts in COUNTS.items() for text in texts])
def test_one_count_in_several_ways(text: str, value: int) -> None:
    assert read_count(text) == value


@pytest.mark.parametrize(
    "text",
    [
        *(
            "4.5",
            "4 (1 + 1 = 2)",
            "4 (1 red and 1 blue, 2 in total)",
            "3-4",
            "3 to 4",
            "4 or 5",
            "4/2",
            "more than 4",
            "4 of 10",
            "4 5",
            "four or five",
            "4\u200b",
            "٤",
            "4²",
            "⁴",
            "²",
            "④",
        ),
        *(
            "null",
            "false",
            "no",
            "4 dozen",
            "a dozen",
            "4 pairs",
            "4%",
            "4 percent",
            "not 4",
            "There are not 4 cubes",
        ),
        *(
            "There are at least 4",
            "About 4",
            "approximately 4",
            "4+",
            "4!",
            "4 and 5",
            "4 cubes and 5 spheres",
            "four and a half",
        ),
        *(
            "4 (not 5)",
            "4 (or 5)",
            "4 (3 red, 2 blue)",
            "2+3=4",
            "2+2",
            "2*2=4",
            "4=2+2",
            "4 fewer than 8",
            "4个半",
            "4多个",
            "不是4",
        ),
        *(
            "4或5",
            "there are no more than 4",
            "twenty four five",
            "4x",
            "4e3",
            "four4",
            "4th",
            "the fourth",
            "one of four",
            "4 out of 5",
        ),
        *(
            "4,5",
            "4, 5",
            "1,00",
            "4 times 3",
            "4 to 6 people",
            "没有四个",
            "没有4个",
            "no 4 cubes",
            "4 4",
            "四五",
            "第4个",
            "half of 4",
        ),
        *(
            "4 red and 5 blue, 9",
            "2 red, 2 blue, total 5",
            "4 ± 1",
            "4０",
            "between 3 and 5",
            "4 hundred",
            "eleventy",
            "",
            "   ",
            ".",
        ),
        *("1000 or 1001", "3 cubes, maybe 4", "zero or one", "none or 1", "9" * 19, "4 " * 200),
    ],
)
def test_what_is_not_one_count(text: str) -> None:
    assert read_count(text) is None


NAMES_TEXT = """
zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
eighteen nineteen
"""
NAMES = NAMES_TEXT.split()
TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]


def in_words(number: int) -> str:
    if number < 20:
        return NAMES[number]
    if number < 100:
        return TENS[number // 10 - 2] + (f"-{NAMES[number % 10]}" if number % 10 else "")
    if number < 1000:
        return f"{NAMES[number // 100]} hundred" + (f" and {in_words(number % 100)}" if number % 100 else "")
    rest = number % 1000
    return f"{in_words(number // 1000)} thousand" + (f" {in_words(rest)}" if rest else "")


def in_chinese(number: int) -> str:
    digits = "零一二三四五六七八九"
    text = ""
    for unit, name in ((1000, "千"), (100, "百"), (10, "十"), (1, "")):
        digit, number = divmod(number, unit)
        if digit:
            text += digits[digit] + name
        elif text and not text.endswith("零"):
            text += "零"
    return text.rstrip("零") or "零"


@given(st.integers(0, 999_999))
def test_english_words(number: int) -> None:
    assert read_number_words(in_words(number)) == number
    assert read_number_words(in_words(number).replace("-", " ").upper()) == number


@given(st.integers(0, 9999))
def test_chinese_words(number: int) -> None:
    assert read_number_words(in_chinese(number)) == number
    assert read_count(f"{in_chinese(number)}个") == number


@given(st.lists(st.sampled_from([*NAMES, *TENS, "hundred", "thousand", "and", "a"]), min_size=1, max_size=6))
def test_words_that_are_no_number_are_refused(words: list[str]) -> None:
    value = read_number_words(" ".join(words))
    spelled = {word for word in words if word not in ("and", "a")}
    if value is not None:
        in_hundreds = f"{in_words(value // 100)} hundred {in_words(value % 100) if value % 100 else ''}"
        expected = [text.replace("-", " ").split() for text in (in_words(value), in_hundreds)]
        assert spelled - {"one"} in [{*each} - {"and", "one"} for each in expected]


@pytest.mark.parametrize(
    "piece", ["four ", "4, ", "4 + ", "one hundred and ", "四", "(", "4 cubes and ", "total 4 ", "1,000,", "=4"]
)
def test_hostile_text_is_fast(piece: str) -> None:
    for length in (400, 65_000):
        text = (piece * length)[:length]
        assert takes_less_than(0.05, partial(read_count, text))


OTHER_VALUES = {
    "fractions": [
        "4 fourths",
        "four fifths",
        "4 hundredths",
        "four-tenths",
        "4 sixteenths",
        "one fourth",
        "1 tenth",
        "one eighth",
        "one half",
        "4 twentieths",
        "4 halves",
        "4 quarters",
    ],
    "multiples": [
        "4 score",
        "4 couples",
        "4 trios",
        "4 bunches",
        "4 stacks",
        "4 teams",
        "4 fold",
        "four-fold",
        "4 each",
    ],
    "collectives": [
        "4 flocks of birds",
        "4 rows",
        "4 packs",
        "4 cubes per row",
        "4 cubes in each row",
        "4 units",
        "4 tens",
        "4 octets",
    ],
    "compounds": ["4-legged", "4-sided shapes", "4 legged animals", "4 D", "4-D objects", "4 dimensional shapes"],
    "adjectives": ["4 wheeled carts", "4 star hotels", "4-door cars", "4 leaf clovers", "4 six-legged insects"],
    "units": [
        "4 cm",
        "4 kg",
        "4 hours",
        "4 pm",
        "4 dollars",
        "4 inch nails",
        "4 kilobytes",
        "4 pesos",
        "4块钱",
        "4 o'clock",
        "4 miles",
        "4 degrees",
    ],
    "doubt": [
        "4-ish",
        "4 (approx)",
        "4 guess",
        "4 unsure",
        "4 likely cats",
        "4 possible cubes",
        "4 cubes hopefully",
        "4 cats, dogs excluded",
        "4 something",
        "4 cubes I guess",
        "4 cubes?",
        "4 (estimated)",
    ],
    "bounds": [
        "4 max",
        "4 minimum",
        "4 at minimum",
        "4 tops",
        "4 cubes tops",
        "4 and counting",
        "4 cubes and counting",
    ],
    "others": [
        "4 extra",
        "4 missing",
        "four short",
        "4 cats and a dog",
        "4 others and the cat",
        "4 visible, others hidden",
    ],
    "broken words": ["four teen", "four ty", "four th"],
    "Chinese": [
        "四双",
        "四对",
        "四打",
        "四组",
        "四维",
        "四角形",
        "四点",
        "四成",
        "四次",
        "四个以内",
        "4个小时",
        "4倍",
        "四元",
    ],
    "Chinese doubt": ["4个吧", "4个以外", "可能4个", "4个左右", "4个半", "4只猫和一只狗"],
    "sums": ["6-3=4", "8/3=4", "9-5-0=4", "4/0=4", "4 = 8/2"],
    "none of it": ["no idea", "no single answer", "no clue", "there is no answer", "no way", "no problem", "no one"],
    "a list": ["(1,200)", "[1,200]", "( 4,000 )"],
}


@pytest.mark.parametrize("text", [text for texts in OTHER_VALUES.values() for text in texts])
def test_what_follows_a_number_and_makes_it_another(text: str) -> None:
    assert read_count(text) is None


@pytest.mark.parametrize("unit", ["fourths", "-sided shapes", " km", " weeks", " euros", " maximum", " teams", "th"])
@pytest.mark.parametrize("number", ["1", "one", "3", "12", "twenty-one"])
def test_units_and_the_like_are_refused_after_every_number(number: str, unit: str) -> None:
    assert read_count(f"{number}{unit if unit[0] in '- t' else ' ' + unit}") is None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *[(f"4 {things}", 4) for things in ("people", "women", "sheep", "large, red balls", "red and blue cubes")],
        *[
            (f"4 {things}", 4)
            for things in (
                "dogs on the grass",
                "visible people",
                "standing men",
                "kites flying in the sky",
                "cubes remain",
                "shiny metal spheres",
                "birds are sitting here",
            )
        ],
        *[(f"4 {things}", 4) for things in ("total", "in total", "altogether", "visible", "in the image", "fishermen")],
        *[(f"4 {things}", 4) for things in ("sweat-shirts", "objects left", "cats and dogs", "cubes (all red cubes)")],
        *[
            ("a single cube", 1),
            ("There is a single dog", 1),
            ("a single pair", None),
            ("a single", None),
            ("1 cube", 1),
            ("one red cube", 1),
            ("There is one person.", 1),
            ("There is no cube", 0),
            ("no people", 0),
        ],
        *[("total of 4", 4), ("Number of objects: 4", 4), ("number of red cubes = 4", 4), ("count of dogs: four", 4)],
        *[("2个红色和2个蓝色，一共4个", 4), ("6-2=4", 4), ("8/2 = 4", 4), ("8 ÷ 2 = 4", 4), ("1,200", 1200)],
        *[
            ("4只猫", 4),
            ("四辆红色的汽车", 4),
            ("4 个物体", 4),
            ("4人", 4),
            ("4个对象", 4),
            ("四位老人", 4),
            ("3种颜色", 3),
        ],
        *[("twelve hundred", 1200), ("twelve hundred and five cubes", 1205), ("Twenty-one hundred", 2100)],
        *[
            (text, None)
            for text in ("ten hundred", "twenty hundred", "twelve hundred thousand", "twelve hundred hundred")
        ],
        *[
            ("one thousand and five", 1005),
            ("21 (twenty-one)", 21),
            ("21 (twenty-two)", None),
            ("17 (twelve-five)", None),
        ],
        *[("and five", None), ("one and five", None), ("one thousand and", None), ("one thousand and and five", None)],
        *[("one thousand twelve hundred", None), ("a twelve hundred", None), ("twelve hundred or 5", None)],
        *[("nothing", 0), ("There is nothing.", 0), ("Nothing at all", None), ("nothing but 3 cubes", None)],
        *[("nothing or one", None), ("not nothing", None), ("肆", 4), ("肆个", 4), ("共拾贰个", 12), ("叁佰零伍", 305)],
        *[("肆或伍", None), ("肆伍", None), ("三肆", None), ("伍德", None), ("大陆", None), ("4个肆", None)],
        *[("3 (red, green and blue)", 3), ("3 (cubes)", 3), ("2 (a cat, a dog)", None), ("3 (red, blue)", None)],
        *[("number of cubes more than: 4", None), ("4 (red, maybe, blue, green)", None), ("4 cube", None)],
    ],
)
def test_a_plain_noun_phrase_may_follow(text: str, value: int | None) -> None:
    assert read_count(text) == value


@pytest.mark.parametrize("piece", ["一共", "，一共一共", "两=", "total 4 =", "1=", "4 a-b ", "number of a "])
def test_every_text_below_the_limit_is_fast(piece: str) -> None:
    text = (piece * 400)[:399]
    assert read_count(text) is None
    assert takes_less_than(0.01, lambda: read_count(text))

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpg_vl.verifiers import class_lists
from gpg_vl.verifiers.class_lists import name_reader
from gpg_vl.verifiers.names import is_same_name, read_name, words_of
from tests.support.class_names import CLASS_FILES, NEARLY_PLAIN, read_classes

FLOWERS = ("rose", "lenten rose", "desert-rose", "pink primrose", "mallow", "tree mallow", "sweet pea", "colts foot")
AIRCRAFT = ("737-800", "737-900", "A320", "A330-200", "MD-80", "Cessna 172", "F-16A/B", "Spitfire", "Gulfstream V")
PETS = ("american_bulldog", "beagle", "german_shorthaired", "saint_bernard", "siamese")
CARS = ("2012 Audi A5 Coupe", "2011 Audi S6 Sedan", "2012 BMW 3 Series Sedan", "2012 BMW 3 Series Wagon")
ALL = (*FLOWERS, *AIRCRAFT, *PETS, *CARS)


@pytest.mark.parametrize(
    ("answer", "name"),
    [
        ("a rose", "rose"),
        ("ColtsFoot", "colts foot"),
        ("A320", "A320"),
        ("A 737-800", "737-800"),
        ("The Roses.", "rose"),
        ("This is a rose.", "rose"),
        ("The flower in the image is a desert rose", "desert-rose"),
        ("rose (Rosa)", "rose"),
        ("rose flower", "rose"),
        ("“Sweet Pea”", "sweet pea"),
        ("mallow tree", "tree mallow"),
        ("Boeing 737-800", "737-800"),
        ("B737-800", "737-800"),
        ("Boeing 737–800 (B738)", "737-800"),
        ("Airbus A320-200", "A320"),
        ("McDonnell Douglas MD-80.", "MD-80"),
        ("Supermarine Spitfire", "Spitfire"),
        ("F-16AB", "F-16A/B"),
        ("A Cessna 172 aircraft", "Cessna 172"),
        ("Siamese cat", "siamese"),
        ("an American Bulldog (dog)", "american_bulldog"),
        ("German shorthaired pointer", "german_shorthaired"),
        ("St. Bernard", "saint_bernard"),
        ("Audi A5 Coupé, 2012", "2012 Audi A5 Coupe"),
        ("BMW 3-Series Sedan 2012", "2012 BMW 3 Series Sedan"),
    ],
)
def test_the_class_that_an_answer_names(answer: str, name: str) -> None:
    assert name_reader(ALL)(answer) == name_reader(ALL)(name) != None  # noqa: E711


@pytest.mark.parametrize(
    "answer",
    [
        *(
            "primrose",
            "rosebush",
            "rose or tulip",
            "rose, tulip",
            "rose rose",
            "rose and mallow",
            "rose mallow",
            "a",
            "e",
        ),
        *("not a rose", "no rose", "The rose is a mallow", "compass rose", "rose (not mallow)", "rose (mallow)", "pea"),
        *("737", "Boeing 737", "Boeing 737-700", "747-800", "737-800 or 737-900", "800-737", "bulldog", "American dog"),
        *(
            "BMW 3 Series",
            "2012 BMW 3 Series Sedan Wagon",
            "2011 Audi A5 Coupe",
            "Audi",
            "2012",
            "ros\u0435",
            "ro\u200bse",
        ),
        *("rose/mallow", "rose vs mallow", "maybe a rose", "wrong: rose", "rose " * 60),
    ],
)
def test_an_answer_that_names_none_or_several(answer: str) -> None:
    assert name_reader(ALL)(answer) is None


def test_the_larger_name_counts() -> None:
    read = name_reader(FLOWERS)
    assert read("lenten rose") != read("rose") != read("desert-rose")
    assert read("tree mallow") != read("mallow")


@pytest.mark.parametrize("name", CLASS_FILES)
def test_every_published_class_is_told_from_every_other(name: str) -> None:
    classes = tuple(read_classes(name))
    read = name_reader(classes)
    forms = ("{}", "a {}", "The {}.", "**{}**", "It is a {}", "The answer is {}", "({})", "“{}”", "\\boxed{{{}}}")
    keys = [read(text) for text in classes]
    assert None not in keys
    assert len(set(keys)) == len(classes)
    for text, key in zip(classes, keys, strict=True):
        for form in forms:
            assert read(form.format(text)) == key, form.format(text)


@given(st.sampled_from(ALL), st.sampled_from(ALL), st.sampled_from([", ", " or ", " and ", "/", "; ", " vs "]))
@settings(max_examples=200)
def test_two_classes_are_no_answer(first: str, second: str, between: str) -> None:
    if first != second:
        found = name_reader(ALL)(f"{first}{between}{second}")
        assert found is None


CODES = (
    *ALL,
    "MD-11",
    "DHC-8-100",
    "DHC-8-300",
    "Cessna 208",
    "146-200",
    "DC-10",
    "DC-8",
    "E-170",
    "CRJ-700",
    "F/A-18",
)
LILIES = ("tiger lily", "lily", "water lily", "tiger", "rose", "red, white")


@pytest.mark.parametrize(
    "answer",
    [
        *("737-800-200", "737 800 200", "Boeing 737-800-900", "MD-11-80", "Cessna 172-208", "146-200-300"),
        *(
            "DHC-100-8",
            "DHC 100 8",
            "de Havilland DHC-300-8",
            "2012 Audi 5A Coupe",
            "Audi 5 A Coupe 2012",
            "6S Audi Sedan 2011",
        ),
        *("Airbus 737-800", "Boeing A320", "Embraer CRJ-700", "Bombardier E-170", "Cessna 737-800", "Airbus DC-10-30"),
        *("Lockheed F/A-18", "Boeing DHC-8-100", "Airbus Boeing 737-800", "DC-10-8"),
    ],
)
def test_codes_in_another_order_or_by_another_maker(answer: str) -> None:
    assert name_reader(CODES)(answer) is None
    assert not any(is_same_name(read_name(answer), read_name(name)) for name in CODES)


@pytest.mark.parametrize(
    ("answer", "name"),
    [
        *[
            ("McDonnell Douglas MD-11", "MD-11"),
            ("Boeing MD-11", "MD-11"),
            ("Airbus A320-200", "A320"),
            ("DC-10-30", "DC-10"),
        ],
        *[("Bombardier DHC-8-100", "DHC-8-100"), ("British Aerospace 146-200", "146-200"), ("Embraer E-170", "E-170")],
        *[("BMW 3 Series Sedan (2012)", "2012 BMW 3 Series Sedan"), ("Audi A5 Coupe (2012)", "2012 Audi A5 Coupe")],
        *[("flower: rose", "rose"), ("Species: a lenten rose", "lenten rose"), ("aircraft: Boeing 737-800", "737-800")],
    ],
)
def test_makers_years_and_labels(answer: str, name: str) -> None:
    assert name_reader(CODES)(answer) == name_reader(CODES)(name) != None  # noqa: E711


AIRLINERS = (
    *("BAE 146-200", "BAE 146-300", "BAE-125", "MD-11", "MD-80", "MD-90", "Boeing 717", "Beechcraft 1900", "Saab 340"),
    *("737-800", "A320", "A330-200", "Cessna 172", "DC-10", "DC-8", "ATR-72", "E-190", "Fokker 70", "L-1011"),
)


@pytest.mark.parametrize(
    ("answer", "name"),
    [
        *[("146-200", "BAE 146-200"), ("British Aerospace 146-200", "BAE 146-200"), ("BAe 146-300", "BAE 146-300")],
        *[("Boeing 717-200", "Boeing 717"), ("MD-90-30", "MD-90"), ("Hawker Beechcraft 1900", "Beechcraft 1900")],
        *[("Airbus A320-214", "A320"), ("ATR 72-500", "ATR-72"), ("Embraer E-190-100", "E-190"), ("DC-8-63", "DC-8")],
        *[("Lockheed L-1011-500", "L-1011"), ("MD-11 2012", "MD-11"), ("British Aerospace BAE-125", "BAE-125")],
    ],
)
def test_makers_left_out_and_variants_that_were_built(answer: str, name: str) -> None:
    assert name_reader(AIRLINERS)(answer) == name_reader(AIRLINERS)(name) != None  # noqa: E711


@pytest.mark.parametrize(
    "answer",
    [
        *("146", "146-100", "Boeing 146-200", "Avro 146-200", "146-200-300", "200", "1900", "340", "737-800-146-200"),
        *("A737-800", "MD 737-800", "B A320", "A320-2012"),
        *("MD-11-900", "MD-80-200", "MD-90-300", "A320-20", "A320-2000", "DC-10-300", "Cessna 172-5", "ATR 72-111"),
        *("Boeing Cessna 172", "Airbus Saab 340", "Boeing BAE-125", "Fokker 70-100", "717-300", "E-190-300"),
    ],
)
def test_variants_that_were_not_built_and_codes_of_one_number(answer: str) -> None:
    assert name_reader(AIRLINERS)(answer) is None


@pytest.mark.parametrize(
    "answer", ["tiger, lily", "tiger/lily", "tiger & lily", "water; lily", "tiger | lily", "tiger+lily"]
)
def test_a_mark_between_its_words_makes_two_names(answer: str) -> None:
    assert name_reader(LILIES)(answer) is None
    assert name_reader(LILIES)("tiger-lily") == name_reader(LILIES)("tiger lily") == read_name("tiger lily")
    assert name_reader(LILIES)("red, white") is not None


@pytest.mark.parametrize(
    "answer", ["BMW 3 Series Sedan (2011)", "rose (2012)", "flower: rose, mallow", "flower: bulldog cat dog"]
)
def test_brackets_and_labels_of_another_name(answer: str) -> None:
    assert name_reader(CODES)(answer) is None


@given(st.lists(NEARLY_PLAIN, min_size=1, max_size=4), NEARLY_PLAIN)
@settings(max_examples=150)
def test_a_class_in_its_own_words_is_read_sooner_as_the_same(classes: list[str], other: str) -> None:
    """Mutations that must fail: a class counts that another one is spelled like; one that ends in a mark or bracket."""
    listed = class_lists._tabulate(tuple(classes))
    for answer in [*classes, other]:
        plain = listed.by_text.get(answer)
        assert plain is None or plain == class_lists._read_in(listed, answer)


@pytest.mark.parametrize("file", CLASS_FILES)
def test_nearly_every_published_class_is_read_at_once(file: str) -> None:
    classes = tuple(read_classes(file))
    assert len(class_lists._tabulate(classes).by_text) > 0.9 * CLASS_FILES[file]


@given(
    st.lists(NEARLY_PLAIN, min_size=1, max_size=4), NEARLY_PLAIN, st.sampled_from(["", " flower", " 737", "-300", " x"])
)
@settings(max_examples=150)
def test_an_answer_that_ends_in_another_word_names_no_class(classes: list[str], name: str, last: str) -> None:
    """Mutations that must fail: kinds, or the numbers of variants, are no words that an answer may end in."""
    listed = class_lists._tabulate(tuple(classes))
    answer = name + last
    any_end = replace(listed, last_words=frozenset(words_of(answer)), has_variants=True)
    assert class_lists._read_in(listed, answer) == class_lists._read_in(any_end, answer)
    assert name_reader(("rose", "A320"))("rose flower") and name_reader(("rose", "A320"))("A320-200")

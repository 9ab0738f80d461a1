import pytest
from hypothesis import given, settings

from gpg_vl.verifiers import names
from gpg_vl.verifiers.names import is_same_name, read_name
from tests.support.class_names import CLASS_FILES, NEARLY_PLAIN, read_classes


def same(left: str, right: str) -> bool:
    return is_same_name(read_name(left), read_name(right))


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("american_bulldog", "American Bulldog"),
        ("737-200", "737 200."),
        ("F/A-18", "FA18"),
        ("colt's foot", "Colts Foot"),
        ("hard-leaved pocket orchid", "Hard leaved\npocket orchid"),
        ("bougainvillea", "**Bougainvilléa**"),
        ("rose", "The answer is a rose."),
        ("2012 Audi A5 Coupe", "Audi A5 Coupe 2012"),
        ("sunflower", "Sunflowers"),
        ("Boeing, 737-800", "Boeing 737-800"),
        ("F-16 A/B", "F-16A/B"),
        ("Audi A5 Coupé, 2012", "2012 Audi A5 Coupe"),
        ("Audi A5 Coupe (2012)", "2012 Audi A5 Coupe"),
    ],
)
def test_same_names_without_a_list(left: str, right: str) -> None:
    assert same(left, right)
    assert same(right, left)


@pytest.mark.parametrize(
    "answer", ["tiger, lily", "tiger/lily", "lily, tiger", "tiger & lily", "tiger; lily.", "tiger | lily"]
)
def test_several_names_without_a_list_are_not_one(answer: str) -> None:
    assert same("tiger lily", "tiger lily") and same("tiger-lily", "tiger lily")
    assert not same(answer, "tiger lily")
    assert same(answer, answer), "a gold answer may hold a comma"


@pytest.mark.parametrize("gold", ["tench, Tinca tinca", "salt and pepper", "Black & white warbler", "and/or"])
def test_a_gold_answer_with_marks_is_itself(gold: str) -> None:
    assert same(gold, gold) and same(f"**{gold}**", gold)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("rose", "pink primrose"),
        ("primrose", "pink primrose"),
        ("marigold", "english marigold"),
        ("737", "737-200"),
        ("800-737", "737-800"),
        ("rose, tulip", "rose"),
        ("C++", "C"),
        ("", ""),
        (" . ", ""),
        ("ro\u200bse", "rose"),
        ("ros\u0435", "rose"),
        ("７３７-200", "737-200"),
        ("x" * 300, "x" * 300),
    ],
)
def test_different_names_without_a_list(left: str, right: str) -> None:
    assert not same(left, right)


@pytest.mark.parametrize("name", CLASS_FILES)
def test_published_class_names_stay_apart(name: str) -> None:
    classes = read_classes(name)
    assert len(classes) == CLASS_FILES[name]
    keys = [read_name(text) for text in classes]
    assert all(is_same_name(a, b) == (i == j) for i, a in enumerate(keys) for j, b in enumerate(keys))


@given(NEARLY_PLAIN)
@settings(max_examples=150)
def test_a_plain_name_is_read_sooner_as_the_same(text: str) -> None:
    """Mutations that must fail: an article or a sentence's word counts as plain, a plural keeps its s."""
    assert read_name(text) == names._read_alone(text)

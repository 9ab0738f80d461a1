import pytest

from gpg_vl.verifiers.aircraft import may_have_made, was_built, without_maker


@pytest.mark.parametrize(
    ("name", "variant", "is_right"),
    [
        (("a", "320"), "214", True),
        (("a", "320"), "20", False),
        (("boeing", "717"), "200", True),
        (("md", "11"), "900", False),
        (("dc", "10"), "30", True),
        (("rose",), "200", False),
    ],
)
def test_variants(name: tuple[str, ...], variant: str, is_right: bool) -> None:
    assert was_built(name, variant) == is_right


@pytest.mark.parametrize(
    ("words", "name", "is_right"),
    [
        ((), ("737", "800"), True),
        (("boeing",), ("737", "800"), True),
        (("airbus",), ("737", "800"), False),
        (("british", "aerospace"), ("bae", "146", "200"), True),
        (("boeing",), ("bae", "146", "200"), False),
        (("boeing",), ("cessna", "172"), False),
        (("the", "red"), ("a", "320"), True),
        (("compass",), ("rose",), False),
    ],
)
def test_makers(words: tuple[str, ...], name: tuple[str, ...], is_right: bool) -> None:
    assert may_have_made(words, name, any(map(str.isdigit, name))) == is_right


def test_a_name_without_its_maker() -> None:
    assert without_maker(("bae", "146", "200")) == ("146", "200")
    assert without_maker(("737", "800")) == ("737", "800")

import pytest

from gpg_vl.verifiers.names import normalise_name, same_name
from tests.support.shared_data import shared_file

CLASS_FILES = {"fgvc_aircraft": 100, "oxford_flowers": 102, "pets": 37, "stanford_cars": 196}


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("american_bulldog", "American Bulldog"),
        ("737-200", "737 200."),
        ("F/A-18", "FA18"),
        ("colt's foot", "Colts Foot"),
        ("hard-leaved pocket orchid", "Hard leaved\npocket orchid"),
    ],
)
def test_same_names(left: str, right: str) -> None:
    assert same_name(left, right)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("rose", "pink primrose"),
        ("primrose", "pink primrose"),
        ("marigold", "english marigold"),
        ("737", "737-200"),
        ("rose, tulip", "rose"),
        ("", ""),
        (" . ", ""),
        ("ro\u200bse", "rose"),
        ("７３７-200", "737-200"),
        ("x" * 300, "x" * 300),
    ],
)
def test_different_names(left: str, right: str) -> None:
    assert not same_name(left, right)


@pytest.mark.parametrize("name", CLASS_FILES)
def test_published_class_names_stay_apart(name: str) -> None:
    classes = [line for line in shared_file(f"classes_{name}.txt").read_text().splitlines() if line]
    assert len(classes) == CLASS_FILES[name]
    assert len({normalise_name(text) for text in classes}) == len(classes)

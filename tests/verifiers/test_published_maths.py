import threading

import pytest

from gpg_vl.verifiers.published_maths import published_match
from tests.support.clock import takes_less_than


@pytest.mark.parametrize(
    ("text", "gold", "expected"),
    [
        ("<answer> 3 </answer>", "<answer> 3 </answer>", True),
        ("<answer>3</answer>", "3", False),
        ("5cm^2^ ", "5cm^2^", True),
        ("<answer> **1440** </answer>", "1440", True),
        ("**12** 5 cm, so **3** ", "3", True),
        ("the answer is 140!", "140", True),
        ("1/3 = 0." + "3" * 400 + " so 5", "5", True),
        ("9^9^9 ", "3", False),
        ("9**9**9", "3", False),
        ("9" * 5000, "3", False),
        ("99999999!", "3", False),
        ("x" * 70_000 + " 3", "3", False),
    ],
)
def test_published_match(text: str, gold: str, expected: bool) -> None:
    assert published_match(text, gold) == expected
    assert takes_less_than(2, lambda: published_match(text, gold))


@pytest.mark.parametrize(
    "unit", ["\\[a", "$ 5 ", "(", "1 ", "\\frac{1}{", "the answer is 3 ", "\\boxed{3", "x=1=2=", "1,"]
)
def test_hostile_text_of_the_length_of_a_completion_is_read_within_the_limit(unit: str) -> None:
    """5,000 characters, about 1,024 tokens. The worst seen took 0.4 s; the limit of a published scorer is 60."""
    assert takes_less_than(6, lambda: published_match((unit * 5000)[:5000] + " 3", "3"))


def test_published_match_outside_of_the_main_thread() -> None:
    found: list[bool] = []
    thread = threading.Thread(target=lambda: found.append(published_match("it is 3", "3")))
    thread.start()
    thread.join()
    assert found == [True]

from __future__ import annotations

import json
import random

import numpy
import torch

from gpg_vl.run.random_state import read_random_state, restore_random_state, seed_everything


def draw() -> list[float]:
    """An odd number of normal values: python and numpy then hold one back for the next call."""
    return [random.random(), random.gauss(0, 1), *numpy.random.randn(3), float(torch.rand(())), float(torch.randn(()))]


def test_what_comes_next_survives_json() -> None:
    seed_everything(5)
    draw()
    state = json.loads(json.dumps(read_random_state()))
    expected = [draw(), draw()]
    seed_everything(6)
    assert [draw(), draw()] != expected
    restore_random_state(state)
    assert [draw(), draw()] == expected

"""Every family of the kit, on a tiny model, against its own processor and its own plain forward.

What is slow runs with ``make test-families``: the fast tests here take a few seconds a family.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from gpg_vl.models.families import FAMILIES
from gpg_vl.models.tiny import TINY_FAMILIES
from gpg_vl.rollout.engine import Sampling
from gpg_vl.rollout.hf import HfEngine
from gpg_vl.update.packing import PackedRow, split_into_rows
from gpg_vl.update.self_check import check_packing
from tests.support.builders import whole
from tests.support.families import CASES, TOKEN_TYPES, Bench, gradients, make_bench, worst_gradient

MANY = 10**6
NUM_NEW = 10


@pytest.fixture(scope="module", params=CASES)
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return make_bench(request.param, CASES[request.param], tmp_path_factory.mktemp(request.param))


def test_every_family_is_tested_and_has_a_tiny_model() -> None:
    assert FAMILIES.keys() == CASES.keys() == TINY_FAMILIES.keys()


def test_encode_gives_what_the_processor_gives(bench: Bench) -> None:
    for prompt in bench.prompts:
        expected = bench.inputs(prompt)
        encoded = prompt.encoded
        assert encoded.token_ids == tuple(expected.pop("input_ids")[0].tolist())
        del expected["attention_mask"]
        for name in TOKEN_TYPES:
            assert encoded.token_types == tuple(expected.pop(name, torch.tensor([encoded.token_types]))[0].tolist())
        vision = {} if encoded.vision is None else encoded.vision.tensors
        assert vision.keys() == expected.keys()
        assert all(torch.equal(tensor, expected[name]) for name, tensor in vision.items())
        assert bench.adapter.count_tokens(prompt.text, prompt.views) == len(encoded.token_ids)
        assert encoded.vision is None or encoded.vision.num_tokens == sum(encoded.token_types)


def test_packed_rows_are_plain_ones(bench: Bench) -> None:
    assert bench.difference() < bench.case.tolerance
    found = gradients(bench.adapter.model, bench.packed(), bench.coefficients)
    error, name = worst_gradient(found, bench.plain_gradients)
    assert error < bench.case.tolerance, name
    assert check_packing(bench.adapter, whole(*bench.groups), 0.7) < bench.case.tolerance


def test_split_groups_are_plain_ones(bench: Bench) -> None:
    room = max(len(prompt.encoded.token_ids) for prompt in bench.prompts) + 8
    rows = [row for group in bench.groups for row in split_into_rows(group, room)]
    assert len(rows) > len(bench.groups)
    assert bench.difference(rows) < bench.case.tolerance


def with_features(bench: Bench) -> list[PackedRow]:
    """Rows whose images were encoded before, as those of a frozen tower are in the rollout."""
    return [
        row if row.encoded.vision is None else replace(row, features=bench.adapter.encode_images(row.encoded.vision))
        for row in whole(*bench.groups)
    ]


@torch.no_grad()
def test_features_stand_for_their_images(bench: Bench) -> None:
    rows = with_features(bench)
    assert bench.difference(rows) < bench.case.tolerance
    one, other = rows[1].features, rows[3].features
    assert one is not None and other is not None
    cut = [level.roll(1, 0) for level in one.levels]
    assert bench.difference([rows[0], replace(rows[1], features=replace(one, levels=tuple(cut))), *rows[2:]]) > 1e-3


def test_mutations_are_caught(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, mutation in bench.case.mutations.items():
        with monkeypatch.context() as patch:
            mutation(patch)
            worst = max(bench.difference(), bench.difference(with_features(bench)))
            assert worst > 1e-3, name


def test_greedy_rollout_is_that_of_generate(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A padded batch whose rows end at different steps; the plain side is the saved folder, one prompt at a time."""
    endless = [bench.generate(prompt, NUM_NEW) for prompt in bench.prompts]
    ends = [bench.adapter.end_token_ids[0], endless[0][3], endless[1][6]]
    monkeypatch.setattr(bench.adapter.model.generation_config, "eos_token_id", ends)
    expected = [up_to_end(tokens, ends) for tokens in endless]
    rolled = HfEngine(bench.adapter, MANY).generate(
        bench.prompts, 2, Sampling(NUM_NEW, 0.0), [(n,) for n in range(len(bench.prompts))]
    )
    assert [[c.token_ids for c in group.completions] for group in rolled] == [[tokens] * 2 for tokens in expected]
    assert len({len(tokens) for tokens in expected}) > 1


def up_to_end(tokens: list[int], ends: list[int]) -> tuple[int, ...]:
    last = next((n for n, token in enumerate(tokens) if token in ends), len(tokens) - 1)
    return tuple(tokens[: last + 1])

"""A step of a rollout, layer by layer, against the model's own forward."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import transformers
from packaging import version
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.cache_utils import Cache, DynamicCache

from gpg_vl.config import LoraConfig
from gpg_vl.models.decoding import decode_step
from gpg_vl.models.decoding.decode_step import run_step
from gpg_vl.models.families.qwen_vl import QwenVLAdapter
from tests.support.builders import FAMILIES, make_lively
from tests.support.decode_steps import EQUAL, NUM_STEPS, PADDED, Step, largest_difference, model_step, run_steps

LoadModel = Callable[..., QwenVLAdapter]
PACKS = version.parse(transformers.__version__) >= version.parse("5.23")
"""Whether transformers, too, takes heads that share keys for the queries of one head; before, it repeats keys."""
LIMIT = 1e-6 if PACKS and version.parse(torch.__version__) >= version.parse("2.12") else 1e-5
"""Of the relative error; torch 2.11 adds up in other blocks for such queries, as any torch does for repeated keys."""


def difference(adapter: QwenVLAdapter, pictures: Sequence[Any], num: int = NUM_STEPS) -> float:
    expected = run_steps(adapter, pictures, model_step, num)
    return largest_difference(run_steps(adapter, pictures, run_step, num), expected)


@pytest.mark.parametrize("pictures", [EQUAL, PADDED], ids=["equal", "padded"])
@pytest.mark.parametrize("family", [*FAMILIES, "qwen3_vl"])
def test_a_step_is_that_of_the_models_forward(load: LoadModel, family: str, pictures: Sequence[Any]) -> None:
    adapter = load(family)
    make_lively(adapter)
    assert difference(adapter, pictures) <= LIMIT


@pytest.mark.parametrize("config", [{"dtype": "bfloat16"}, {"lora": LoraConfig(r=4)}, {"attention": "eager"}], ids=str)
def test_the_same_with(load: LoadModel, config: dict[str, Any]) -> None:
    """Autocast, adapters on the layers, an attention that only the model's own forward has."""
    adapter = load(**config)
    make_lively(adapter)
    assert difference(adapter, PADDED, num=12) <= LIMIT


def key_before_its_rotation(patch: pytest.MonkeyPatch) -> None:
    original = decode_step._rotation

    def rotation(text: Any, *words: Any) -> tuple[Tensor, Tensor]:
        cos, sin = original(text, *words)
        behind_queries = torch.arange(text.config.num_attention_heads, cos.shape[1])  # values are not turned anyway
        return cos.index_fill(1, behind_queries, 1), sin.index_fill(1, behind_queries, 0)

    patch.setattr(decode_step, "_rotation", rotation)


def values_turned_like_keys(patch: pytest.MonkeyPatch) -> None:
    original = decode_step._rotation

    def rotation(*words: Any) -> tuple[Tensor, Tensor]:
        cos, sin = original(*words)
        return cos[:, :1].expand_as(cos), sin[:, :1].expand_as(sin)

    patch.setattr(decode_step, "_rotation", rotation)


def unsigned_sine(patch: pytest.MonkeyPatch) -> None:
    original = decode_step._rotation

    def rotation(*words: Any) -> tuple[Tensor, Tensor]:
        cos, sin = original(*words)
        return cos, sin.abs()

    patch.setattr(decode_step, "_rotation", rotation)


def no_mask(patch: pytest.MonkeyPatch) -> None:
    original = decode_step._attend
    patch.setattr(decode_step, "_attend", lambda *words: original(*words[:4], None, words[5]))


def heads_of_others(patch: pytest.MonkeyPatch) -> None:
    """Each query reads the keys of another head than its own."""
    original = torch.nn.functional.scaled_dot_product_attention

    def attend(query: Tensor, keys: Tensor, values: Tensor, **options: Any) -> Tensor:
        return original(query, keys.flip(1), values, **options)

    patch.setattr(decode_step.F, "scaled_dot_product_attention", attend)


MUTATIONS = [key_before_its_rotation, values_turned_like_keys, unsigned_sine, no_mask, heads_of_others]


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_mutations_are_caught(
    load: LoadModel, monkeypatch: pytest.MonkeyPatch, mutation: Callable[[pytest.MonkeyPatch], None]
) -> None:
    adapter = load()
    make_lively(adapter)
    expected = run_steps(adapter, PADDED, model_step, num=4)
    mutation(monkeypatch)
    found = run_steps(adapter, PADDED, run_step, num=4)
    assert largest_difference(found, expected) > 1e-3


def test_norms_that_are_left_out_are_caught(load: LoadModel, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = load("qwen3_vl")
    make_lively(adapter)
    expected = run_steps(adapter, PADDED, model_step, num=4)
    original = decode_step._project

    def without(attention: Any, seen: Tensor) -> Tensor:
        norm, attention.q_norm = attention.q_norm, torch.nn.Identity()
        states = original(attention, seen)
        attention.q_norm = norm
        return states

    monkeypatch.setattr(decode_step, "_project", without)
    found = run_steps(adapter, PADDED, run_step, num=4)
    assert largest_difference(found, expected) > 1e-3


def test_keys_are_kept_in_the_compute_type_and_change_nothing(load: LoadModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers' cache keeps rotated keys in float32, and attention casts all of them in each step."""
    adapter = load(dtype="bfloat16")
    make_lively(adapter)
    caches: list[Cache] = [adapter.new_cache(), DynamicCache()]
    left = iter(caches)
    monkeypatch.setattr(type(adapter), "new_cache", lambda self: next(left))
    found, expected = (run_steps(adapter, EQUAL, model_step, num=4) for _ in caches)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    mine, theirs = ([layer.keys.dtype for layer in cache.layers] for cache in caches)
    assert set(mine) == {torch.bfloat16}
    assert set(theirs) == {torch.float32}


class CountOperations(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[str(func)] += 1
        return func(*args, **(kwargs or {}))


def count_operations(adapter: QwenVLAdapter, pictures: Sequence[Any], step: Step) -> int:
    """Of one step."""
    totals = []
    for num in (2, 3):
        with CountOperations() as mode:
            run_steps(adapter, pictures, step, num)
        totals.append(mode.counts.total())
    return totals[1] - totals[0]


@pytest.mark.parametrize("pictures", [EQUAL, PADDED], ids=["equal", "padded"])
@pytest.mark.parametrize(("family", "share"), [("qwen2_vl", 0.6), ("qwen3_vl", 0.63)])
def test_a_step_takes_fewer_operations(load: LoadModel, family: str, share: float, pictures: Sequence[Any]) -> None:
    """Views included: each is a call, and most of a step's time is that of its calls. Qwen3's norms of heads stay."""
    adapter = load(family)
    share += 0 if PACKS else 0.001  # of fewer: the model's own step does without the views that packing takes
    assert count_operations(adapter, pictures, run_step) <= share * count_operations(adapter, pictures, model_step)

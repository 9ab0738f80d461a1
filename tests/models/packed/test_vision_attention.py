"""The tower's attention in one call, by a kernel of the same interface, against the tower of transformers itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gpg_vl.config import ModelConfig
from gpg_vl.models import load_adapter
from gpg_vl.models.families.qwen_vl import QwenVLAdapter
from gpg_vl.models.packed import vision_attention
from gpg_vl.models.packed.vision_attention import VARLEN_ATTENTION, own_tower_attention
from gpg_vl.models.tiny import write_tiny_model
from tests.support.builders import SMALL_IMAGES, make_prompt, make_sample
from tests.support.groups import make_groups, packed_gradients, worst_relative_error

TOWERS = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "glm4v")
Kernel = Callable[..., Tensor]


class Reference:
    """What ``varlen_attn`` of torch 2.11 takes, by dense scores; keeps what it was called with."""

    def __init__(self) -> None:
        self.borders: list[Tensor] = []

    def __call__(
        self, query: Tensor, key: Tensor, value: Tensor, cu_seq_q: Tensor, cu_seq_k: Tensor, max_q: int, max_k: int,
        *, return_aux: Any = None, scale: float | None = None, window_size: tuple[int, int] = (-1, -1),
    ) -> Tensor:  # fmt: skip
        assert scale is not None
        lengths = cu_seq_q.diff()
        assert torch.equal(cu_seq_q, cu_seq_k) and int(lengths.max()) == max_q == max_k
        assert cu_seq_q.dtype == torch.int32 and query.is_contiguous() and value.is_contiguous()
        self.borders.append(cu_seq_q)
        part = torch.arange(len(lengths)).repeat_interleave(lengths)
        scores = torch.einsum("qhd,khd->hqk", query, key) * scale
        weights = scores.masked_fill(part[:, None] != part, -torch.inf).softmax(-1)
        return torch.einsum("hqk,khd->qhd", weights, value)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("towers")
    return {family: write_tiny_model(root / family, family=family, seed=1) for family in (*TOWERS, "qwen3_5")}


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """For the choice alone."""
    monkeypatch.setattr(vision_attention, "choose_device", lambda config: torch.device("cuda"))


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Reference:
    reference = Reference()
    monkeypatch.setattr(vision_attention, "varlen_attn", reference)
    monkeypatch.setattr(vision_attention, "_has_kernel", lambda query: True)
    return reference


def load_tower(folder: Path, **config: Any) -> QwenVLAdapter:
    adapter = load_adapter(ModelConfig(path=str(folder), **{**SMALL_IMAGES, **config}))  # type: ignore[arg-type]
    assert isinstance(adapter, QwenVLAdapter)
    return adapter


def load_in_one_call(folder: Path) -> QwenVLAdapter:
    adapter = load_tower(folder)
    adapter.model.config.vision_config._attn_implementation = VARLEN_ATTENTION
    return adapter


def encode(adapter: QwenVLAdapter) -> Tensor:
    """Features of three images, of which one is wider than a window."""
    vision = make_prompt(adapter, make_sample([(84, 84), (140, 56), (168, 112)])).encoded.vision
    assert vision is not None
    with torch.no_grad():
        return torch.cat(adapter.encode_images(vision).levels, dim=-1)


@pytest.mark.parametrize("family", TOWERS)
def test_gradients_are_those_of_the_models_own_tower(folders: dict[str, Path], family: str, kernel: Reference) -> None:
    """Of rows with no image, one and three."""
    adapter = load_in_one_call(folders[family])
    groups = make_groups(adapter)
    found = packed_gradients(adapter, groups)
    assert kernel.borders
    calls = len(kernel.borders)
    with own_tower_attention(adapter.model):
        expected = packed_gradients(adapter, groups)
    assert len(kernel.borders) == calls
    assert worst_relative_error(found, expected) < 1e-5


@pytest.mark.parametrize("family", [*TOWERS, "qwen3_5"])
def test_a_layer_makes_one_call(
    folders: dict[str, Path], family: str, kernel: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = load_in_one_call(folders[family])
    found = encode(adapter)
    assert len(kernel.borders) == len(adapter.model.model.visual.blocks)
    original, num_own = F.scaled_dot_product_attention, 0

    def counted(*words: Any, **options: Any) -> Tensor:
        nonlocal num_own
        num_own += 1
        return original(*words, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", counted)
    with own_tower_attention(adapter.model):
        expected = encode(adapter)
    assert num_own == sum(len(borders) - 1 for borders in kernel.borders)  # one for each window or image
    assert float((found - expected).norm() / expected.norm()) < 1e-5


@pytest.mark.parametrize("layer", [0, 1], ids=["windows", "images"])
def test_borders_shifted_by_a_window_are_caught(
    folders: dict[str, Path], kernel: Reference, monkeypatch: pytest.MonkeyPatch, layer: int
) -> None:
    adapter = load_in_one_call(folders["qwen2_5_vl"])
    expected = encode(adapter)

    def shifted(query: Tensor, key: Tensor, value: Tensor, borders: Tensor, *_: Any, scale: float) -> Tensor:
        if len(kernel.borders) % 2 == layer:
            borders = torch.cat([borders[:1], borders[2:], borders[-1:]])
        longest = int(borders.diff().max())
        return kernel(query, key, value, borders, borders, longest, longest, scale=scale)

    monkeypatch.setattr(vision_attention, "varlen_attn", shifted)
    assert float((encode(adapter) - expected).norm() / expected.norm()) > 1e-3


@pytest.mark.parametrize("family", TOWERS)
def test_without_the_kernel_it_is_the_models_own_tower(folders: dict[str, Path], family: str) -> None:
    """On a CPU, and in the float32 of a self-check."""
    adapter = load_in_one_call(folders[family])
    found = encode(adapter)
    with own_tower_attention(adapter.model):
        assert torch.equal(found, encode(adapter))
    assert adapter.model.config.vision_config._attn_implementation == VARLEN_ATTENTION


def test_the_kernel_computes_in_half_precision_on_cuda() -> None:
    def has_kernel(device: str, dtype: torch.dtype) -> bool:
        return vision_attention._has_kernel(SimpleNamespace(device=torch.device(device), dtype=dtype))  # type: ignore[arg-type]

    assert has_kernel("cuda", torch.bfloat16) and has_kernel("cuda", torch.float16)
    assert not has_kernel("cuda", torch.float32) and not has_kernel("cpu", torch.bfloat16)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"dtype": "bfloat16"}, VARLEN_ATTENTION),
        ({"dtype": "bfloat16", "attention": "grouped_sdpa"}, VARLEN_ATTENTION),
        ({"dtype": "bfloat16", "attention": {"vision": "sdpa"}}, "sdpa"),
        ({"dtype": "bfloat16", "attention": "eager"}, "eager"),
        ({}, "sdpa"),
    ],
    ids=str,
)
def test_what_is_chosen_on_a_gpu(
    folders: dict[str, Path], tmp_path: Path, on_gpu: None, config: dict[str, Any], expected: str
) -> None:
    model = load_tower(folders["qwen2_5_vl"], **config).model
    parts = {module.config._attn_implementation for module in model.modules() if hasattr(module, "config")}
    assert model.config.vision_config._attn_implementation == expected
    assert parts <= {expected, "sdpa", "eager"}  # the text has its own
    model.save_pretrained(tmp_path)
    assert "flash" not in json.dumps(json.loads((tmp_path / "config.json").read_text()))


def test_what_is_chosen_on_a_cpu(folders: dict[str, Path]) -> None:
    model = load_tower(folders["qwen2_vl"], dtype="bfloat16").model
    assert model.config.vision_config._attn_implementation == "sdpa"

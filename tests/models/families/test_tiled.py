"""How many tiles an image is cut into: as the recipe says, whatever the processor's own limit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from gpg_vl.config import ModelConfig, PromptConfig
from gpg_vl.models import load_adapter
from gpg_vl.models.base import BaseAdapter
from gpg_vl.models.families.qwen_vl import QwenVLAdapter
from gpg_vl.models.tiny import write_tiny_model
from gpg_vl.models.tiny.tiled import TILE
from gpg_vl.prompts.builder import PromptBuilder
from tests.support.builders import make_sample
from tests.support.messages import naming

TOKENS = 9  # of a tile


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("internvl"), "internvl")


def load_with(folder: Path, **config: object) -> BaseAdapter:
    return load_adapter(ModelConfig(path=str(folder), **config), with_weights=False)  # type: ignore[arg-type, return-value]


def test_an_image_has_as_many_tiles_as_the_recipe_says(folder: Path) -> None:
    sizes = {1: (1, 1), 2: (2, 1), 6: (3, 2), 12: (3, 2)}
    for most, (columns, rows) in sizes.items():
        view = load_with(folder, max_tiles=most).view(300, 200)
        assert (view.model_width, view.model_height) == (columns * TILE, rows * TILE)


def test_without_a_number_the_pixels_decide(folder: Path) -> None:
    for tiles in (1, 2, 6):
        view = load_with(folder, max_pixels=tiles * TILE**2).view(300, 200)
        assert view.model_width * view.model_height == tiles * TILE**2


def test_images_are_cut_into_fewer_tiles_to_fit(folder: Path) -> None:
    adapter = load_with(folder, max_tiles=6)
    sample = make_sample([(300, 200)])
    [tokens] = adapter.count_image_tokens([adapter.view(300, 200)])
    assert tokens == 7 * TOKENS + 2  # six tiles, the whole image and its borders
    build = PromptBuilder(adapter, {}, PromptConfig(template="{question}"), shrink_to=50)
    assert len(build.build(sample).encoded.token_ids) <= 50


def test_a_family_without_tiles_has_no_number_of_them(load: Callable[..., QwenVLAdapter]) -> None:
    with pytest.raises(ValueError, match=naming("model.max_tiles", "qwen2_vl", "model.max_pixels")):
        load(max_tiles=2)


def test_no_tile_is_refused() -> None:
    with pytest.raises(ValueError, match=naming("model.max_tiles", 1)):
        ModelConfig(max_tiles=0)

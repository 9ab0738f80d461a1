"""Families whose image processors cut an image by themselves: what the kit foresees is what they do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gpg_vl.config import ModelConfig
from gpg_vl.data.images import open_image
from gpg_vl.models import load_adapter
from gpg_vl.models.tiny import write_tiny_model
from tests.support.builders import make_prompt, make_sample
from tests.support.families import CASES, skip_unless_installed
from tests.support.messages import naming

FAMILIES = ("lfm2_vl", "minicpmv4_6")
SIZES = ((10, 10), (120, 50), (50, 200), (301, 200))

Load = Callable[..., Any]


@pytest.fixture(scope="module", params=FAMILIES)
def load(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Load:
    """A reader: nothing here runs the model."""
    skip_unless_installed(CASES[request.param])
    folder = write_tiny_model(tmp_path_factory.mktemp("models") / request.param, request.param)

    def load_reader(path: Path = folder, **config: Any) -> Any:
        options = {"path": str(path), "frame": "grid_1000", **config}
        return load_adapter(ModelConfig(**options), with_weights=False)

    return load_reader


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_an_image_fits_the_tokens_that_it_may_take(load: Load, size: tuple[int, int]) -> None:
    adapter = load(max_tiles=6)
    prompt = make_prompt(adapter, make_sample([size]))
    image = open_image(prompt.sample.images[0])
    [full] = adapter.count_image_tokens([adapter.view(*size)])
    for most in (max(12, full), max(12, full // 2), 12):
        view = adapter.view(*size, most)
        [count] = adapter.count_image_tokens([view])
        assert count <= most
        vision = adapter._encode_vision([image], [view])
        assert vision.num_tokens == adapter.image_texts([view])[0].count(adapter.image_token)
        assert vision.num_patches <= full * 16


def test_an_image_that_is_too_narrow_is_refused(load: Load) -> None:
    adapter = load(max_tiles=6)
    if adapter.model.config.model_type == "lfm2_vl":  # the other takes any
        with pytest.raises(ValueError, match=naming("9000 x 9")):
            adapter.view(9000, 9)
    else:
        assert adapter.count_image_tokens([adapter.view(9000, 9)])[0] > 0


def test_the_recipes_limits_count(load: Load) -> None:
    """No more tiles than ``max_tiles``; without it, no more than ``max_pixels`` hold."""
    size, tile = (640, 480), load().processor.image_processor
    side = tile.tile_size if hasattr(tile, "tile_size") else tile.scale_resolution
    counts = [load(**limits).count_image_tokens([load(**limits).view(*size)])[0] for limits in (
        {"max_tiles": 1}, {"max_tiles": 2}, {"max_tiles": 6},
    )]  # fmt: skip
    assert counts == sorted(set(counts))
    pixels = load(max_pixels=6 * side**2, min_pixels=1)
    assert pixels.count_image_tokens([pixels.view(*size)])[0] == counts[-1]

"""MiniCPM-V 4.6: Qwen3.5's text model; an image whole, and in slices of one size if it is large."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
import transformers
from packaging.version import Version
from PIL.Image import Image
from transformers import PreTrainedConfig

from gpg_vl.models.families.qwen3_5 import Qwen35Adapter
from gpg_vl.models.families.recurrent import RecurrentAdapter
from gpg_vl.models.families.sliced import Limits, SlicedAdapter, Tiling
from gpg_vl.records import VisionInputs

CUT_SINCE = "5.23"
"""Version of transformers whose image processor the kit's sizes are those of."""


class MiniCPMVAdapter(RecurrentAdapter, SlicedAdapter):
    image_token = "<|image_pad|>"
    notation = "box_tags"
    vision_tokens = (
        "<image>",
        "</image>",
        "<slice>",
        "</slice>",
        "<image_id>",
        "</image_id>",
        "<|vision_start|>",
        "<|vision_end|>",
    )
    part_prefixes = (("model.vision_tower.", "vision"), ("model.merger.", "projector"))
    lora_layers: ClassVar[Mapping[str, str]] = {
        "text": Qwen35Adapter.lora_layers["text"],
        "vision": r"model\.vision_tower\.encoder\.layers\.\d+\.(self_attn\.(q|k|v|out)_proj|mlp\.fc[12])",
    }

    @classmethod
    def refuse_inexact(cls, config: PreTrainedConfig) -> None:
        super().refuse_inexact(config)
        if Version(transformers.__version__) < Version(CUT_SINCE):
            raise ValueError(
                f"model.path: MiniCPM-V 4.6 needs transformers {CUT_SINCE}, and {transformers.__version__} is "
                "installed, which cuts images in another way; install a newer one"
            )

    # --- reading ---

    def _limits(self) -> Iterator[Limits]:
        own = self.processor.image_processor
        side = own.scale_resolution
        most = self._most_tiles(side, own.max_slice_nums) if own.slice_mode else 1
        for slices in range(most, 0, -1):
            yield {"max_slice_nums": slices, "scale_resolution": side}
        for smaller in range(side - own.patch_size, 0, -own.patch_size):
            yield {"max_slice_nums": 1, "scale_resolution": smaller}

    def _tiling(self, width: int, height: int, limits: Limits) -> Tiling:
        own, side, size = self.processor.image_processor, limits["scale_resolution"], (height, width)
        grid = own.get_sliced_grid(size, limits["max_slice_nums"], side)
        scale = {"scale_resolution": side, "patch_size": own.patch_size, "downsample_mode": own.downsample_mode}
        whole_height, whole_width = own.find_best_resize(size, allow_upscale=grid is None, **scale)
        if grid is None:
            return Tiling((whole_width, whole_height))
        rows, columns = grid
        full_height, full_width = own.get_refine_size(size, grid, allow_upscale=True, **scale)
        return Tiling((whole_width, whole_height), columns, rows, (full_width // columns, full_height // rows))

    def _image_text(self, tiling: Tiling, index: int) -> str:
        own = self.processor.image_processor
        sizes = [tiling.whole, *([tiling.tile] * tiling.columns * tiling.rows if tiling.is_cut else [])]
        found = {
            "grids": [[tiling.rows, tiling.columns] if tiling.is_cut else [0, 0]],
            "num_patches_per_image": [len(sizes)],
            "target_sizes": torch.tensor([[height, width] for width, height in sizes]) // own.patch_size,
        }
        text: str = self.processor.replace_image_token(found, 0, image_token_divisor=self.processor.image_token_divisor)
        return f"<image_id>{index}</image_id>{text}" if own.use_image_id else text

    def _answers(self, tiling: Tiling) -> dict[str, Any]:
        grid = [tiling.rows, tiling.columns] if tiling.is_cut else None
        return {
            "get_sliced_grid": grid,
            "find_best_resize": tiling.whole[::-1],
            "get_refine_size": tiling.size[::-1],
        }

    def _process(self, processor: Any, image: Image, limits: Limits, num_tokens: int) -> VisionInputs:
        """``pixel_values`` [1, 3, side, K * side] of K patches, ``target_sizes`` [images and slices, 2]."""
        found = processor(images=[image], return_tensors="pt", **limits)
        tensors = {name: found[name] for name in ("pixel_values", "target_sizes")}
        return VisionInputs(tensors, tensors["pixel_values"].shape[-1] // processor.patch_size, num_tokens)

    # --- running ---

    def join_vision(self, parts: Sequence[VisionInputs]) -> VisionInputs:
        """The patches of all images stand in one row."""
        pixels = torch.cat([part.tensors["pixel_values"] for part in parts], dim=-1)
        sizes = torch.cat([part.tensors["target_sizes"] for part in parts])
        patches, tokens = sum(part.num_patches for part in parts), sum(part.num_tokens for part in parts)
        return VisionInputs({"pixel_values": pixels, "target_sizes": sizes}, patches, tokens)

"""Boxes -> masks by a transformers SAM model, and their overlap with polygons: LISA's gIoU and cIoU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy
from PIL import Image, ImageDraw

from gpg_vl.data.images import open_image
from gpg_vl.errors import first_line
from gpg_vl.records import Box

Polygon = Sequence[Sequence[float]]
Mask = numpy.ndarray  # [height, width] bool


class BoxSegmenter:
    """SAM with a box as prompt and one mask as output."""

    def __init__(self, path: str):
        """
        Raises:
            ValueError: ``path`` has no SAM model
        """
        import torch
        from transformers import SamModel, SamProcessor

        try:
            self._processor: Any = SamProcessor.from_pretrained(path, trust_remote_code=False)
            model: Any = SamModel.from_pretrained(path, use_safetensors=True)
        except (OSError, ValueError) as error:
            raise ValueError(f"--sam: {path} holds no SAM model ({first_line(error)})") from error
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self._model = model.to(device).eval().requires_grad_(requires_grad=False)

    def segment(self, source: str | bytes, box: Box) -> Mask:
        """The mask for a box, in the size of the image; the box is in pixels of the image."""
        inputs = self._processor(open_image(source), input_boxes=[[list(box)]], return_tensors="pt")
        output = self._model(**inputs.to(self._model.device), multimask_output=False)
        masks = self._processor.image_processor.post_process_masks(
            output.pred_masks.cpu(), inputs["original_sizes"].cpu(), inputs["reshaped_input_sizes"].cpu()
        )
        mask: Mask = masks[0][0, 0].numpy()
        return mask


def draw_polygons(polygons: Sequence[Polygon], width: int, height: int) -> Mask:
    """The union of the polygons' areas."""
    image = Image.new("1", (width, height))
    for polygon in polygons:
        ImageDraw.Draw(image).polygon([(float(x), float(y)) for x, y in polygon], fill=1, outline=1)
    return numpy.asarray(image, dtype=bool)


def count_overlap(mask: Mask | None, gold: Mask) -> tuple[int, int]:
    """Pixels of the intersection and of the union; a missing mask counts as empty."""
    found = numpy.zeros_like(gold) if mask is None else mask
    return int((found & gold).sum()), int((found | gold).sum())

"""Videos of the Qwen families: pairs of frames are patches of three dimensions, and the grid has a third axis, time.

Qwen2-VL counts a pair of frames as one step in time, Qwen2.5-VL counts the seconds between two pairs, and the later
ones write the time before each pair and place it like an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import ceil
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor
from transformers.models.qwen3_vl.video_processing_qwen3_vl import smart_resize as resize_video

from gpg_vl.models.families.qwen_vl import QwenVLAdapter
from gpg_vl.models.inputs.media import describe_times, frames_tensor, interleave, split_views
from gpg_vl.models.inputs.parts import Medium
from gpg_vl.models.inputs.vision_records import join_vision, split_features
from gpg_vl.records import FrameTimes, ImageFeatures, ImageView, VideoView, VisionInputs

_OF_IMAGES = ("pixel_values", "image_grid_thw")
_OF_VIDEOS = ("pixel_values_videos", "video_grid_thw")


class QwenVideoAdapter(QwenVLAdapter):
    """Qwen2-VL, and what the later families share with it."""

    video_placeholder = "<|video_pad|>"

    def __init__(self, *args: Any) -> None:
        """Puts the run's limits, which the kit applies itself, into the processor, for whoever opens it saved."""
        super().__init__(*args)
        processor = self.processor.video_processor
        processor.size, processor.max_video_tokens = self._video_limits()
        processor.cap_pixels_per_frame = True

    # --- reading ---

    @property
    def plain_video(self) -> str:
        return f"<|vision_start|>{self.video_placeholder}<|vision_end|>"

    def _token_types(self, token_ids: Sequence[int]) -> tuple[int, ...]:
        types = {self.model.config.image_token_id: 1, self.model.config.video_token_id: 2}
        return tuple(types.get(token, 0) for token in token_ids)

    def view_video(self, width: int, height: int, times: FrameTimes, max_tokens: int | None = None) -> VideoView:
        """See ``Adapter.view_video``. ``max_tokens`` shrinks a frame as little below its limits as that of an image."""
        steps, factor = self._num_steps(times), self._resize_factor
        most = min(self._most_pixels, self.config.max_video_pixels // len(times.numbers))
        if max_tokens is not None:
            most = min(most, max_tokens // steps * factor**2)
        sides = self._frame_size(width, height, len(times.numbers), max(self.config.min_pixels, most))
        model_height, model_width = (max(factor, side) for side in sides)
        return VideoView(width, height, model_width, model_height, self.frame, times, notation=self.notation)

    @property
    def _most_pixels(self) -> int:
        """Of a frame."""
        return self.config.max_pixels

    def _video_limits(self) -> tuple[dict[str, int], int]:
        """In the processor's words: pixels of a frame, and nine tenths of the tokens of a video."""
        tokens = self.config.max_video_pixels / (self._frames_per_step * self._resize_factor**2)
        return self._saved_limits(), ceil(tokens / 0.9)

    def _frame_size(self, width: int, height: int, num_frames: int, max_pixels: int) -> tuple[int, int]:
        """Height and width of a frame as the model sees it, as the family's processor computes them."""
        return self._image_size(width, height, max_pixels)

    @property
    def _frames_per_step(self) -> int:
        return int(self.model.config.vision_config.temporal_patch_size)

    def _num_steps(self, times: FrameTimes) -> int:
        """Of the grid, in time. The last frame is repeated where it has none beside it."""
        return -(-len(times.numbers) // self._frames_per_step)

    def count_image_tokens(self, views: Sequence[ImageView]) -> list[int]:
        counts = zip(views, super().count_image_tokens(views), strict=True)
        return [num * (self._num_steps(view.times) if isinstance(view, VideoView) else 1) for view, num in counts]

    def video_texts(self, views: Sequence[VideoView]) -> list[str]:
        side = int(self.model.config.vision_config.patch_size)
        grids = [(self._num_steps(view.times), view.model_height // side, view.model_width // side) for view in views]
        inputs = {
            "video_grid_thw": torch.tensor(grids),
            "video_metadata": [describe_times(view.times) for view in views],
        }
        return [self.processor.replace_video_token(inputs, index) for index in range(len(views))]

    def _encode_media(
        self,
        order: Sequence[Medium],
        images: Sequence[Image],
        videos: Sequence[Sequence[Image]],
        views: Sequence[ImageView],
    ) -> VisionInputs:
        of_images, of_videos = split_views(views)
        parts = [self._encode_vision(images, of_images)] if images else []
        joined = join_vision([*parts, self._encode_videos(videos, of_videos)])
        counts = {
            Medium.IMAGE: iter(self.count_image_tokens(of_images)),
            Medium.VIDEO: iter(self.count_image_tokens(of_videos)),
        }
        return replace(joined, order=tuple((medium is Medium.VIDEO, next(counts[medium])) for medium in order))

    def _encode_videos(self, videos: Sequence[Sequence[Image]], views: Sequence[VideoView]) -> VisionInputs:
        """``pixel_values_videos`` [K, D] for K patches, ``video_grid_thw`` [number of videos, 3]."""
        sized = [
            frames_tensor([frame.resize((view.model_width, view.model_height)) for frame in frames])
            for frames, view in zip(videos, views, strict=True)
        ]
        made = self.processor.video_processor(
            videos=sized, do_resize=False, do_sample_frames=False, return_tensors="pt"
        )
        tensors = {name: made[name] for name in _OF_VIDEOS}
        return VisionInputs(tensors, len(tensors["pixel_values_videos"]), sum(self.count_image_tokens(views)))

    # --- running ---

    def _inputs(
        self, input_ids: Tensor, token_types: Tensor, vision: VisionInputs | None, features: ImageFeatures | None
    ) -> tuple[Any, dict[str, Any]]:
        """The text model with features: the model's own forward would run the tower for images and again for videos."""
        if features is None and vision is not None:
            features = self.encode_images(vision)
        return super()._inputs(input_ids, token_types, None, features)

    def encode_images(self, vision: VisionInputs) -> ImageFeatures:
        """The features of images and videos, in the order of their tokens.

        The tower runs once for both: where its weights are sharded, each run of it is a collective of all ranks.
        """
        if "pixel_values_videos" not in vision.tensors:
            return super().encode_images(vision)
        pixels, grids = (
            torch.cat([vision.tensors[name] for name in names if name in vision.tensors])
            for names in zip(_OF_IMAGES, _OF_VIDEOS, strict=True)
        )
        found = self._features(self.model.model.get_image_features(pixel_values=pixels, image_grid_thw=grids))
        counts = [sum(num for is_video, num in vision.order if is_video == kind) for kind in (False, True)]
        images, videos = split_features(found, counts)
        return interleave(images, videos, vision.order)


class Qwen25VLAdapter(QwenVideoAdapter):
    """Qwen2.5-VL: positions know how many seconds there are between two pairs of frames."""

    notation = "bbox_2d"

    def _encode_videos(self, videos: Sequence[Sequence[Image]], views: Sequence[VideoView]) -> VisionInputs:
        """``second_per_grid_ts`` [number of videos], too."""
        made = super()._encode_videos(videos, views)
        seconds = [self._frames_per_step / describe_times(view.times).sampled_fps for view in views]
        return replace(made, tensors={**made.tensors, "second_per_grid_ts": torch.tensor(seconds)})


class TimedVideoAdapter(QwenVideoAdapter):
    """Qwen3-VL and later: ``<1.5 seconds>`` before each pair of frames; the limits are those of a whole video."""

    notation = "bbox_2d"

    def _frame_size(self, width: int, height: int, num_frames: int, max_pixels: int) -> tuple[int, int]:
        found: tuple[int, int] = resize_video(
            max(num_frames, self._frames_per_step), height, width, self._frames_per_step, self._resize_factor,
            self.config.min_pixels, max_pixels * num_frames,
        )  # fmt: skip
        return found

    def _video_limits(self) -> tuple[dict[str, int], int]:
        """In the processor's words: pixels of a video, and tokens of a frame."""
        size = {"shortest_edge": self.config.min_pixels, "longest_edge": self.config.max_video_pixels}
        return size, self._most_pixels // self._resize_factor**2

    @property
    def _most_pixels(self) -> int:
        """Of a frame: whole tokens."""
        return self.config.max_pixels // self._resize_factor**2 * self._resize_factor**2

"""Small video files, and the plain side of prompts with videos: PyAV, the family's processor and its own forward."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import av
import numpy
import torch
from torch import Tensor
from transformers.video_utils import VideoMetadata

from gpg_vl.data.images import open_image
from gpg_vl.models.families.smolvlm import BY_PATCHES
from gpg_vl.models.tiny import write_tiny_model
from gpg_vl.records import Prompt, Sample, VideoView
from tests.support.builders import make_prompt, png
from tests.support.families import OF_28, OF_32, Bench, FamilyCase, load_case, shake

NONE: Mapping[str, str] = {}


@dataclass(frozen=True)
class Clip:
    """A video to encode."""

    width: int
    height: int
    num_frames: int
    fps: int = 2
    seed: int = 0


def mp4(
    clip: Clip = Clip(56, 56, 6), codec: str = "mpeg4", kind: str = "mp4", options: Mapping[str, str] = NONE
) -> bytes:
    """Blocks of colours that change from frame to frame, as the bytes of a file."""
    draws = numpy.random.default_rng(clip.seed)
    file = io.BytesIO()
    with av.open(file, "w", format=kind) as container:
        stream: Any = container.add_stream(codec, rate=clip.fps)
        stream.width, stream.height = clip.width, clip.height
        stream.pix_fmt, stream.options = "yuvj420p" if codec == "mjpeg" else "yuv420p", dict(options)
        stream.codec_context.thread_count = 1
        for _ in range(clip.num_frames):
            blocks = draws.integers(0, 255, (clip.height // 14 + 1, clip.width // 14 + 1, 3), dtype=numpy.uint8)
            pixels = blocks.repeat(14, 0).repeat(14, 1)[: clip.height, : clip.width]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(numpy.ascontiguousarray(pixels), format="rgb24")))
        container.mux(stream.encode())
    return file.getvalue()


def open_any(data: bytes) -> Any:
    return av.open(io.BytesIO(data))


def find_packets(data: bytes) -> list[tuple[int, int]]:
    """Where each frame's bytes begin in a file, and how many they are."""
    return [(packet.pos, packet.size) for packet in open_any(data).demux(video=0) if packet.size]


def cut_at_second_key(data: bytes, kind: str) -> bytes:
    """The video from its second whole picture on, as tools cut it that do not encode it again."""
    file, source = io.BytesIO(), open_any(data)
    with av.open(file, "w", format=kind) as container:
        stream = container.add_stream_from_template(source.streams.video[0])
        packets = [packet for packet in source.demux(video=0) if packet.dts is not None]
        second = [number for number, packet in enumerate(packets) if packet.is_keyframe][1]
        start = packets[second].dts
        for packet in packets[second:]:
            packet.dts, packet.pts, packet.stream = packet.dts - start, packet.pts - start, stream
            container.mux(packet)
    return file.getvalue()


def with_sound(data: bytes, seconds: float) -> bytes:
    """The same MP4 with a track of silence."""
    file, source = io.BytesIO(), open_any(data)
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream_from_template(source.streams.video[0])
        sound: Any = container.add_stream("aac", rate=8000)
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                container.mux(packet)
        for number in range(int(seconds * 8000) // 1024):
            frame = av.AudioFrame(format="fltp", layout="mono", samples=1024)
            frame.sample_rate, frame.pts = 8000, 1024 * number
            frame.planes[0].update(bytes(frame.planes[0].buffer_size))
            container.mux(sound.encode(frame))
        container.mux(sound.encode())
    return file.getvalue()


def decode(data: bytes) -> Tensor:
    """All frames, [F, 3, H, W]."""
    with open_any(data) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return torch.from_numpy(numpy.stack(frames)).permute(0, 3, 1, 2)


# --- the plain side ---


@dataclass(frozen=True)
class VideoCase:
    """What is particular to the videos of a family."""

    rows: tuple[tuple[Sequence[tuple[int, int]], Sequence[Clip]], ...]
    """Sizes of the images and the videos of four prompts."""
    config: Mapping[str, Any] = field(default_factory=dict)
    tolerance: float = 1e-5
    mutations: Mapping[str, Callable[[Any], None]] = field(default_factory=dict)
    except_in: tuple[str, ...] = ()
    needs: str | None = None


@dataclass(frozen=True)
class VideoBench(Bench):
    """As ``Bench``, of prompts with videos."""

    rows: tuple[tuple[Sequence[tuple[int, int]], Sequence[Clip]], ...] = ()

    @cached_property
    def prompts(self) -> list[Prompt]:  # type: ignore[override]
        return [make_prompt(self.adapter, make_video_sample(*row, seed=n)) for n, row in enumerate(self.rows)]

    def inputs(self, prompt: Prompt) -> dict[str, Tensor]:
        sample = prompt.sample
        content = [{"type": "image"}] * len(sample.images) + [{"type": "video"}] * len(sample.videos)
        text = self.processor.apply_chat_template(
            [{"role": "user", "content": [*content, {"type": "text", "text": sample.question}]}],
            tokenize=False, add_generation_prompt=True,
        )  # fmt: skip
        shown: dict[str, Any] = {"images": [open_image(source) for source in sample.images]} if sample.images else {}
        times = [view.times for view in prompt.views if isinstance(view, VideoView)]
        if times:
            frames = zip(sample.videos, times, strict=True)
            shown["videos"] = [[decode(data)[list(each.numbers)] for data, each in frames]]  # type: ignore[arg-type]
            shown["video_metadata"] = [
                VideoMetadata(
                    total_num_frames=each.num_frames,
                    fps=each.fps,
                    duration=each.num_frames / each.fps,
                    frames_indices=list(each.numbers),
                )
                for each in times
            ]
            shown["do_sample_frames"] = False
        made = dict(self.processor(text=[text], **shown, return_tensors="pt"))
        if times and "images" in shown and "pixel_attention_mask" in made:
            self._put_images_first(made, shown)
        return made

    def _put_images_first(self, made: dict[str, Tensor], shown: Mapping[str, Any]) -> None:
        """For a processor that gives images and videos one name, so that it leaves the images out."""
        seen = self.processor.image_processor(images=[shown["images"]], return_tensors="pt")
        for name in ("pixel_values", "pixel_attention_mask"):
            made[name] = torch.cat([seen[name], made[name]], dim=1)


def make_video_sample(sizes: Sequence[tuple[int, int]], clips: Sequence[Clip], seed: int = 0) -> Sample:
    images = tuple(png(width, height, 10 * seed + n) for n, (width, height) in enumerate(sizes))
    videos = tuple(mp4(clip) for clip in clips)
    return Sample(f"video-{seed}", "counting", images, "How many shapes?", "4", videos=videos)


def make_video_bench(family: str, case: VideoCase, root: Path) -> VideoBench:
    adapter = load_case(FamilyCase((), case.config), write_tiny_model(root / "tiny", family, 1))
    shake(adapter, seed=2)  # with 1, a Qwen3.5 magnifies rounding: by 5e-5 or 8e-6, as the CPU's kernels have it
    adapter.save(root / "saved")
    family_case = FamilyCase((), case.config, case.tolerance, mutations=case.mutations)
    return VideoBench(family_case, adapter, root / "saved", case.rows)


# --- what can go wrong ---


def no_time_in_positions(patch: Any) -> None:
    """All frames of a video are at the same time."""
    from gpg_vl.models.families.qwen_video import QwenVideoAdapter
    from gpg_vl.models.families.qwen_vl import QwenVLAdapter

    def at_once(adapter: Any, token_ids: Any, token_types: Any, vision: Any) -> Tensor:
        positions = QwenVLAdapter._positions(adapter, token_ids, token_types, vision).clone()
        is_video = torch.tensor(token_types) == 2
        positions[0, is_video] = positions[1:, is_video].amin(0).amin() if is_video.any() else 0
        return positions

    patch.setattr(QwenVideoAdapter, "_positions", at_once, raising=False)


def no_seconds(patch: Any) -> None:
    """The seconds between two pairs of frames are dropped."""
    from gpg_vl.models.families.qwen_video import Qwen25VLAdapter, QwenVideoAdapter

    patch.setattr(Qwen25VLAdapter, "_encode_videos", QwenVideoAdapter._encode_videos)


def other_timestamps(patch: Any) -> None:
    """A video is said to be twice as fast."""
    from gpg_vl.models.families import qwen_video, smolvlm
    from gpg_vl.models.inputs.media import describe_times

    def faster(times: Any) -> VideoMetadata:
        described = describe_times(times)
        described.fps = 2 * times.fps
        return described

    for module in (qwen_video, smolvlm):
        patch.setattr(module, "describe_times", faster, raising=False)


def frames_reversed(patch: Any) -> None:
    """The last frame comes first."""
    from gpg_vl.models.families.internvl import InternVLAdapter
    from gpg_vl.models.families.smolvlm import SmolVLMAdapter

    for adapter in (InternVLAdapter, SmolVLMAdapter):
        encode = adapter._encode_video
        patch.setattr(adapter, "_encode_video", lambda self, frames, encode=encode: encode(self, frames[::-1]))


def videos_as_images(patch: Any) -> None:
    """Features of a prompt come in the order in which the tower made them: images first."""
    from gpg_vl.models.families import qwen_video
    from gpg_vl.records import ImageFeatures

    def images_first(images: ImageFeatures, videos: ImageFeatures, order: Any) -> ImageFeatures:
        return ImageFeatures(tuple(map(torch.cat, zip(images.levels, videos.levels, strict=True))))

    patch.setattr(qwen_video, "interleave", images_first)


def _rows(side: int) -> tuple[tuple[Sequence[tuple[int, int]], Sequence[Clip]], ...]:
    return (
        ([], [Clip(2 * side, 3 * side, 6, 2, 1)]),
        ([(2 * side, side)], []),
        ([(side, 2 * side)], [Clip(2 * side, 2 * side, 9, 3, 2), Clip(side, 2 * side, 5, 1, 3)]),
        ([], []),
    )


VIDEO_CASES = {
    "internvl": VideoCase(
        (
            ([], [Clip(120, 50, 6, 2, 1)]),
            ([(120, 50)], []),
            ([(70, 160)], [Clip(84, 84, 5, 1, 2)]),
            ([], []),
        ),
        {"max_tiles": 4},
        mutations={"frames reversed": frames_reversed},
    ),
    "smolvlm": VideoCase(
        (
            ([], [Clip(120, 50, 6, 2, 1)]),
            ([(120, 50)], []),
            ([(70, 160)], [Clip(84, 84, 5, 1, 2)]),
            ([], []),
        ),
        {"max_tiles": 4},
        mutations={"frames reversed": frames_reversed, "other timestamps": other_timestamps},
        except_in=BY_PATCHES,
        needs="num2words",
    ),
    "qwen2_vl": VideoCase(
        _rows(28), OF_28, mutations={"no time": no_time_in_positions, "images first": videos_as_images}
    ),
    "qwen2_5_vl": VideoCase(_rows(28), OF_28, mutations={"no time": no_time_in_positions, "no seconds": no_seconds}),
    "qwen3_vl": VideoCase(_rows(32), OF_32, mutations={"other timestamps": other_timestamps}),
    "qwen3_vl_moe": VideoCase(_rows(32), OF_32, mutations={"other timestamps": other_timestamps}),
    "qwen3_5": VideoCase(_rows(32), OF_32, 5e-5, mutations={"other timestamps": other_timestamps}),
    "qwen3_5_moe": VideoCase(_rows(32), OF_32, 5e-5, mutations={"other timestamps": other_timestamps}),
}

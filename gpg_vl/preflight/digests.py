"""What a resumed run must find again: a digest of each source's rows, one of their images, one of a model.

Rows and images are apart because an image may be lost while a run goes on: ``data.on_bad_image: skip`` allows for it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from gpg_vl.data.file_digests import digest_bytes, digest_file
from gpg_vl.data.sources import Source
from gpg_vl.records import FrameList, Sample

_FORMAT = "2"
_BLOCKS = 64  # of each weight file
_SETTINGS = (
    "config.json", "generation_config.json", "processor_config", "preprocessor_config", "video_preprocessor_config",
    "tokenizer", "special_tokens_map", "added_tokens", "vocab", "merges", "chat_template",
)  # fmt: skip
_OF_SETTINGS = {".json", ".jinja", ".txt", ".model"}


class SourceDigest:
    """Takes the rows of a source, one after the other.

    Args:
        with_images: whether the images must stay the same, not only their names
    """

    def __init__(self, source: Source, with_images: bool) -> None:
        self._source = source
        self._with_images = with_images
        self._rows, self._images, self._earlier = (hashlib.blake2b(digest_size=16) for _ in range(3))

    def add(self, sample: Sample) -> None:
        names = [_name(image, self._source.root) for image in sample.images]
        row_id = sample.id if self._source.has_ids else ""
        row = (row_id, _task_name(sample.task), sample.question, sample.answer, names, sample.meta)
        videos = [_video_name(video, self._source.root) for video in sample.videos]
        self._rows.update(repr((*row, videos) if videos else row).encode(errors="surrogatepass"))
        if self._with_images:
            for image in (*sample.images, *_video_files(sample)):
                self._images.update(_content(image).encode())
        earlier = (sample.id, sample.question, sample.answer, len(sample.images))
        self._earlier.update(repr(earlier).encode(errors="surrogatepass"))

    def text(self) -> str:
        """``2:ROWS:IMAGES:EARLIER``; IMAGES is empty if they may change; EARLIER is what version 0.1 compared."""
        images = self._images.hexdigest() if self._with_images else ""
        return ":".join((_FORMAT, self._rows.hexdigest(), images, self._earlier.hexdigest()))


def find_change(now: str, then: str) -> str | None:
    """What is not as it was, "rows" or "images"; None if nothing is.

    Args:
        then: of a checkpoint; one of version 0.1 is a single digest
    """
    _, rows, images, earlier = now.split(":")
    if ":" not in then:
        return None if earlier == then else "rows"
    _, rows_then, images_then, _ = then.split(":")
    if rows != rows_then:
        return "rows"
    return "images" if images and images_then and images != images_then else None


def digest_model(folder: Path) -> str:
    """A digest of the weight files and the config; not of their names, which do not matter."""
    files = sorted([*folder.glob("*.safetensors"), *folder.glob("config.json")])
    return hashlib.sha256("".join(digest_file(file, _BLOCKS) for file in files).encode()).hexdigest()


def digest_settings(folder: Path) -> str:
    """A digest of what makes prompts and shapes of a model: config, generation config, tokenizer and processor."""
    files = sorted(
        path
        for path in folder.iterdir()
        if path.name.startswith(_SETTINGS) and path.suffix in _OF_SETTINGS and path.is_file()
    )
    found = [(file.name, digest_file(file, _BLOCKS)) for file in files]
    return hashlib.sha256(repr(found).encode()).hexdigest()


def _name(image: str | bytes, root: Path | None) -> str:
    """The path below the folder of the images, which may be moved; a URL as it is; "" for bytes."""
    if isinstance(image, bytes):
        return ""
    return os.path.relpath(image, root) if root is not None and Path(image).is_relative_to(root) else image


def _video_name(video: str | bytes | FrameList, root: Path | None) -> object:
    if isinstance(video, FrameList):
        return [_name(image, root) for image in video.images], video.fps
    return _name(video, root)


def _video_files(sample: Sample) -> Iterator[str | bytes]:
    for video in sample.videos:
        yield from video.images if isinstance(video, FrameList) else (video,)


def _task_name(spec: str) -> str:
    """Of a task in a file of the user's own without its folder; the code itself is pinned apart."""
    return Path(spec).name if ".py:" in spec else spec


def _content(image: str | bytes) -> str:
    if isinstance(image, bytes):
        return digest_bytes(image)
    try:
        return digest_file(Path(image))
    except OSError:  # a URL; a missing file is named where rows are checked
        return ""

"""Sample + task + adapter -> Prompt: the only place where a row is turned into what the model reads.

Images are opened here, so that an error names the row. Nothing is ever truncated.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from PIL.Image import Image, new

from gpg_vl.config import PromptConfig
from gpg_vl.data.images import BadImage, open_image, original_size
from gpg_vl.data.videos import FrameSampling, Video, VideoShape, measure_video, open_video
from gpg_vl.errors import ModelMistake
from gpg_vl.models.adapter import Adapter
from gpg_vl.models.inputs.images_to_tensors import resized
from gpg_vl.prompts.media_places import check_template, place_media, used_markers
from gpg_vl.records import Encoded, ImageView, Prompt, Sample, VideoView, VisionInputs
from gpg_vl.screen import printable
from gpg_vl.tasks.base import Task, ask_for_answer
from gpg_vl.user_code import absolute_spec, describe_failure, own_file
from gpg_vl.verifiers.reasoning import THINK_OPENING

_MAX_CHARS = 160  # of what a user's code raised

_log = logging.getLogger(__name__)
_DEFAULT_SAMPLING = FrameSampling()


@dataclass(frozen=True, slots=True)
class PreparedMedia:
    """What a prompt needs of its images and videos; of their pixels only what the vision tower is given."""

    sizes: tuple[tuple[int, int], ...]  # of the images
    shapes: tuple[VideoShape, ...]  # of the videos
    views: tuple[ImageView, ...]  # which ``vision`` shows: of the images, then of the videos
    vision: VisionInputs
    pictures: tuple[Image, ...] = ()  # the images in the sizes of ``views``, where prompts keep them


@dataclass(frozen=True, slots=True)
class PromptLayout:
    """A prompt before its images are encoded."""

    request: str  # text of the user's turn
    system: str | None  # text of the system message; None: whatever the model's template does by default
    text: str  # the whole prompt, each image and video as a single placeholder
    views: tuple[ImageView, ...]  # of the images, then of the videos
    num_tokens: int  # with placeholders expanded
    is_shrunk: bool = False  # whether images and frames are scaled down to fit


class PromptBuilder:
    """Builds the prompts of one run."""

    def __init__(
        self,
        adapter: Adapter,
        tasks: Mapping[str, Task],
        config: PromptConfig,
        image_hosts: Collection[str] = (),
        shrink_to: int | None = None,
        shrink_large: bool = False,
        sampling: FrameSampling = _DEFAULT_SAMPLING,
        keep_pictures: bool = False,
    ):
        """
        Args:
            image_hosts: hosts that images and videos may be fetched from
            shrink_to: images are scaled down until the prompt has at most this many tokens; None: they are not
            shrink_large: whether an image of too many pixels is opened at a part of its size, or is refused
            sampling: which frames of a video the model sees
            keep_pictures: whether prompts keep their images as pixels
        """
        self._keep_pictures = keep_pictures
        self._sampling = sampling
        self._shrink_large = shrink_large
        self._shrink_to = shrink_to
        self._adapter = adapter
        self._image_hosts = image_hosts
        self._tasks = tasks
        self._config = config
        self._noted: set[str] = set()
        self.is_chat = adapter.is_chat() if config.style == "auto" else config.style == "chat"
        if self.is_chat and not adapter.has_chat_template():
            raise ValueError("prompt.style is chat, but the model has no chat template; set prompt.style to base")
        if config.system is not None and not self.is_chat:
            raise ValueError("prompt.system needs a chat prompt; set prompt.style to chat or leave prompt.system out")
        self.thinking = {"auto": None, "on": True, "off": False}[config.thinking]
        if self.thinking is not None and not self.is_chat:
            raise ValueError("prompt.thinking needs a chat prompt; set prompt.style to chat or prompt.thinking to auto")
        if self.is_chat:
            adapter.check_chat(self.thinking)

    def build(self, sample: Sample) -> Prompt:
        """Opens the images and videos and encodes the prompt.

        Raises:
            BadImage: an image or video cannot be opened; names the sample
            ValueError: the row's text cannot become a prompt; names the sample
        """
        with _naming(sample):
            images, videos = self._open(sample)
            layout = self.read(sample, [original_size(image) for image in images], [video.shape for video in videos])
            encoded = self._encode(layout.text, images, videos, layout.views)
            return self._prompt(sample, layout, encoded, self._pictures(images, layout.views))

    def prepare(self, sample: Sample) -> PreparedMedia | None:
        """The part of ``build`` that depends on the images and videos alone; any thread may do it at any time.

        A task of the user's own is not asked: its words may depend on when it is asked.

        Returns:
            None if there are none, or if what the tower is given depends on the words around them

        Raises:
            BadImage: an image or video cannot be opened; names the sample
            ValueError: no view of one fits the limits; names the sample
        """
        with _naming(sample):
            images, videos = self._open(sample)
            sizes, shapes = tuple(map(original_size, images)), tuple(video.shape for video in videos)
            views = tuple(self._views(sizes, shapes))
            vision = self._adapter.encode_media(images, views, [video.frames for video in videos])
            if vision is None:
                return None
            return PreparedMedia(sizes, shapes, views, vision, self._pictures(images, views))

    def finish(self, sample: Sample, prepared: PreparedMedia) -> Prompt:
        """The prompt of ``build`` from what ``prepare`` found. Images are opened again only if they have to shrink.

        Raises:
            BadImage: then an image or video cannot be opened any more; names the sample
            ValueError: the row's text cannot become a prompt; names the sample
        """
        with _naming(sample):
            layout = self.read(sample, prepared.sizes, prepared.shapes)
            if layout.views == prepared.views:
                encoded = self._adapter.encode(layout.text, (), layout.views, vision=prepared.vision)
                return self._prompt(sample, layout, encoded, prepared.pictures)
            images, videos = self._open(sample)
            encoded = self._encode(layout.text, images, videos, layout.views)
            return self._prompt(sample, layout, encoded, self._pictures(images, layout.views))

    def build_blank(self, sample: Sample, layout: PromptLayout) -> Prompt:
        """The prompt with pictures of no content, in the sizes of ``layout``; opens no file."""
        images = [_blank(view) for view in layout.views if not isinstance(view, VideoView)]
        videos = [[_blank(view)] * len(view.times.numbers) for view in layout.views if isinstance(view, VideoView)]
        encoded = self._adapter.encode(layout.text, images, layout.views, videos)
        return self._prompt(sample, layout, encoded, self._pictures(images, layout.views))

    def _prompt(self, sample: Sample, layout: PromptLayout, encoded: Encoded, pictures: tuple[Image, ...]) -> Prompt:
        messages = self._messages(layout)
        return Prompt(sample, layout.text, encoded, layout.views, messages, self._config.answer_in, pictures)

    def _pictures(self, images: Sequence[Image], views: Sequence[ImageView]) -> tuple[Image, ...]:
        """The images as the adapter sizes them; none unless prompts keep them."""
        return tuple(resized(images, views[: len(images)])) if self._keep_pictures else ()

    def rebuild(
        self, sample: Sample, text: str, views: tuple[ImageView, ...], messages: tuple[tuple[str, str], ...]
    ) -> Prompt:
        """A prompt that was built before, as it was: a task of the user's own may ask in other words a second time.

        Raises:
            BadImage: an image can no longer be opened; names the sample
        """
        with _naming(sample):
            images, videos = self._open(sample)
            encoded = self._encode(text, images, videos, views)
            pictures = self._pictures(images, views)
            return Prompt(sample, text, encoded, views, messages, self._config.answer_in, pictures)

    def _open(self, sample: Sample) -> tuple[list[Image], list[Video]]:
        images = [open_image(source, self._image_hosts, self._shrink_large) for source in sample.images]
        return images, [open_video(source, self._sampling, self._image_hosts) for source in sample.videos]

    def _encode(
        self, text: str, images: Sequence[Image], videos: Sequence[Video], views: Sequence[ImageView]
    ) -> Encoded:
        return self._adapter.encode(text, images, views, [video.frames for video in videos])

    def read(self, sample: Sample, sizes: Sequence[tuple[int, int]], videos: Sequence[VideoShape] = ()) -> PromptLayout:
        """The prompt as the model will read it, computed from its images' sizes and the times of its frames alone.

        If the prompt has more than ``shrink_to`` tokens, its images and frames are scaled down, but not far below
        model.min_pixels. A prompt that is still too long then is returned as it is.

        Raises:
            ValueError: the row's text cannot become a prompt
        """
        layout = self._lay_out(sample, self._views(sizes, videos))
        counts = self._adapter.count_image_tokens(layout.views)
        room = sum(counts)
        while self._shrink_to is not None and layout.num_tokens > self._shrink_to and room > 0:
            room = max(0, room - (layout.num_tokens - self._shrink_to))  # each image keeps its share
            most = [max(1, count * room // sum(counts)) for count in counts]
            layout = replace(self._lay_out(sample, self._views(sizes, videos, most)), is_shrunk=True)
        return layout

    def _views(
        self, sizes: Sequence[tuple[int, int]], videos: Sequence[VideoShape], most: Sequence[int] | None = None
    ) -> list[ImageView]:
        """
        Args:
            most: maximum number of tokens of each image, then of each video
        """
        limits: Sequence[int | None] = most or [None] * (len(sizes) + len(videos))
        of_images, of_videos = limits[: len(sizes)], limits[len(sizes) :]
        views = [self._adapter.view(*size, max_tokens=num) for size, num in zip(sizes, of_images, strict=True)]
        for video, num in zip(videos, of_videos, strict=True):
            views.append(self._adapter.view_video(video.width, video.height, video.times, max_tokens=num))
        return views

    def _lay_out(self, sample: Sample, views: Sequence[ImageView]) -> PromptLayout:
        request, system = self._request(sample, views), self._system(sample)
        text = self._render(request, system, views)
        text.encode()  # a ValueError for half a surrogate pair, which no tokenizer reads
        return PromptLayout(request, system, text, tuple(views), self._adapter.count_tokens(text, views))

    def _request(self, sample: Sample, views: Sequence[ImageView]) -> str:
        """Text of the user's turn, including the row's own image markers if there are any."""
        template = self._config.template
        if template is None:
            request = self._ask(sample, views)
        else:
            request = template.replace("{question}", sample.question)
            check_template(template, request, views)
        self._refuse_control_tokens(request, used_markers(views))
        self._note_other_place(sample, sample.question, "question")
        return request

    def _ask(self, sample: Sample, views: Sequence[ImageView]) -> str:
        try:
            return ask_for_answer(self._tasks[sample.task], sample, views, self._config.answer_in)
        except (Exception, SystemExit) as error:  # the task may be the user's code
            file = own_file(absolute_spec(sample.task))
            if isinstance(error, ValueError) and not file:
                raise
            cause = describe_failure(error, file, _MAX_CHARS)
            raise ValueError(f"task {sample.task} cannot ask: {cause}") from error

    def _system(self, sample: Sample) -> str | None:
        """The recipe's system message, or else the row's: ``meta.system``."""
        system = sample.meta.get("system")
        if self._config.system is not None or not isinstance(system, str) or not system.strip():
            return self._config.system
        self._refuse_control_tokens(system, where="system message")
        if not self.is_chat:
            self._note("system", "sample %s has a system message, which a base prompt leaves out", sample.id)
            return None
        self._note_other_place(sample, system, "system message")
        return system

    def _note_other_place(self, sample: Sample, text: str, where: str) -> None:
        """Says once that a row asks for the answer in another place than it is looked for."""
        answer_in = self._config.answer_in
        other = "<answer>" if answer_in == "boxed" else "\\boxed"
        if other in text:
            self._note(
                "place",
                "the %s of sample %s asks for the answer in %s, but prompt.answer_in is %s; set one to the other",
                *(where, sample.id, other, answer_in),
            )

    def _note(self, about: str, text: str, *values: str) -> None:
        if about not in self._noted:
            self._noted.add(about)
            _log.warning(text, *map(printable, values))

    def _messages(self, layout: PromptLayout) -> tuple[tuple[str, str], ...]:
        if not self.is_chat:
            return ()
        system = () if layout.system is None else (("system", layout.system),)
        return (*system, ("user", layout.request))

    def _render(self, request: str, system: str | None, views: Sequence[ImageView]) -> str:
        parts = place_media(request, views)
        if self.is_chat:
            return self._adapter.render_chat(parts, system, self.thinking)
        return self._adapter.render_plain(["User: ", *parts, f"\nAssistant: {THINK_OPENING}"])

    def _refuse_control_tokens(self, text: str, markers: Sequence[str] = (), where: str = "question") -> None:
        """Between the markers of images and videos: one may look like a family's token for an image."""
        pieces = re.split("|".join(markers), text) if markers else [text]
        for token in self._adapter.control_tokens():
            if any(token in piece for piece in pieces):
                raise ValueError(f"the {where} contains the control token {token}; remove it from the row")

    def measure(self, sample: Sample) -> PromptLayout:
        """The result of ``read``; opens images and videos for their sizes, encodes none.

        Raises:
            BadImage: an image or video cannot be opened
            ValueError: the row's text cannot become a prompt
        """
        sizes = [original_size(open_image(each, self._image_hosts, self._shrink_large)) for each in sample.images]
        videos = [measure_video(each, self._sampling, self._image_hosts) for each in sample.videos]
        return self.read(sample, sizes, videos)


@contextmanager
def _naming(sample: Sample) -> Iterator[None]:
    try:
        yield
    except ModelMistake:
        raise
    except ValueError as error:
        kind = BadImage if isinstance(error, BadImage) else ValueError
        raise kind(f"sample {sample.id}: {error}") from error


def _blank(view: ImageView) -> Image:
    return new("RGB", (view.model_width, view.model_height))

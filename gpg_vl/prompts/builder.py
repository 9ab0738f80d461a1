"""Sample + task + adapter -> Prompt: the only place where a row is turned into what the model reads.

Images are opened here, so that an error names the row. Nothing is ever truncated.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from gpg_vl.config import PromptConfig
from gpg_vl.data.images import BadImage, open_image
from gpg_vl.errors import ModelMistake
from gpg_vl.models.adapter import Adapter
from gpg_vl.own_code import absolute_spec, describe_failure, own_file
from gpg_vl.records import THINK_OPENING, ImageView, Prompt, Sample
from gpg_vl.tasks.base import Task, ask_for_answer

IMAGE_MARKER = "<image>"
_MAX_CHARS = 160  # of what a user's code raised

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PromptLayout:
    """A prompt before its images are encoded."""

    request: str  # text of the user's turn
    text: str  # the whole prompt, each image as a single placeholder
    views: tuple[ImageView, ...]
    num_tokens: int  # with image placeholders expanded
    is_shrunk: bool = False  # whether images are scaled down to fit


class PromptBuilder:
    """Builds the prompts of one run."""

    def __init__(
        self,
        adapter: Adapter,
        tasks: Mapping[str, Task],
        config: PromptConfig,
        image_hosts: Collection[str] = (),
        shrink_to: int | None = None,
    ):
        """
        Args:
            image_hosts: hosts that images may be fetched from
            shrink_to: images are scaled down until the prompt has at most this many tokens; None: they are not
        """
        self._shrink_to = shrink_to
        self._adapter = adapter
        self._image_hosts = image_hosts
        self._tasks = tasks
        self._config = config
        self._has_noted_place = False
        self._is_chat = adapter.is_chat() if config.style == "auto" else config.style == "chat"
        if self._is_chat and not adapter.has_chat_template():
            raise ValueError("prompt.style is chat, but the model has no chat template; set prompt.style to base")
        if config.system is not None and not self._is_chat:
            raise ValueError("prompt.system needs a chat prompt; set prompt.style to chat or leave prompt.system out")

    def build(self, sample: Sample) -> Prompt:
        """Opens the images and encodes the prompt.

        Raises:
            BadImage: an image cannot be opened; names the sample
            ValueError: the row's text cannot become a prompt; names the sample
        """
        with _naming(sample):
            images = [open_image(source, self._image_hosts) for source in sample.images]
            layout = self.read(sample, [image.size for image in images])
            encoded = self._adapter.encode(layout.text, images, layout.views)
            messages = self._messages(layout.request)
            return Prompt(sample, layout.text, encoded, layout.views, messages, self._config.answer_in)

    def rebuild(
        self, sample: Sample, text: str, views: tuple[ImageView, ...], messages: tuple[tuple[str, str], ...]
    ) -> Prompt:
        """A prompt that was built before, as it was: a task of the user's own may ask in other words a second time.

        Raises:
            BadImage: an image can no longer be opened; names the sample
        """
        with _naming(sample):
            images = [open_image(source, self._image_hosts) for source in sample.images]
            return Prompt(sample, text, self._adapter.encode(text, images, views), views, messages)

    def read(self, sample: Sample, sizes: Sequence[tuple[int, int]]) -> PromptLayout:
        """The prompt as the model will read it, computed from its images' sizes alone.

        If the prompt has more than ``shrink_to`` tokens, its images are scaled down, but not far below
        model.min_pixels. A prompt that is still too long then is returned as it is.

        Raises:
            ValueError: the row's text cannot become a prompt
        """
        layout = self._lay_out(sample, [self._adapter.view(*size) for size in sizes])
        counts = self._adapter.count_image_tokens(layout.views)
        room = sum(counts)
        while self._shrink_to is not None and layout.num_tokens > self._shrink_to and room > 0:
            room = max(0, room - (layout.num_tokens - self._shrink_to))  # each image keeps its share
            most = [max(1, count * room // sum(counts)) for count in counts]
            views = [self._adapter.view(*size, max_tokens=num) for size, num in zip(sizes, most, strict=True)]
            layout = replace(self._lay_out(sample, views), is_shrunk=True)
        return layout

    def _lay_out(self, sample: Sample, views: Sequence[ImageView]) -> PromptLayout:
        request = self._request(sample, views)
        text = self._render(request, views)
        expanded = sum(self._adapter.count_image_tokens(views)) - len(views)
        text.encode()  # a ValueError for half a surrogate pair, which no tokenizer reads
        return PromptLayout(request, text, tuple(views), self._adapter.count_text_tokens(text) + expanded)

    def _request(self, sample: Sample, views: Sequence[ImageView]) -> str:
        """Text of the user's turn, including the row's own image markers if there are any."""
        template = self._config.template
        if template is None:
            request = self._ask(sample, views)
        else:
            request = template.replace("{question}", sample.question)
        self._refuse_control_tokens(request)
        self._note_other_place(sample)
        return request

    def _ask(self, sample: Sample, views: Sequence[ImageView]) -> str:
        try:
            return ask_for_answer(self._tasks[sample.task], sample, views, self._config.answer_in)
        except Exception as error:  # the task may be the user's code
            file = own_file(absolute_spec(sample.task))
            if isinstance(error, ValueError) and not file:
                raise
            cause = describe_failure(error, file, _MAX_CHARS)
            raise ValueError(f"task {sample.task} cannot ask: {cause}") from error

    def _note_other_place(self, sample: Sample) -> None:
        """Says once that a row's question asks for the answer in another place than it is looked for."""
        other = "<answer>" if self._config.answer_in == "boxed" else "\\boxed"
        if other in sample.question and not self._has_noted_place:
            self._has_noted_place = True
            _log.warning(
                "the question of sample %s asks for the answer in %s, but prompt.answer_in is %s; set one to the other",
                sample.id,
                other,
                self._config.answer_in,
            )

    def _messages(self, request: str) -> tuple[tuple[str, str], ...]:
        if not self._is_chat:
            return ()
        system = () if self._config.system is None else (("system", self._config.system),)
        return (*system, ("user", request))

    def _render(self, request: str, views: Sequence[ImageView]) -> str:
        parts = _place_images(request, len(views))
        if self._is_chat:
            return self._adapter.render_chat(parts, self._config.system)
        return self._adapter.render_plain(["User: ", *parts, f"\nAssistant: {THINK_OPENING}"])

    def _refuse_control_tokens(self, request: str) -> None:
        """Between the image markers: a marker may look like the token that a family has for an image."""
        pieces = request.split(IMAGE_MARKER)
        for token in self._adapter.control_tokens():
            if any(token in piece for piece in pieces):
                raise ValueError(f"the question contains the control token {token}; remove it from the row")

    def measure(self, sample: Sample) -> PromptLayout:
        """The result of ``read``; opens the images for their sizes, encodes none.

        Raises:
            BadImage: an image cannot be opened
            ValueError: the row's text cannot become a prompt
        """
        return self.read(sample, [open_image(source, self._image_hosts).size for source in sample.images])


def _place_images(text: str, num_images: int) -> list[str | None]:
    """Splits at the ``<image>`` markers, which say where the images go; without markers, images come first."""
    pieces = text.split(IMAGE_MARKER)
    num_markers = len(pieces) - 1
    if num_markers == 0:
        return [*[None] * num_images, text]
    if num_markers != num_images:
        raise ValueError(
            f"the question has {num_markers} {IMAGE_MARKER} markers for {num_images} images; "
            "write one per image, or none"
        )
    parts: list[str | None] = []
    for piece in pieces:
        parts += [piece, None]
    return [part for part in parts[:-1] if part != ""]


@contextmanager
def _naming(sample: Sample) -> Iterator[None]:
    try:
        yield
    except ModelMistake:
        raise
    except ValueError as error:
        kind = BadImage if isinstance(error, BadImage) else ValueError
        raise kind(f"sample {sample.id}: {error}") from error

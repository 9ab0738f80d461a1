"""Sample + task + adapter -> Prompt: the only place where a row is turned into what the model reads.

Images are opened here, so that an error names the row. Nothing is ever truncated.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from PIL.Image import Image

from gpg_vl.config import PromptConfig
from gpg_vl.data.image_markers import IMAGE_MARKER, check_markers
from gpg_vl.data.images import BadImage, open_image, original_size
from gpg_vl.errors import ModelMistake
from gpg_vl.models.adapter import Adapter
from gpg_vl.records import ImageView, Prompt, Sample
from gpg_vl.screen import printable
from gpg_vl.tasks.base import Task, ask_for_answer
from gpg_vl.user_code import absolute_spec, describe_failure, own_file
from gpg_vl.verifiers.reasoning import THINK_OPENING

_MAX_CHARS = 160  # of what a user's code raised

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PromptLayout:
    """A prompt before its images are encoded."""

    request: str  # text of the user's turn
    system: str | None  # text of the system message; None: whatever the model's template does by default
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
        shrink_large: bool = False,
    ):
        """
        Args:
            image_hosts: hosts that images may be fetched from
            shrink_to: images are scaled down until the prompt has at most this many tokens; None: they are not
            shrink_large: whether an image of too many pixels is opened at a part of its size, or is refused
        """
        self._shrink_large = shrink_large
        self._shrink_to = shrink_to
        self._adapter = adapter
        self._image_hosts = image_hosts
        self._tasks = tasks
        self._config = config
        self._noted: set[str] = set()
        self._is_chat = adapter.is_chat() if config.style == "auto" else config.style == "chat"
        if self._is_chat and not adapter.has_chat_template():
            raise ValueError("prompt.style is chat, but the model has no chat template; set prompt.style to base")
        if config.system is not None and not self._is_chat:
            raise ValueError("prompt.system needs a chat prompt; set prompt.style to chat or leave prompt.system out")
        self._thinking = {"auto": None, "on": True, "off": False}[config.thinking]
        if self._thinking is not None and not self._is_chat:
            raise ValueError("prompt.thinking needs a chat prompt; set prompt.style to chat or prompt.thinking to auto")
        if self._is_chat:
            adapter.check_chat(self._thinking)

    def build(self, sample: Sample) -> Prompt:
        """Opens the images and encodes the prompt.

        Raises:
            BadImage: an image cannot be opened; names the sample
            ValueError: the row's text cannot become a prompt; names the sample
        """
        with _naming(sample):
            images = self._open(sample)
            layout = self.read(sample, [original_size(image) for image in images])
            encoded = self._adapter.encode(layout.text, images, layout.views)
            messages = self._messages(layout)
            return Prompt(sample, layout.text, encoded, layout.views, messages, self._config.answer_in)

    def rebuild(
        self, sample: Sample, text: str, views: tuple[ImageView, ...], messages: tuple[tuple[str, str], ...]
    ) -> Prompt:
        """A prompt that was built before, as it was: a task of the user's own may ask in other words a second time.

        Raises:
            BadImage: an image can no longer be opened; names the sample
        """
        with _naming(sample):
            images = self._open(sample)
            encoded = self._adapter.encode(text, images, views)
            return Prompt(sample, text, encoded, views, messages, self._config.answer_in)

    def _open(self, sample: Sample) -> list[Image]:
        return [open_image(source, self._image_hosts, self._shrink_large) for source in sample.images]

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
            if IMAGE_MARKER in template:
                _check_template(request, len(views))
        self._refuse_control_tokens(request, has_images=bool(views))
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
        self._refuse_control_tokens(system, has_images=False, where="system message")
        if not self._is_chat:
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
        if not self._is_chat:
            return ()
        system = () if layout.system is None else (("system", layout.system),)
        return (*system, ("user", layout.request))

    def _render(self, request: str, system: str | None, views: Sequence[ImageView]) -> str:
        parts = _place_images(request, len(views))
        if self._is_chat:
            return self._adapter.render_chat(parts, system, self._thinking)
        return self._adapter.render_plain(["User: ", *parts, f"\nAssistant: {THINK_OPENING}"])

    def _refuse_control_tokens(self, text: str, has_images: bool, where: str = "question") -> None:
        """Between the image markers, if there are images: one may look like a family's token for an image."""
        pieces = text.split(IMAGE_MARKER) if has_images else [text]
        for token in self._adapter.control_tokens():
            if any(token in piece for piece in pieces):
                raise ValueError(f"the {where} contains the control token {token}; remove it from the row")

    def measure(self, sample: Sample) -> PromptLayout:
        """The result of ``read``; opens the images for their sizes, encodes none.

        Raises:
            BadImage: an image cannot be opened
            ValueError: the row's text cannot become a prompt
        """
        return self.read(sample, [original_size(image) for image in self._open(sample)])


def _place_images(text: str, num_images: int) -> list[str | None]:
    """Splits at the ``<image>`` markers, which say where the images go; without markers, images come first.

    Without images there are no markers: what looks like one is text.
    """
    check_markers(text, num_images)
    pieces = text.split(IMAGE_MARKER)
    if len(pieces) == 1 or num_images == 0:
        return [*[None] * num_images, text]
    parts: list[str | None] = []
    for piece in pieces:
        parts += [piece, None]
    return [part for part in parts[:-1] if part != ""]


def _check_template(request: str, num_images: int) -> None:
    """Refuses a template with image markers, for a row with another number of images."""
    if request.count(IMAGE_MARKER) != num_images:
        raise ValueError(
            f"prompt.template has {IMAGE_MARKER}, and with the question {request.count(IMAGE_MARKER)} of them for "
            f"{num_images} images; take {IMAGE_MARKER} out of prompt.template"
        )


@contextmanager
def _naming(sample: Sample) -> Iterator[None]:
    try:
        yield
    except ModelMistake:
        raise
    except ValueError as error:
        kind = BadImage if isinstance(error, BadImage) else ValueError
        raise kind(f"sample {sample.id}: {error}") from error

"""Sample + task + adapter -> Prompt: the only place where a row meets the model's way of reading.

Images are opened here, so that a bad one is the error of its row. Nothing is ever truncated.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

from gpg_vl.config import PromptConfig
from gpg_vl.images import BadImage, open_image
from gpg_vl.models.qwen_vl import QwenVLAdapter
from gpg_vl.records import ImageView, Prompt, Sample
from gpg_vl.tasks.base import Task

IMAGE_MARKER = "<image>"
THINK_OPENING = "<think>"


class PromptBuilder:
    """Builds the prompts of one run."""

    def __init__(
        self,
        adapter: QwenVLAdapter,
        tasks: Mapping[str, Task],
        config: PromptConfig,
        image_hosts: Collection[str] = (),
    ):
        self._adapter = adapter
        self._image_hosts = image_hosts
        self._tasks = tasks
        self._config = config
        self._is_chat = adapter.is_chat() if config.style == "auto" else config.style == "chat"
        if self._is_chat and not adapter.processor.chat_template:
            raise ValueError("prompt.style is chat, but the model has no chat template; set prompt.style to base")
        if config.system is not None and not self._is_chat:
            raise ValueError("prompt.system needs a chat prompt; set prompt.style to chat or leave prompt.system out")

    def build(self, sample: Sample) -> Prompt:
        """Opens the images and encodes the prompt.

        Raises:
            BadImage: an image cannot be opened; names the sample
            ValueError: the row's text cannot be put to the model; names the sample
        """
        with _naming(sample):
            images = [open_image(source, self._image_hosts) for source in sample.images]
            views = tuple(self._adapter.view(*image.size) for image in images)
            request = self._request(sample, views)
            text = self._render(request, views)
            encoded = self._adapter.encode(text, images, views)
            return Prompt(sample=sample, text=text, image_views=views, messages=self._messages(request), **encoded)

    def _request(self, sample: Sample, views: Sequence[ImageView]) -> str:
        """What the user's turn says, with the row's own image markers, if any."""
        template = self._config.template
        if template is None:
            request = self._tasks[sample.task].ask(sample, views)
        else:
            request = template.replace("{question}", sample.question)
        self._refuse_control_tokens(request)
        return request

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

    def _refuse_control_tokens(self, text: str) -> None:
        for token in self._adapter.control_tokens():
            if token in text:
                raise ValueError(f"the question contains the control token {token}; remove it from the row")

    def count_tokens(self, sample: Sample) -> int:
        """Length of the sample's prompt; opens its images, encodes none.

        Raises:
            ValueError: an image cannot be opened or the row's text cannot be put to the model
        """
        views = [self._adapter.view(*open_image(source, self._image_hosts).size) for source in sample.images]
        text_tokens = self._adapter.count_text_tokens(self._render(self._request(sample, views), views))
        return text_tokens + sum(self._adapter.count_image_tokens(view) - 1 for view in views)


def completion_text(prompt: Prompt, text: str) -> str:
    """A completion as the tasks read it: with the opening ``<think>`` where the prompt ends in one."""
    return THINK_OPENING + text if prompt.text.endswith(THINK_OPENING) else text


def continue_prompt(prompt: Prompt, text: str) -> str:
    """A written completion as the model has to continue the prompt: the reverse of ``completion_text``."""
    return text.removeprefix(THINK_OPENING) if prompt.text.endswith(THINK_OPENING) else text


def _place_images(text: str, num_images: int) -> list[str | None]:
    """Splits at ``<image>`` markers, each the place of an image; without markers the images come first."""
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
    except ValueError as error:
        kind = BadImage if isinstance(error, BadImage) else ValueError
        raise kind(f"sample {sample.id}: {error}") from error

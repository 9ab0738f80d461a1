"""A model's chat template: a program of its folder, run within a deadline and tried before the first prompt."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from typing import Any

from gpg_vl.errors import ModelMistake, first_line
from gpg_vl.models.inputs.control_tokens import find_control_tokens
from gpg_vl.models.inputs.deadline import Deadline
from gpg_vl.models.inputs.parts import Medium, Part

TEMPLATE_DEADLINE = Deadline(5.0)
_SYSTEM, _QUESTION, _ANSWER, _FURTHER = "A system probe.", "probe", "An answer.", "Further probe"
_SHOWN_PARTS = re.compile(r"""["']type["']\s*:\s*["']text["']""")


class ChatTemplate:
    """Renders conversations as the processor does."""

    def __init__(self, processor: Any, path: str, placeholders: Mapping[Medium, str]):
        """
        Args:
            path: of the model, for messages
            placeholders: what stands for an image in a rendered prompt, and for a video if the model sees any
        """
        self._processor = processor
        self._path = path
        self._placeholders = placeholders

    @property
    def exists(self) -> bool:
        return self._processor.chat_template is not None

    @cached_property
    def control_tokens(self) -> dict[str, int]:
        """Tokens of structure, with their ids."""
        return find_control_tokens(self._processor.tokenizer)

    def marks_roles(self) -> bool:
        """Whether there is a template, and it does more than join the contents."""
        return self.exists and self._render([_turn("user", _QUESTION)]).strip() != _QUESTION

    def opens_answer(self) -> bool:
        messages = [_turn("user", _QUESTION)]
        return self._render(messages) != self._render(messages, opens_answer=False)

    def render(self, parts: Sequence[Part], system: str | None, thinking: bool | None) -> str:
        """One user turn, behind the system message if there is one; see ``Adapter.render_chat``.

        Raises:
            ModelMistake: the template fails, takes too long, or does not show every image and video
        """
        before = [] if system is None else [self._system_turn(system)]
        text = self._render([*before, _turn("user", *parts)], thinking=thinking)
        for medium in {Medium.IMAGE, *(part for part in parts if isinstance(part, Medium))}:
            wanted, found = parts.count(medium), text.count(self._placeholders[medium])
            if found != wanted:
                raise ModelMistake(
                    f"model.path: the chat template of {self._path} shows {found} of {wanted} {medium.value}s; take "
                    "another template, or set prompt.style to base"
                )
        return text

    def _system_turn(self, system: str) -> dict[str, Any]:
        return {"role": "system", "content": system} if self._wants_system_as_text else _turn("system", system)

    @cached_property
    def _wants_system_as_text(self) -> bool:
        """Whether the template cannot write a system message in parts, as every other one is given, but as a text."""
        as_text = {"role": "system", "content": _SYSTEM}
        return not self._writes_system(_turn("system", _SYSTEM)) and self._writes_system(as_text)

    def _writes_system(self, turn: dict[str, Any]) -> bool:
        """Whether the prompt has the message's text, and not its parts as Python or JSON shows them."""
        try:
            text = self._render([turn, _turn("user", _QUESTION)])
        except ModelMistake:
            return False
        return _SYSTEM in text and _SHOWN_PARTS.search(text) is None

    def check(self, thinking: bool | None, end_token_ids: Collection[int]) -> None:
        """Tries what a run needs: that an image is shown, that thinking can be set, that an answer can end.

        Raises:
            ValueError: the template does not do it; one line
        """
        self.render([Medium.IMAGE, _QUESTION], None, None)
        if thinking is not None:
            on, off = (self.render([_QUESTION], None, each) for each in (True, False))
            if on == off:
                raise ValueError(
                    f"prompt.thinking: the chat template of {self._path} does not know enable_thinking; leave it at "
                    "auto"
                )
        self._refuse_endless(end_token_ids)

    def _refuse_endless(self, end_token_ids: Collection[int]) -> None:
        """
        Raises:
            ModelMistake: what follows an answer has control tokens, and none of them ends a completion
        """
        tokenizer = self._processor.tokenizer
        control = set(self.control_tokens.values())
        after = [token for token in self._written_after if token in control]
        if after and not set(end_token_ids) & set(self._written_after):
            ends, follows = (
                " ".join(tokenizer.convert_ids_to_tokens(list(ids))) for ids in (end_token_ids, dict.fromkeys(after))
            )
            raise ModelMistake(
                f"model.path: completions of {self._path} end at {ends}, which its chat template never writes after an "
                f"answer (it writes {follows}); correct eos_token_id in its generation_config.json"
            )

    def closing_token(self, end_token_ids: Sequence[int]) -> int:
        """The end token that the template writes after an answer; the first of all where it writes none of them."""
        return next((token for token in self._written_after if token in end_token_ids), end_token_ids[0])

    @cached_property
    def _written_after(self) -> list[int]:
        """Tokens that the template writes between an answer and the next question."""
        return list(self._processor.tokenizer(self._after_answer(), add_special_tokens=False).input_ids)

    def _after_answer(self) -> str:
        """The text of these tokens; empty where the template takes no answer."""
        turns = [_turn("user", _QUESTION), _turn("assistant", _ANSWER), _turn("user", _FURTHER)]
        try:
            text = self._render(turns, opens_answer=False)
        except ModelMistake:
            return ""
        return text.partition(_ANSWER)[2].partition(_FURTHER)[0]

    def _render(
        self, messages: list[dict[str, Any]], *, opens_answer: bool = True, thinking: bool | None = None
    ) -> str:
        """
        Raises:
            ModelMistake: the chat template fails, or takes too long
        """
        said = {} if thinking is None else {"enable_thinking": thinking}
        try:
            with TEMPLATE_DEADLINE.within():
                return str(
                    self._processor.apply_chat_template(
                        messages, tokenize=False, add_generation_prompt=opens_answer, **said
                    )
                )
        except TimeoutError as error:
            lack = f"takes over {TEMPLATE_DEADLINE.seconds:g} s for one prompt"
            raise ModelMistake(f"model.path: the chat template of {self._path} {lack}; correct it") from error
        except Exception as error:  # a template is a program
            reason = f"{type(error).__name__}: {first_line(error)}"
            raise ModelMistake(
                f"model.path: the chat template of {self._path} fails ({reason[:160]}); correct it, "
                "leave prompt.system out, or set prompt.style to base"
            ) from error


def _turn(role: str, *parts: Part) -> dict[str, Any]:
    content = [{"type": part.value} if isinstance(part, Medium) else {"type": "text", "text": part} for part in parts]
    return {"role": role, "content": content}

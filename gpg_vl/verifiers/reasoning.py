"""Where the reasoning of a completion opens and closes, in the kit's tags and in those that model families have.

A model that thinks in tags of its own is read as if it had written the kit's, so that format and answer are judged
alike. Reasoning that is never closed holds no answer, whatever its tags.
"""

from __future__ import annotations

from gpg_vl.records import Prompt

THINK_OPENING, THINK_CLOSING = "<think>", "</think>"
ANSWER_OPENING, ANSWER_CLOSING = "<answer>", "</answer>"
TAGS = (THINK_OPENING, THINK_CLOSING, ANSWER_OPENING, ANSWER_CLOSING)
BOX_OPENING, BOX_CLOSING = "<|begin_of_box|>", "<|end_of_box|>"
"""Some models put their final answer between these, with or without the tags that the prompt asked for."""

_CHANNEL, _BRACKETS, _BRACKETS_CLOSING = "<|channel>thought", "[THINK]", "[/THINK]"
_NATIVE = ((_CHANNEL, "<channel|>"), (_BRACKETS, _BRACKETS_CLOSING))
_PAIRS = ((THINK_OPENING, THINK_CLOSING), *_NATIVE)


def in_plain_tags(text: str) -> str:
    """A completion with the kit's tags in place of its model's, where it opens its reasoning with those.

    A model may think in its own way first, and then once more as the prompt asked: only the latter is kept.

    >>> in_plain_tags("<|channel>thought\\n2 + 2<channel|><answer>4</answer>")
    '<think>\\n2 + 2</think><answer>4</answer>'
    """
    if _CHANNEL not in text and _BRACKETS not in text:
        return text
    opened = [(text.find(opening), opening, closing) for opening, closing in _PAIRS if opening in text]
    if not opened or min(opened)[1] == THINK_OPENING:
        return text
    place, opening, closing = min(opened)
    _, closed, rest = text.rpartition(closing)
    if not closed:
        return THINK_OPENING
    if not text[:place].strip() and rest.lstrip().startswith(THINK_OPENING) and opening not in rest:
        return rest
    return text.replace(opening, THINK_OPENING).replace(closing, THINK_CLOSING)


def completion_text(prompt: Prompt, text: str) -> str:
    """A completion as the tasks read it: with the reasoning that the prompt ends in, open or empty, before it.

    Chat templates of thinking models end in ``<think>`` and a newline, or in an empty block where they are not to
    think. A model that opens its reasoning again needs no other opening.
    """
    given = opened_reasoning(prompt.text)
    return with_template_opening(given, text) if prompt.messages else with_opening(given, text)


def with_template_opening(given: str, text: str) -> str:
    """The same behind what a chat template opened, where a model may think in its own way first, as in other families.

    If it then thinks once more, as the prompt asked, its own reasoning is put into tags of its own.
    """
    whole = with_opening(given, text)
    own, _, rest = whole.partition(THINK_CLOSING)
    if given.strip() != THINK_OPENING or not rest.lstrip().startswith(THINK_OPENING):
        return whole
    return own.replace(THINK_OPENING, _BRACKETS, 1) + _BRACKETS_CLOSING + rest


def with_opening(given: str, text: str) -> str:
    """A completion behind the reasoning that its prompt opened, unless it opens one again."""
    opening = next((opening for opening, _ in _PAIRS if given.startswith(opening)), THINK_OPENING)
    return text if text.lstrip().startswith(opening) else given + text


def continue_prompt(prompt_text: str, text: str) -> str:
    """A written completion as the model has to continue the prompt: the reverse of ``completion_text``."""
    given = "".join(opened_reasoning(prompt_text).split())
    for opening, closing in _NATIVE:
        if given.startswith(opening):
            text = text.replace(THINK_OPENING, opening, 1).replace(THINK_CLOSING, closing, 1)
    return text.removeprefix(given)


def opened_reasoning(prompt_text: str) -> str:
    """The opening that a prompt ends in, with white space after it or closed at once; empty for none."""
    for opening, closing in _PAIRS:
        bare = prompt_text.rstrip().removesuffix(closing).rstrip()
        if bare.endswith(opening):
            return prompt_text[len(bare) - len(opening) :]
    return ""

"""Row -> the completion that supervised training imitates, in place of a rollout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gpg_vl.models.adapter import Adapter
from gpg_vl.records import AnswerIn, Completion, ImageView, Sample
from gpg_vl.tasks.base import Task, gold_completion
from gpg_vl.verifiers.reasoning import continue_prompt


class GoldCompletions:
    """Writes the gold completions of one run."""

    def __init__(self, adapter: Adapter, tasks: Mapping[str, Task], answer_in: AnswerIn = "tags"):
        self._adapter = adapter
        self._tasks = tasks
        self._answer_in = answer_in

    def write(self, sample: Sample, prompt_text: str, views: Sequence[ImageView]) -> Completion:
        """The gold completion as a continuation of ``prompt_text``, with an end token at its end.

        Raises:
            ValueError: the row has no gold completion, or one that contains a control token
        """
        written = gold_completion(self._tasks[sample.task], sample, views, self._answer_in)
        text = continue_prompt(prompt_text, written)
        for token in self._adapter.control_tokens():
            if token in written:
                raise ValueError(f"the gold completion contains the control token {token}; remove it from the row")
        return Completion(self._adapter.encode_completion(text), text, finished=True)

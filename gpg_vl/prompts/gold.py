"""Row -> the completion that supervised training imitates, in place of a rollout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gpg_vl.models.adapter import Adapter
from gpg_vl.records import Completion, ImageView, Sample, continue_prompt
from gpg_vl.tasks.base import Task, gold_completion


class GoldCompletions:
    """Writes the gold completions of one run."""

    def __init__(self, adapter: Adapter, tasks: Mapping[str, Task]):
        self._adapter = adapter
        self._tasks = tasks

    def write(self, sample: Sample, prompt_text: str, views: Sequence[ImageView]) -> Completion:
        """The gold completion, as the prompt ``prompt_text`` is continued; ends with an end token.

        Raises:
            ValueError: it cannot be imitated as it stands
        """
        text = continue_prompt(prompt_text, gold_completion(self._tasks[sample.task], sample, views))
        for token in self._adapter.control_tokens():
            if token in text:
                raise ValueError(f"the gold completion contains the control token {token}; remove it from the row")
        return Completion(self._adapter.encode_completion(text), text, finished=True)

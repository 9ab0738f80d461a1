"""Rows as a model reads them, computed from the sizes of their images without the model's weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from data_tools.row_checks import CheckedRow, DataFile, Finding, open_file
from gpg_vl.config import ModelConfig, PromptConfig
from gpg_vl.data.videos import VideoShape
from gpg_vl.errors import ModelMistake
from gpg_vl.models import load_adapter
from gpg_vl.prompts.builder import PromptBuilder, PromptLayout
from gpg_vl.records import Sample
from gpg_vl.tasks import load_task
from gpg_vl.tasks.base import Task
from gpg_vl.user_code import describe_error


class PromptReader:
    """The prompts of one model, from its tokenizer and config alone.

    Raises:
        ValueError: ``config.path`` is not a model that the kit knows
    """

    def __init__(self, config: ModelConfig) -> None:
        adapter = load_adapter(config, with_weights=False)
        self.context_length = adapter.context_length
        self.count_image_tokens = adapter.count_image_tokens
        self.image_placeholder = adapter.plain_image
        self.control_tokens = adapter.control_tokens()
        self._tasks: dict[str, Task] = {}
        self._prompts = PromptBuilder(adapter, self._tasks, PromptConfig())

    def read(self, sample: Sample, sizes: Sequence[tuple[int, int]], videos: Sequence[VideoShape] = ()) -> PromptLayout:
        """The prompt of a row.

        Args:
            sizes: width and height of each image, upright, in pixels

        Raises:
            ValueError: there is no such task, or the row's text cannot become a prompt
        """
        self._tasks.setdefault(sample.task, load_task(sample.task))
        return self._prompts.read(sample, sizes, videos)


@dataclass
class Lengths:
    """Token counts of the measured prompts."""

    num: int = 0
    total: int = 0
    longest: int = 0
    longest_at: str = ""  # file and row

    def add(self, num_tokens: int, place: str) -> None:
        self.num += 1
        self.total += num_tokens
        if num_tokens > self.longest:
            self.longest, self.longest_at = num_tokens, place


class PromptMeter:
    """Measures the prompts of checked rows against the model's context.

    Args:
        max_new_tokens: room for a completion after the prompt
    """

    def __init__(self, reader: PromptReader, max_new_tokens: int) -> None:
        self._reader = reader
        self._max_new_tokens = max_new_tokens
        self.lengths = Lengths()

    def find_fault(self, file: DataFile, row: CheckedRow) -> Finding | None:
        """Why the model cannot read a row that has no other problem.

        Raises:
            ModelMistake: it can read none
        """
        sample = open_file(file).samples[row.number - 1]
        try:
            layout = self._reader.read(sample, [picture.size for picture in row.pictures], row.videos)
        except ModelMistake:
            raise
        except ValueError as error:
            return Finding(row.number, row.id, "question", str(error))
        except (Exception, SystemExit) as error:  # noqa: BLE001  the task may be the user's code
            return Finding(row.number, row.id, "task", f"task {sample.task}: {describe_error(error)}; fix the task")
        self.lengths.add(layout.num_tokens, f"{file.path}, row {row.number}")
        if layout.num_tokens + self._max_new_tokens <= self._reader.context_length:
            return None
        reason = (
            f"the prompt has {layout.num_tokens} tokens and its completion up to {self._max_new_tokens}, together more "
            f"than {self._reader.context_length}; shorten the question, or lower "
            f"{'--max-frames' if row.videos else '--max-pixels'} or --max-new-tokens"
        )
        return Finding(row.number, row.id, "question", reason)

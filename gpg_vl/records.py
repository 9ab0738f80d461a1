"""The records that flow through the kit, in pipeline order: Sample to MicroBatch.

A stage takes one record and returns the next; no stage fills in fields of an earlier record. Nothing is padded before
packing. Letters for shapes, here and in the rest of the code:

    P  tokens of a prompt            T  tokens of a completion      G  completions of a group
    N  images of a prompt            I  image tokens of a prompt    A  axes of a position (1 in most families)
    R  rows of a micro-batch         S  tokens of its longest row   M  completion tokens in a micro-batch
    V  size of the vocabulary        H  hidden size
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import Tensor

Box = tuple[float, float, float, float]
"""x1, y1, x2, y2 with the origin at the image's top left."""

Frame = Literal["grid_1000", "resized_pixels"]
"""How a model writes coordinates: on a 0-1000 grid over the image, or in pixels of the resized image that it sees."""

AnswerIn = Literal["tags", "boxed"]
"""Where the answer of a completion stands: between ``<answer>`` and ``</answer>``, or in the last ``\\boxed{}``."""

Status = Literal["ok", "unparsable", "timeout", "error"]

Rule = Literal["strict", "legacy"]
"""strict: the kit's own rules. legacy: those of the published code, for parity with published numbers alone."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One row of data.

    >>> Sample("demo-7", "counting", ("img/7.png",), "How many shapes?", "4")  # doctest: +SKIP
    """

    id: str  # unique in a run
    task: str  # name of the task that asks and scores
    images: tuple[str | bytes, ...]  # N absolute paths, or the bytes of an image file; opened late
    question: str
    answer: str  # gold answer, without tags; boxes in original pixels
    meta: dict[str, Any] = field(default_factory=dict)  # every other column of the row
    own_columns: dict[str, Any] = field(default_factory=dict, compare=False)
    """Columns that became fields of another name, as the row has them: ``{"ground_truth": 4}``."""


@dataclass(frozen=True, slots=True)
class ImageView:
    """The two sizes of one image in pixels, and the frame of its model's coordinates.

    A box of the 0-1000 grid, back in a 640 x 480 original: ``ImageView(640, 480, 644, 476, "grid_1000").to_original(
    (0, 0, 500, 1000))`` is ``(0, 0, 320, 480)``.
    """

    width: int
    height: int
    model_width: int
    model_height: int
    frame: Frame | None  # None: it is not known, and no box can be asked for

    @property
    def known_frame(self) -> Frame:
        """
        Raises:
            ValueError: it is not known
        """
        if self.frame is None:
            raise ValueError(
                "the row asks for a box, but how this model's family writes boxes is not documented; say it with "
                "model.frame: grid_1000 or resized_pixels"
            )
        return self.frame

    def _frame_size(self) -> tuple[float, float]:
        return (1000.0, 1000.0) if self.known_frame == "grid_1000" else (self.model_width, self.model_height)

    def to_original(self, box: Box) -> Box:
        """Converts a box from the model's frame to original pixels."""
        w, h = self._frame_size()
        x1, y1, x2, y2 = box
        return (x1 * self.width / w, y1 * self.height / h, x2 * self.width / w, y2 * self.height / h)

    def to_model(self, box: Box) -> Box:
        """Converts a box from original pixels to the model's frame."""
        w, h = self._frame_size()
        x1, y1, x2, y2 = box
        return (x1 * w / self.width, y1 * h / self.height, x2 * w / self.width, y2 * h / self.height)


@dataclass(frozen=True, slots=True)
class VisionInputs:
    """A vision tower's inputs for some images. Only the model's own adapter looks into the tensors."""

    tensors: Mapping[str, Tensor]  # named like arguments of the model's forward
    num_patches: int  # decides the tower's work and memory
    num_tokens: int  # image tokens that the features replace


@dataclass(frozen=True, slots=True)
class ImageFeatures:
    """A vision tower's output for some images: [I, H] for the input embeddings, then for each deeper level, if any."""

    levels: tuple[Tensor, ...]


@dataclass(frozen=True, slots=True)
class Encoded:
    """A prompt as input of the model's forward. The vision inputs are those of this prompt alone."""

    token_ids: tuple[int, ...]  # [P], image placeholders expanded
    token_types: tuple[int, ...]  # [P], 0 text, 1 image
    position_ids: Tensor  # [A, P] int64
    next_position: int  # position of a completion's first token on every axis; each further token adds 1
    vision: VisionInputs | None  # None for a prompt without images


@dataclass(frozen=True, slots=True)
class Prompt:
    """A sample as the model reads it."""

    sample: Sample
    text: str  # rendered prompt, each image as a single placeholder
    encoded: Encoded
    views: tuple[ImageView, ...]  # N
    messages: tuple[tuple[str, str], ...] = ()  # role and text of each message of a chat prompt; empty if base
    answer_in: AnswerIn = "tags"  # where it asks for the answer


@dataclass(frozen=True, slots=True)
class Completion:
    """One sampled answer: ``Completion((12, 7, 2), "<answer>4</answer>", finished=True)`` where 2 is an end token."""

    token_ids: tuple[int, ...]  # [T], no padding; the last one is an end token iff finished
    text: str  # decoded without the end token but with other special tokens
    finished: bool
    log_probs: tuple[float, ...] | None = None  # [T] under the sampling distribution; kept on request


@dataclass(frozen=True, slots=True)
class RolloutGroup:
    prompt: Prompt
    completions: tuple[Completion, ...]  # G
    features: ImageFeatures | None = None  # of all images, if the vision tower is fully frozen; otherwise recomputed


@dataclass(frozen=True, slots=True)
class Reward:
    """``Reward(1.1, {"correct": 1.0, "format": 1.0}, "ok")`` with weights 1 and 0.1."""

    total: float  # weighted sum of the parts
    parts: dict[str, float]  # unweighted
    status: Status
    message: str = ""  # what failed and where, for a timeout or an error
    extras: dict[str, Any] = field(default_factory=dict)  # what reward functions logged of this completion

    @property
    def has_failed(self) -> bool:
        """Whether the completion could not be scored."""
        return self.status in ("timeout", "error")


@dataclass(frozen=True, slots=True)
class ScoredGroup:
    prompt: Prompt
    completions: tuple[Completion, ...]  # G
    rewards: tuple[Reward, ...]  # G
    features: ImageFeatures | None = None  # as in RolloutGroup
    metrics: dict[str, float] = field(default_factory=dict)  # what reward functions logged of the group

    @property
    def has_failure(self) -> bool:
        """Whether some completion could not be scored."""
        return any(reward.has_failed for reward in self.rewards)


GroupLogProbs = tuple[tuple[float, ...], ...]
"""Of every completion token of a group, [G][T], in nats."""


@dataclass(frozen=True, slots=True)
class LogProbs:
    """Log-probs of a group's completion tokens, for the objectives whose coefficients depend on them."""

    current: GroupLogProbs  # under the weights that the step starts from
    old: GroupLogProbs  # under the weights that sampled
    reference: GroupLogProbs  # under the frozen initial policy


@dataclass(frozen=True, slots=True)
class TrainingGroup:
    """A group with the coefficient of each token's log-prob in the loss, before division by the step's denominator."""

    prompt: Prompt
    completions: tuple[Completion, ...]  # G
    coefficients: tuple[tuple[float, ...], ...]  # [G][T]
    features: ImageFeatures | None = None  # as in RolloutGroup


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """The inputs of one forward, and where the log-probs of the completion tokens are.

    A row is one prompt followed by completions of its group, padded on the right. Token m of the M completion tokens
    is ``target_ids[m]``; it is predicted at flat position ``source_index[m]`` of the [R, S] grid.
    """

    input_ids: Tensor  # [R, S] int64
    token_types: Tensor  # [R, S] int64
    position_ids: Tensor  # [A, R, S] int64
    segment_ids: Tensor  # [R, S] int64: 0 prompt, 1.. the row's completions, -1 padding
    vision: VisionInputs | None  # of all images that are not in ``features``
    features: ImageFeatures | None  # in place of ``vision``, if the vision tower is fully frozen
    source_index: Tensor  # [M] int64
    target_ids: Tensor  # [M] int64
    coefficients: Tensor  # [M] float32


@dataclass(frozen=True, slots=True)
class StepTotals:
    """Counts of one optimizer step over all ranks and draws."""

    groups: int  # B, sampled
    sequences: int  # completions of the B groups
    tokens: int  # completion tokens of the B groups
    trained_groups: int  # V, those with signal
    trained_sequences: int  # completions of the V groups that the denominator counts
    trained_tokens: int  # of these completions

    @property
    def alpha(self) -> float:
        """B / V (paper, Eq. 7); 0 if no group is trained."""
        return self.groups / self.trained_groups if self.trained_groups else 0.0


@dataclass(frozen=True, slots=True)
class CollectedGroups:
    """The groups of one optimizer step on this rank."""

    groups: list[ScoredGroup]  # all that were sampled and not dropped
    numbers: list[int]  # the place of each in the order in which all ranks drew
    trained: list[ScoredGroup]  # those that the objective trains
    dropped: list[ScoredGroup]  # with rewards.on_error: drop_group, those with a completion that could not be scored
    totals: StepTotals  # over all ranks
    num_draws: int
    rollout_seconds: float
    scoring_seconds: float


@dataclass(frozen=True, slots=True)
class UpdateStats:
    """One update: ``loss`` and ``kl`` over all ranks, the counts of this rank's passes."""

    loss: float
    num_micro_batches: int
    num_split_rows: int  # rows beyond one per group: prompts that ran again
    num_padded_tokens: int  # tokens of the forward passes, padding included
    tokens_per_micro_batch: int  # the budget, less than the recipe's where memory ran out
    kl: float | None  # mean k3 to the reference over all trained tokens, in nats; None without a reference


@dataclass(frozen=True, slots=True)
class LoggedGroup:
    """The logged part of a scored group: only text and numbers, so that ranks can exchange it."""

    sample_id: str
    task: str
    answer: str
    prompt_text: str
    completions: tuple[Completion, ...]  # G
    rewards: tuple[Reward, ...]  # G
    is_trained: bool
    metrics: dict[str, float] = field(default_factory=dict)  # as in ScoredGroup


@dataclass(frozen=True, slots=True)
class LoggedStep:
    """The logged groups of one step, over all ranks, in rank order."""

    groups: list[LoggedGroup]  # all that were sampled and not dropped
    dropped: list[LoggedGroup]
    totals: StepTotals
    num_draws: int
    rollout_seconds: float
    scoring_seconds: float


def count_tokens(completions: Sequence[Completion]) -> int:
    return sum(len(completion.token_ids) for completion in completions)


THINK_OPENING = "<think>"


_THINK_CLOSING = "</think>"


def completion_text(prompt: Prompt, text: str) -> str:
    """A completion as the tasks read it: with the reasoning that the prompt ends in, open or empty, before it.

    Chat templates of thinking models end in ``<think>`` and a newline, or in an empty block where they are not to
    think. A model that opens its reasoning again needs no other opening.
    """
    return text if text.lstrip().startswith(THINK_OPENING) else _reasoning_at_end(prompt.text) + text


def continue_prompt(prompt_text: str, text: str) -> str:
    """A written completion as the model has to continue the prompt: the reverse of ``completion_text``."""
    given = "".join(_reasoning_at_end(prompt_text).split())
    return text.removeprefix(given)


def _reasoning_at_end(prompt_text: str) -> str:
    """The ``<think>`` that a prompt ends in, with white space after it or closed at once; empty for none."""
    bare = prompt_text.rstrip()
    if bare.endswith(_THINK_CLOSING):
        bare = bare.removesuffix(_THINK_CLOSING).rstrip()
    start = bare.rfind(THINK_OPENING)
    return prompt_text[start:] if start >= 0 and start + len(THINK_OPENING) == len(bare) else ""

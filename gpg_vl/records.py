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
from typing import TYPE_CHECKING, Any, Literal, get_args

if TYPE_CHECKING:
    from torch import Tensor

Box = tuple[float, float, float, float]
"""x1, y1, x2, y2 with the origin at the image's top left; as a model writes it, in the order of its frame."""

Frame = Literal["grid_1000", "grid_1000_y_first", "loc_1024", "unit", "resized_pixels"]
"""How a model writes coordinates: on a 0-1000 grid over the image, also with y before x; as location tokens, y before
x, on a grid of 1024; from 0 to 1, with three decimals; or in pixels of the resized image that it sees."""
Notation = Literal["list", "lists", "bbox_2d", "box_tags"]
"""What a model writes around the numbers of a box (all are read): ``[x1, y1, x2, y2]``; the same in a list, also
where it is one box; ``{"bbox_2d": [x1, y1, x2, y2]}``; or ``<box>x1 y1 x2 y2</box>``."""
_GRIDS: dict[Frame, float] = {"grid_1000": 1000.0, "grid_1000_y_first": 1000.0, "loc_1024": 1024.0, "unit": 1.0}
AnswerIn = Literal["tags", "boxed"]
"""Where the answer of a completion stands: between ``<answer>`` and ``</answer>``, or in the last ``\\boxed{}``."""

Status = Literal["ok", "unparsable", "timeout", "error"]
GroupKind = Literal["easy", "hard", "signal"]
"""signal: the rewards of a group differ. If they are equal: easy from half of the marks on, hard below."""
Rule = Literal["strict", "legacy"]  # the kit's own rules; those of the published code, for parity with it alone


@dataclass(frozen=True, slots=True)
class FrameList:
    """A video as images of its frames."""

    images: tuple[str | bytes, ...]  # as in ``Sample.images``
    fps: float | None = None  # how many there are in a second; None: data.fps


@dataclass(frozen=True, slots=True)
class Sample:
    """One row of data: ``Sample("demo-7", "counting", ("img/7.png",), "How many shapes?", "4")``."""

    id: str  # unique in a run
    task: str  # name of the task that asks and scores
    images: tuple[str | bytes, ...]  # N absolute paths, or the bytes of an image file; opened late
    question: str
    answer: str  # gold answer, without tags; boxes in original pixels
    meta: dict[str, Any] = field(default_factory=dict)  # every other column of the row
    own_columns: dict[str, Any] = field(default_factory=dict, compare=False)
    """Columns that became fields of another name, as the row has them: ``{"ground_truth": 4}``."""
    videos: tuple[str | bytes | FrameList, ...] = ()  # as images: paths, or the bytes of a video file; or frames


@dataclass(frozen=True, slots=True)
class ImageView:
    """The two sizes of one image in pixels, and the frame and the notation of its model's boxes.

    A box of the 0-1000 grid, back in a 640 x 480 original: ``ImageView(640, 480, 644, 476, "grid_1000").to_original(
    (0, 0, 500, 1000))`` is ``(0, 0, 320, 480)``.
    """

    width: int
    height: int
    model_width: int
    model_height: int
    frame: Frame | None  # None: the family documents none, and the recipe sets none
    notation: Notation = field(default="list", kw_only=True)

    @property
    def is_y_first(self) -> bool:
        """Whether the model writes y before x."""
        return self.known_frame() in ("grid_1000_y_first", "loc_1024")

    def known_frame(self) -> Frame:
        """
        Raises:
            ValueError: the frame is not known
        """
        if self.frame is None:
            raise ValueError(
                "the model's family documents no way to write coordinates; set model.frame to the one that the model "
                f"was trained with: {', '.join(get_args(Frame))}"
            )
        return self.frame

    def _frame_size(self) -> tuple[float, float]:
        grid = _GRIDS.get(self.known_frame())
        return (self.model_width, self.model_height) if grid is None else (grid, grid)

    def _in_order(self, box: Box) -> Box:
        """From x first to the order in which the model writes, and back."""
        x1, y1, x2, y2 = box
        return (y1, x1, y2, x2) if self.is_y_first else box

    def to_original(self, box: Box) -> Box:
        """Converts a box as the model writes it to one of original pixels."""
        w, h = self._frame_size()
        x1, y1, x2, y2 = self._in_order(box)
        return (x1 * self.width / w, y1 * self.height / h, x2 * self.width / w, y2 * self.height / h)

    def to_model(self, box: Box) -> Box:
        """Converts a box of original pixels to one as the model writes it."""
        w, h = self._frame_size()
        x1, y1, x2, y2 = box
        return self._in_order((x1 * w / self.width, y1 * h / self.height, x2 * w / self.width, y2 * h / self.height))


@dataclass(frozen=True, slots=True)
class FrameTimes:
    """Which frames of a video the model sees."""

    numbers: tuple[int, ...]  # of these frames among all of the video, from 0
    num_frames: int  # of the video
    fps: float  # of the video, on average

    @property
    def seconds(self) -> tuple[float, ...]:
        """When each of these frames is shown, counted from the start of the video."""
        return tuple(number / self.fps for number in self.numbers)


@dataclass(frozen=True, slots=True)
class VideoView(ImageView):
    """The sizes of a video's frames, and when they are shown: ``view.times.seconds``."""

    times: FrameTimes


@dataclass(frozen=True, slots=True)
class VisionInputs:
    """A vision tower's inputs for some images and videos. Only the model's own adapter looks into the tensors."""

    tensors: Mapping[str, Tensor]  # named like arguments of the model's forward
    num_patches: int  # decides the tower's work and memory
    num_tokens: int  # image tokens that the features replace
    order: tuple[tuple[bool, int], ...] = ()
    """Of each image and video in the prompt's order whether it is a video, and its tokens; empty if all are images."""


@dataclass(frozen=True, slots=True)
class ImageFeatures:
    """A vision tower's output for some images: [I, H] for the input embeddings, then for each deeper level, if any."""

    levels: tuple[Tensor, ...]


@dataclass(frozen=True, slots=True)
class Encoded:
    """A prompt as input of the model's forward. The vision inputs are those of this prompt alone."""

    token_ids: tuple[int, ...]  # [P], image placeholders expanded
    token_types: tuple[int, ...]  # [P], 0 text, 1 image, 2 video where the family tells them apart
    position_ids: Tensor  # [A, P] int64
    next_position: int  # position of a completion's first token on every axis; each further token adds 1
    vision: VisionInputs | None  # None for a prompt without images


@dataclass(frozen=True, slots=True)
class Prompt:
    """A sample as the model reads it."""

    sample: Sample
    text: str  # rendered prompt, each image and video as a single placeholder
    encoded: Encoded
    views: tuple[ImageView, ...]  # N, then one of each video
    messages: tuple[tuple[str, str], ...] = ()  # role and text of each message of a chat prompt; empty if base
    answer_in: AnswerIn = "tags"  # where it asks for the answer
    pictures: tuple[Any, ...] = ()  # its PIL images in the sizes that the model sees, for engines that take pixels


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
    """``Reward(1.1, {"correct": 1.0, "format": 1.0}, "ok", main=1.0)`` with weights 1 and 0.1."""

    total: float  # weighted sum of the parts
    parts: dict[str, float]  # unweighted
    status: Status
    message: str = ""  # what failed and where, for a timeout or an error
    extras: dict[str, Any] = field(default_factory=dict)  # what reward functions logged of this completion
    main: float | None = None  # the task's main part; None where that has no weight, or reward functions count too

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


GroupLogProbs = tuple[tuple[float, ...], ...]  # of every completion token of a group, [G][T], in nats


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

    A row is one prompt followed by completions of its group, or several of these one after the other, or a prompt and
    one completion where nothing is packed; it is padded on the right. Token m of the M completion tokens is
    ``target_ids[m]``; it is predicted at flat position ``source_index[m]`` of the [R, S] grid.
    """

    input_ids: Tensor  # [R, S] int64
    token_types: Tensor  # [R, S] int64
    position_ids: Tensor  # [A, R, S] int64
    segment_ids: Tensor  # [R, S] int64: 0 prompt, 1.. the row's completions, -1 padding; see models/packed/segments.py
    vision: VisionInputs | None  # of all images that are not in ``features``
    features: ImageFeatures | None  # in place of ``vision``, if the vision tower is fully frozen
    source_index: Tensor  # [M] int64
    target_ids: Tensor  # [M] int64
    coefficients: Tensor  # [M] float32
    is_packed: bool = True  # False: ordinary rows, for which the model makes its own masks
    feature_index: Tensor | None = None  # [I] of ordinary rows: the place of each image token in the features of vision


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
    staleness: int = 0  # steps between the weights that sampled the first draw and those that are trained


@dataclass(frozen=True, slots=True)
class UpdateStats:
    """One update: ``loss`` and ``kl`` over all ranks, the counts of this rank's passes."""

    loss: float
    num_micro_batches: int
    num_split_rows: int  # prompts that ran again, for a part of a group that was split
    num_padded_tokens: int  # tokens of the forward passes, padding included
    tokens_per_micro_batch: int  # the budget, less than the recipe's where memory ran out
    kl: float | None  # mean k3 to the reference over all trained tokens, in nats; None without a reference
    entropy: float | None  # mean -log-prob of all trained tokens, in nats; None for gold completions
    log_prob_gap: float | None = None  # mean distance from the log-probs of the rollout, in nats; see docs/metrics.md
    largest_log_prob_gap: float | None = None
    rollout_kl: float | None = None  # of the policy that sampled to this one, estimated by k3 on the same tokens


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
    kind: GroupKind
    num_answers: int  # different ones, as they were read; completions without a readable place for one count as one
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
    staleness: int = 0  # see CollectedGroups


def count_tokens(completions: Sequence[Completion]) -> int:
    return sum(len(completion.token_ids) for completion in completions)

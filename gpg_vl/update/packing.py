"""TrainingGroup -> MicroBatch: a group has its prompt and images once, followed by its completions.

A group in a row: ``[prompt, c_1, .., c_G]``. Every completion sees the prompt and itself, and its positions continue
from the end of the prompt, so the log-probs and gradients equal those of G separate rows. The groups of a micro-batch
follow one another in one row without padding between them, or have a row each where the model needs it; behind them, a
row may be padded to whole blocks (``Adapter.row_block``). The last token of a completion is predicted but never read,
so it is left out of the input. A group too long for the budget is split between completions; its parts are rows that
run their prompt again, or passes that run behind it (``kept_prompts.py``).

With ``update.pack: false`` a group is G ordinary rows ``[prompt, c_g]``: the prompt is repeated, its images are encoded
once per micro-batch, and no mask is the kit's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gpg_vl.config import UpdateConfig
from gpg_vl.models.adapter import Adapter
from gpg_vl.models.inputs.vision_records import join_features
from gpg_vl.models.packed.segments import GROUP
from gpg_vl.records import Completion, Encoded, ImageFeatures, MicroBatch, TrainingGroup, VisionInputs


@dataclass(frozen=True, slots=True)
class PackedRow:
    """A prompt with all or some completions of its group."""

    sample_id: str
    encoded: Encoded
    completions: tuple[Completion, ...]
    coefficients: tuple[tuple[float, ...], ...]
    features: ImageFeatures | None = None
    is_packed: bool = True  # False: an ordinary row, one of several that repeat the prompt
    parts_left: int | None = None  # of its group behind this one, if all of them run behind one prompt

    @property
    def num_tokens(self) -> int:
        return len(self.encoded.token_ids) + sum(_input_length(c) for c in self.completions)

    @property
    def num_patches(self) -> int:
        """Number of patches that the vision tower processes for this row."""
        vision = self.encoded.vision
        return 0 if vision is None or self.features is not None else vision.num_patches


def _input_length(completion: Completion) -> int:
    return len(completion.token_ids) - 1


def shortest_budget(group: TrainingGroup) -> int:
    """Smallest token budget that the group can be split to fit: the prompt and its longest completion."""
    return len(group.prompt.encoded.token_ids) + max(_input_length(completion) for completion in group.completions)


def split_into_rows(
    group: TrainingGroup, max_tokens: int, pack: bool = True, keeps_prompts: bool = False
) -> list[PackedRow]:
    """One row per group, or several where it exceeds ``max_tokens``.

    Args:
        pack: False: one ordinary row per completion
        keeps_prompts: the prompt runs once for all rows, else once per row

    Raises:
        ValueError: the prompt and one completion alone exceed ``max_tokens``
    """
    prompt_length = len(group.prompt.encoded.token_ids)
    parts: list[list[int]] = [[]]
    used = prompt_length
    for index, completion in enumerate(group.completions):
        length = _input_length(completion)
        if prompt_length + length > max_tokens:
            raise ValueError(
                f"sample {group.prompt.sample.id}: prompt and completion take {prompt_length + length} tokens, over "
                f"update.tokens_per_micro_batch={max_tokens}; raise it"
            )
        if parts[-1] and (not pack or used + length > max_tokens):
            parts.append([])
            used = prompt_length
        parts[-1].append(index)
        used += length
    return [
        PackedRow(
            group.prompt.sample.id,
            group.prompt.encoded,
            tuple(group.completions[i] for i in part),
            tuple(group.coefficients[i] for i in part),
            group.features,
            pack,
            len(parts) - number if keeps_prompts and len(parts) > 1 else None,
        )
        for number, part in enumerate(parts, start=1)
    ]


def plan_micro_batches(
    groups: Sequence[TrainingGroup],
    max_tokens: int,
    max_patches: int,
    pack: bool = True,
    keeps_prompts: bool = False,
    joins_groups: bool = False,
    block: int = 1,
) -> list[list[PackedRow]]:
    """Batches rows of similar length, within ``max_tokens`` padded tokens and ``max_patches`` vision patches.

    Padding to a multiple of ``block`` exceeds ``max_tokens`` only where a prompt with one completion comes that close.
    A single row may exceed ``max_patches``, since an image cannot be split. The largest micro-batch comes first, so
    that a budget that is too large fails at once. Ordinary rows of one prompt stay together, as they share its images.
    With ``keeps_prompts``, the parts of a group follow one another, each a micro-batch; such groups come before others.
    """
    in_blocks = max_tokens // block * block
    budgets = [max(in_blocks, min(shortest_budget(group), max_tokens)) for group in groups]
    by_group = [split_into_rows(group, n, pack, keeps_prompts) for group, n in zip(groups, budgets, strict=True)]
    in_parts = [rows for rows in by_group if rows[0].parts_left is not None]
    by_group = [rows for rows in by_group if rows[0].parts_left is None]
    if not pack:
        by_group.sort(key=lambda rows: max(row.num_tokens for row in rows), reverse=True)
    rows = [row for of_group in by_group for row in of_group]
    if pack:
        rows.sort(key=lambda row: row.num_tokens, reverse=True)
    batches: list[list[PackedRow]] = []
    for row in rows:
        together = [*batches[-1], row] if batches else [row]
        if not batches or _num_tokens(together, joins_groups) > in_blocks or num_patches(together) > max_patches:
            batches.append([])
        batches[-1].append(row)
    batches.sort(key=lambda rows: _num_tokens(rows, joins_groups) + num_patches(rows), reverse=True)
    in_parts.sort(key=lambda parts: max(part.num_tokens + part.num_patches for part in parts), reverse=True)
    return [[part] for parts in in_parts for part in parts] + batches


def plan_update(
    groups: Sequence[TrainingGroup], config: UpdateConfig, adapter: Adapter, keeps_prompts: bool = False
) -> list[list[PackedRow]]:
    """The micro-batches of a recipe's update."""
    tokens, patches, pack = config.tokens_per_micro_batch, config.patches_per_micro_batch, config.pack
    joins, block = pack and adapter.joins_groups, adapter.row_block(tokens) if pack else 1
    return plan_micro_batches(groups, tokens, patches, pack, pack and keeps_prompts, joins, block)


def _num_tokens(rows: Sequence[PackedRow], joins_groups: bool) -> int:
    """Of their micro-batch, padding included."""
    lengths = [row.num_tokens for row in rows]
    return sum(lengths) if joins_groups else len(rows) * max(lengths)


def num_patches(rows: Sequence[PackedRow]) -> int:
    """Patches that the tower processes: once per row, or per prompt where rows repeat it."""
    return sum({id(row if row.is_packed else row.encoded): row.num_patches for row in rows}.values())


def build_micro_batch(rows: Sequence[PackedRow], adapter: Adapter) -> MicroBatch:
    """Joins the rows or pads them on the right, and records where each completion token is predicted."""
    starts, shape = place_rows(rows, adapter)
    input_ids = torch.full(shape, adapter.pad_token_id)
    token_types = torch.zeros(shape, dtype=torch.long)
    segment_ids = torch.full(shape, -1)
    position_ids = torch.zeros((len(rows[0].encoded.position_ids), *shape), dtype=torch.long)
    sources: list[int] = []
    for number, (start, row) in enumerate(zip(starts, rows, strict=True)):
        r, first = divmod(start, shape[1])
        places = slice(first, first + row.num_tokens)
        ids, segments = _lay_out(row)
        input_ids[r, places] = torch.tensor(ids)
        segment_ids[r, places] = torch.tensor(segments) + (number - r) * GROUP  # by the groups before it in the row
        token_types[r, first : first + len(row.encoded.token_types)] = torch.tensor(row.encoded.token_types)
        position_ids[:, r, places] = _positions(row)
        sources += [start + s for s in _source_positions(row)]
    return MicroBatch(
        input_ids=input_ids,
        token_types=token_types,
        position_ids=position_ids,
        segment_ids=segment_ids,
        vision=_join_vision(rows, adapter),
        features=_join_features(rows),
        feature_index=_index_features(rows),
        source_index=torch.tensor(sources),
        target_ids=torch.tensor([t for row in rows for c in row.completions for t in c.token_ids]),
        coefficients=torch.tensor([x for row in rows for c in row.coefficients for x in c], dtype=torch.float32),
        is_packed=all(row.is_packed for row in rows),
    )


def place_rows(rows: Sequence[PackedRow], adapter: Adapter) -> tuple[list[int], tuple[int, int]]:
    """Where each row's first token is in the micro-batch, counted row after row, and its shape [R, S]."""
    lengths = [row.num_tokens for row in rows]
    if adapter.joins_groups and all(row.is_packed for row in rows):
        block = adapter.row_block(sum(lengths))
        return [sum(lengths[:n]) for n in range(len(rows))], (1, -(-sum(lengths) // block) * block)
    longest = max(lengths)
    return [n * longest for n in range(len(rows))], (len(rows), longest)


def _lay_out(row: PackedRow) -> tuple[list[int], list[int]]:
    """Input tokens and segment ids of a row."""
    ids = list(row.encoded.token_ids)
    segments = [0] * len(ids)
    for number, completion in enumerate(row.completions, start=1):
        ids += completion.token_ids[:-1]
        segments += [number] * _input_length(completion)
    return ids, segments


def _positions(row: PackedRow) -> Tensor:
    """Positions [A, row length]; every completion starts right after the prompt."""
    of_prompt, start = row.encoded.position_ids, row.encoded.next_position
    tails = [start + torch.arange(_input_length(c)).expand(len(of_prompt), -1) for c in row.completions]
    return torch.cat([of_prompt, *tails], dim=1)


def _source_positions(row: PackedRow) -> list[int]:
    """Position in the row that predicts each completion token; the prompt's last token predicts the first."""
    last = len(row.encoded.token_ids) - 1
    sources: list[int] = []
    start = last + 1
    for completion in row.completions:
        length = _input_length(completion)
        sources += [last, *range(start, start + length)]
        start += length
    return sources


def _encoded_once(rows: Sequence[PackedRow]) -> list[tuple[int, VisionInputs]]:
    """The vision inputs that the tower reads: of each row, or of each prompt where rows repeat it."""
    seen = {
        id(row if row.is_packed else row.encoded): row.encoded.vision
        for row in rows
        if row.features is None and row.encoded.vision is not None
    }
    return [(key, vision) for key, vision in seen.items() if vision is not None]


def _join_vision(rows: Sequence[PackedRow], adapter: Adapter) -> VisionInputs | None:
    parts = [vision for _, vision in _encoded_once(rows)]
    return adapter.join_vision(parts) if parts else None


def _join_features(rows: Sequence[PackedRow]) -> ImageFeatures | None:
    parts = [row.features for row in rows if row.features is not None]
    return join_features(parts) if parts else None


def _index_features(rows: Sequence[PackedRow]) -> Tensor | None:
    """For every image token of ordinary rows, which feature of the images that are encoded once it takes."""
    encoded = _encoded_once(rows)
    if all(row.is_packed for row in rows) or not encoded:
        return None
    places: dict[int, Tensor] = {}
    start = 0
    for key, vision in encoded:
        places[key] = torch.arange(start, start + vision.num_tokens)
        start += vision.num_tokens
    keys = [id(row if row.is_packed else row.encoded) for row in rows]
    return torch.cat([places[key] for key in keys if key in places])

"""A group longer than a micro-batch: its prompt runs once, before its first part, and every part runs behind it.

The prompt's graph stays until the last part has gone back; then it goes back itself, once, from the summed gradients of
its keys and values. So a pass holds the prompt and a part, as if the prompt had run again with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from gpg_vl.models.adapter import Adapter
from gpg_vl.models.packed.kept_prompt_keys import Kept, KeptKeys, KeptPrompt
from gpg_vl.records import MicroBatch
from gpg_vl.update.packing import PackedRow, build_micro_batch
from gpg_vl.update.policy import move_to, packed_states


class KeptPrompts:
    """The prompt of the group whose parts are running, one group after the other."""

    def __init__(self, adapter: Adapter):
        self._adapter = adapter
        self._kept: KeptPrompt | None = None
        self.num_tokens = 0
        """Of the prompts that have run."""

    def before(self, rows: Sequence[PackedRow]) -> KeptPrompt | None:
        """The prompt that the rows of a pass run behind; None if they run their own."""
        if rows[0].parts_left is None:
            return None
        if self._kept is None:
            with self._adapter.autocast():
                self._kept = run_prompt(self._adapter, rows[0])
            self.num_tokens += len(rows[0].encoded.token_ids)
        return self._kept

    def after(self, rows: Sequence[PackedRow]) -> None:
        """Behind a pass and its backward pass: that of their prompt, if no other part of its group is left."""
        if self._kept is not None and not rows[0].parts_left:
            self._kept.backward()
            self._kept = None


def run_prompt(adapter: Adapter, row: PackedRow) -> KeptPrompt:
    """The forward of a row's prompt, images included."""
    built = build_micro_batch([replace(row, completions=(), coefficients=())], adapter)
    alone = replace(_cut(built, slice(len(row.encoded.token_ids))), is_packed=False)
    keys = KeptKeys()
    # an ordinary row: the model's own causal mask
    states = packed_states(adapter, move_to(alone, adapter.device), keys)
    return KeptPrompt(keys, Kept.of(states[0, -1:]))


def build_part(row: PackedRow, adapter: Adapter) -> MicroBatch:
    """The micro-batch of a row behind its prompt: the completions' tokens, and the segment ids of all.

    ``source_index`` counts from the prompt's last token.
    """
    text = replace(row, encoded=replace(row.encoded, vision=None), features=None)
    batch, length = build_micro_batch([text], adapter), len(row.encoded.token_ids)
    return replace(_cut(batch, slice(length, None)), source_index=batch.source_index - (length - 1))


def _cut(batch: MicroBatch, places: slice) -> MicroBatch:
    """Those tokens of its row, with the segment ids of all."""
    return replace(
        batch,
        input_ids=batch.input_ids[:, places],
        token_types=batch.token_types[:, places],
        position_ids=batch.position_ids[:, :, places],
    )

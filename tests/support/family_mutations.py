"""What can go wrong in a family's packed rows; each function breaks the kit by a monkeypatch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from gpg_vl.update.packing import PackedRow


def positions_start_late(patch: Any) -> None:
    """One position after the prompt is left free."""
    from gpg_vl.update import packing

    right = packing._positions

    def late(row: PackedRow) -> Tensor:
        positions, length = right(row).clone(), len(row.encoded.token_ids)
        positions[:, length:] += 1
        return positions

    patch.setattr(packing, "_positions", late)


def one_mask(patch: Any) -> None:
    """Completions see the earlier ones of their group."""
    from gpg_vl.models.packed import attention, attention_choice
    from gpg_vl.models.packed.segments import prompt_of

    def causal(segment_ids: Tensor) -> Tensor:
        return attention.visible_keys(prompt_of(segment_ids))

    patch.setattr(attention_choice, "visible_keys", causal)
    patch.setattr(attention_choice.PackedAttention, "_packed", lambda *_: "sdpa")


def one_group(patch: Any) -> None:
    """The document mask leaks: tokens see the prompts of earlier groups in their row."""
    from gpg_vl.models.packed import attention, attention_choice
    from gpg_vl.models.packed.segments import GROUP

    def leaking(segment_ids: Tensor) -> Tensor:
        keys, causal = segment_ids[:, None], attention.visible_keys(torch.zeros_like(segment_ids))
        return causal & ((keys % GROUP == 0) | (keys == segment_ids[:, :, None]))

    patch.setattr(attention_choice, "visible_keys", leaking)
    patch.setattr(attention_choice.PackedAttention, "_packed", lambda *_: "sdpa")


def no_depths(patch: Any) -> None:
    """The features of the deeper levels are dropped."""
    from gpg_vl.models.families.qwen3_vl import Qwen3VLAdapter
    from gpg_vl.models.families.qwen_vl import QwenVLAdapter

    patch.setattr(Qwen3VLAdapter, "_embed", QwenVLAdapter._embed)


def not_regrouped(patch: Any) -> None:
    """Recurrent layers read the completions of a packed row one behind the other."""
    from gpg_vl.models.families import recurrent

    patch.setattr(recurrent, "regroup_rows", lambda segment_ids: None)


def state_of_another(patch: Any) -> None:
    """States are not expanded to the completions: all start from the first prompt's."""
    from gpg_vl.models.packed.recurrent_layers import StatesInGraph

    expand = StatesInGraph.expand
    patch.setattr(StatesInGraph, "expand", lambda states, rows: expand(states, torch.zeros_like(rows)))


def padding_in_state(patch: Any) -> None:
    """The padding of shorter prompts is read as tokens."""
    from gpg_vl.models.families import recurrent

    regroup_rows = recurrent.regroup_rows
    patch.setattr(recurrent, "regroup_rows", lambda segment_ids: replace(regroup_rows(segment_ids), real=None))


def images_swapped(patch: Any) -> None:
    """Each prompt has the images of another."""
    from gpg_vl.update import packing

    def swapped(rows: Sequence[PackedRow], adapter: Any) -> Any:
        parts = [row.encoded.vision for row in reversed(rows) if row.encoded.vision is not None]
        return adapter.join_vision(parts)

    patch.setattr(packing, "_join_vision", swapped)

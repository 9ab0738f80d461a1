"""How many bytes a rank holds of weights, gradients and optimizer in each layout, before any row runs.

Without sharding a bfloat16 model has weights of two bytes, and trained ones a float32 master besides; else all weights
are float32 (docs/cluster.md). FSDP2 gathers a block at a time in the compute type, and for a whole pass what lies
outside of the blocks; with CPU offload the shards are in the host's memory. Under ZeRO a rank keeps a second float32
copy of its share, and DeepSpeed has buffers of the sizes that its defaults name.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from gpg_vl.config import ModelConfig
from gpg_vl.models.weights.four_bit import BYTES as FOUR_BITS
from gpg_vl.processes.sharding import LayoutName, Sharding

LAYOUTS: tuple[LayoutName, ...] = (
    "none", "hsdp", "fsdp", "zero1", "zero2", "zero3", "fsdp_offload", "zero3_offload",
)  # fmt: skip
"""In the order in which they are tried."""
SHARDED_GRADIENTS = ("fsdp", "hsdp", "fsdp_offload", "zero2", "zero3", "zero3_offload")
"""Their update ends where memory runs out; in the others it restarts with half the budget."""

FLOAT = 4
ROUNDED = 2
"""Bytes of a number, in float32 and in bfloat16."""
CARDS_PER_MACHINE = 8
"""Where nothing else is said."""
_BUCKET = 5 * 10**8  # numbers: reduce_bucket_size and allgather_bucket_size of DeepSpeed
_LIVE = 10**9  # numbers: stage3_max_live_parameters


@dataclass(frozen=True, slots=True)
class Size:
    """Of a model: numbers of weights."""

    weights: int
    trained: int
    largest: int  # of its largest tensor that is trained
    block: int  # of its largest block, of text or vision
    outside: int  # of all that is in no block
    lent: int = 0  # of frozen layers that the self-check widens one at a time
    largest_lent: int = 0  # of the largest of these layers
    shared_lent: int = 0  # the same where ranks share weights, with trained layers
    largest_shared_lent: int = 0
    quantized: int = 0  # of weights in 4 bits, which are no lent ones
    largest_quantized: int = 0  # of the largest of these, which is there in full while its layer runs
    cast: int = 0  # of weights that autocast casts in each call


@dataclass(frozen=True, slots=True)
class StateBytes:
    """Bytes of a rank."""

    weights: int
    gradients: int  # where a layout shards them; elsewhere they grow during the first pass
    optimizer: int
    buffers: int  # in the update
    gathered: int  # in the rollout
    step: int  # in the optimizer step, on top
    host: int  # of the machine's memory


def rounds_weights(layout: LayoutName, config: ModelConfig) -> bool:
    """Whether the model computes in bfloat16 weights, as ``Adapter.round_weights`` makes them or FSDP2 gathers them."""
    return Sharding(layout).computes_rounded and config.dtype == "bfloat16"


def num_sharing(layout: LayoutName, num_ranks: int, of_machine: int = CARDS_PER_MACHINE) -> int:
    """Ranks over which something is shared; HSDP has as many sets of shards as machines."""
    return {"none": 1, "hsdp": min(num_ranks, of_machine)}.get(layout, num_ranks)


def state_of(
    layout: LayoutName,
    size: Size,
    num_ranks: int,
    optimizer: str = "adamw",
    *,
    is_rounded: bool = False,
    of_machine: int = CARDS_PER_MACHINE,
) -> StateBytes:
    """
    Args:
        num_ranks: GPUs
        of_machine: GPUs of each machine
        optimizer: ``update.optimizer``
        is_rounded: see ``rounds_weights``
    """
    if Sharding(layout).is_fsdp:
        state = _state_of_fsdp(size, num_sharing(layout, num_ranks, of_machine), ROUNDED if is_rounded else FLOAT)
        return _offloaded(state, size) if Sharding(layout).keeps_shards_on_host else state
    share = -(-size.trained // num_ranks)
    moments = (2 if optimizer == "adamw_8bit" else 2 * FLOAT) * (size.trained if layout == "none" else share)
    copy = 0 if layout == "none" else FLOAT * share
    step = 2 * FLOAT * size.largest
    bucket = FLOAT * min(_BUCKET, size.trained)
    if layout in ("none", "zero1"):
        buffers = bucket if layout == "zero1" else 0
        width = ROUNDED if is_rounded else FLOAT
        weights = width * (size.weights - size.quantized) + round(FOUR_BITS * size.quantized)
        weights += FLOAT * size.trained if is_rounded else 0
        return StateBytes(weights, FLOAT * size.trained, moments + copy, buffers, 0, step, 0)
    if layout == "zero2":
        return StateBytes(FLOAT * size.weights, FLOAT * share, moments + copy, 2 * bucket, 0, step, 0)
    live = 2 * FLOAT * min(_LIVE, size.weights)
    weights = FLOAT * -(-size.weights // num_ranks)
    gathered = gathered_bytes(layout, size, FLOAT)
    if layout == "zero3":
        return StateBytes(weights, FLOAT * share, moments + copy, live, gathered, step, 0)
    return StateBytes(weights, FLOAT * share, 0, live, gathered, 0, moments + copy)


def gathered_bytes(layout: LayoutName, size: Size, width: int) -> int:
    """Of the weights that a rank gathers for a rollout: under ZeRO-3, those that autocast would cast are cast before.

    Args:
        width: bytes of a weight that is gathered for a pass
    """
    return width * size.weights - (FLOAT - ROUNDED) * size.cast if layout.startswith("zero3") else width * size.weights


def _state_of_fsdp(size: Size, num_ranks: int, width: int) -> StateBytes:
    """
    Args:
        width: bytes of a weight in the compute type
    """
    share = -(-size.trained // num_ranks)
    passing = size.outside + 2 * size.block  # the next block is gathered while one runs
    trained = passing * size.trained // size.weights
    # gathered weights, their gradients, and one group's in float32, on their way to the ranks
    buffers = width * (passing + trained) + FLOAT * min(trained, max(size.outside, size.block))
    step = 2 * FLOAT * -(-size.largest // num_ranks)
    weights, gathered = FLOAT * -(-size.weights // num_ranks), gathered_bytes("fsdp", size, width)
    return StateBytes(weights, FLOAT * share, 2 * FLOAT * share, buffers, gathered, step, 0)


def _offloaded(state: StateBytes, size: Size) -> StateBytes:
    """The shards on the host; a block's are copied to the card on their way to the other ranks."""
    host = state.weights + state.gradients + state.optimizer
    on_the_way = state.weights * max(size.outside, size.block) // size.weights
    return replace(state, weights=0, gradients=0, optimizer=0, step=0, buffers=state.buffers + on_the_way, host=host)

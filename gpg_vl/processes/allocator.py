"""How torch's allocator keeps the memory of a GPU: blocks that grow, so that freed ones of other sizes are not lost.

Rows of changing lengths leave gaps between blocks of fixed size, and memory runs out while much of it is free.
"""

from __future__ import annotations

import os

from gpg_vl.config import RolloutConfig

_NAMES = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF")
"""The second is the new name of the first, which torch 2.11 still reads."""


def let_blocks_grow(rollout: RolloutConfig) -> None:
    """Read when CUDA is first used. A setting of the user's own stays as it is.

    Not beside a colocated vLLM, which gives its memory back while it sleeps: versions of it refuse such blocks.
    """
    is_colocated = rollout.engine == "vllm" and rollout.vllm.mode == "colocate"
    if not is_colocated and not any(name in os.environ for name in _NAMES):
        os.environ[_NAMES[0]] = "expandable_segments:True"

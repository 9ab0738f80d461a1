"""``python rank_loading.py FOLDER TINY``, on each of several ranks: loads and shards a policy when told to.

Says a word on standard output and waits for a line on standard input: ``ready`` once the process has all that it needs
beside the model, ``loaded`` with its share of the weights. Before, it has done the same with another model, ``TINY``:
libraries are imported as they are needed.
"""

from __future__ import annotations

import gc
import sys

import torch
from accelerate import Accelerator

from gpg_vl.config import LoraConfig, ModelConfig
from gpg_vl.processes.ranks import end_ranks
from gpg_vl.processes.sharding import sharding_of
from gpg_vl.processes.start import start_ranks
from gpg_vl.update.fsdp import shard_policy
from gpg_vl.update.handing_out import hand_out, load_policy
from gpg_vl.update.policy import PolicyForward
from gpg_vl.update.zero3 import share_out


def pause(word: str) -> None:
    gc.collect()
    sys.stdout.write(word + "\n")
    sys.stdout.flush()
    sys.stdin.readline()


def main() -> None:
    accelerator = start_ranks(on_cpu=True)
    folder, tiny = sys.argv[1:]
    load(tiny, accelerator)
    pause("ready")
    forward = load(folder, accelerator)
    pause("loaded")
    assert forward.is_sharded or not sharding_of(accelerator).is_fsdp
    end_ranks()


def load(folder: str, accelerator: Accelerator) -> PolicyForward:
    """An adapter, so that unsharded ranks have bfloat16 weights alone; all weights where they are sharded."""
    is_whole = sharding_of(accelerator).keeps_whole_weights
    config = ModelConfig(path=folder, lora=LoraConfig(r=1) if is_whole else None)
    forward = PolicyForward(load_policy(config, accelerator), 1.0)
    if is_whole:
        hand_out(forward.adapter, accelerator)
        forward.adapter.round_weights()
    shard_policy(accelerator, forward)
    share_out(accelerator, forward)
    torch.distributed.barrier()
    return forward


if __name__ == "__main__":
    main()

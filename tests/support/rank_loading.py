"""``python rank_loading.py FOLDER``, on each of several ranks: loads and shards a policy when told to.

Says a word on standard output and waits for a line on standard input: ``ready`` once the process has all that it needs
beside the model, ``loaded`` with its share of the weights. ``FOLDER`` is read once before, without weights.
"""

from __future__ import annotations

import gc
import sys

import torch

from gpg_vl.config import ModelConfig
from gpg_vl.models import load_adapter
from gpg_vl.processes.ranks import end_ranks
from gpg_vl.processes.start import start_ranks
from gpg_vl.update.fsdp import load_policy, shard_policy
from gpg_vl.update.policy import PolicyForward


def pause(word: str) -> None:
    gc.collect()
    sys.stdout.write(word + "\n")
    sys.stdout.flush()
    sys.stdin.readline()


def main() -> None:
    accelerator = start_ranks(on_cpu=True)
    config = ModelConfig(path=sys.argv[1])
    load_adapter(config, with_values=False)
    torch.distributed.barrier()
    pause("ready")
    forward = PolicyForward(load_policy(config, accelerator), 1.0)
    shard_policy(accelerator, forward)
    pause("loaded")
    end_ranks()


if __name__ == "__main__":
    main()

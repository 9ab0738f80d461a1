"""The demo's GPG run through a vLLM server (``make test-vllm``): its rewards rise as with the engine ``hf``.

The server was started with another model of the same family; it gets the weights of the run.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from gpg_vl import cli
from gpg_vl.rollout.served.parity import MAX_GAP
from gpg_vl.run.run_log import read_metrics
from tests.support.vllm_servers import ROOT, Server

pytestmark = pytest.mark.vllm
STEPS_COMPARED = 10
LEAST_SHARE = 0.7  # of the gain of hf: the noise is another one


def load_quickstart() -> Any:
    spec = importlib.util.spec_from_file_location("quickstart", ROOT / "scripts/quickstart.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def gain(run: Path) -> float:
    """Of the mean reward, from the first steps to the last ones."""
    rewards = [row["reward"] for row in read_metrics(run) if "reward" in row]
    first, last = rewards[:STEPS_COMPARED], rewards[-STEPS_COMPARED:]
    return sum(last) / len(last) - sum(first) / len(first)


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("seed", [0, 1])
def test_rewards_rise_as_with_hf(tmp_path: Path, vllm_server: Server, seed: int) -> None:
    quickstart = load_quickstart()
    quickstart.draw_data(tmp_path / "data")
    assert cli.main(["tiny-model", str(tmp_path / "tiny-model"), "--seed", str(seed)]) == 0

    def train(name: str, out: str, *words: str) -> None:
        recipe = quickstart.RECIPES / name
        moved = [
            each.replace(str(tmp_path / "gpg"), str(tmp_path / out)) for each in quickstart.moved_to(tmp_path, recipe)
        ]
        assert cli.main(["train", str(recipe), "--run.seed", str(seed), *moved, *words]) == 0

    train("quickstart-warmup.yaml", "warm-start")
    train("quickstart.yaml", "hf")
    words = ["--rollout.vllm.servers", f'["{vllm_server.url}"]', "--rollout.vllm.weights", str(vllm_server.weights)]
    train("quickstart.yaml", "vllm", "--rollout.engine", "vllm", *words)
    gains = {name: gain(tmp_path / name) for name in ("hf", "vllm")}
    print(f"seed {seed}: gain in reward {gains}")
    assert gains["vllm"] > LEAST_SHARE * gains["hf"] > 0
    gaps = [row["update"]["largest_log_prob_gap"] for row in read_metrics(tmp_path / "vllm") if row["update"]]
    assert max(gaps) < MAX_GAP["float32"]

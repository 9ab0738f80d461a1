"""The list of engines: what names one, and what names none; and when ``hf`` tells of a group."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gpg_vl import cli
from gpg_vl.config import RolloutConfig
from gpg_vl.models.qwen_vl import QwenVLAdapter
from gpg_vl.rollout import ENGINES, build_engine
from gpg_vl.rollout.engine import Sampling
from gpg_vl.rollout.hf import HfEngine
from tests.support.builders import make_lively, make_prompt, make_sample
from tests.support.messages import lines_naming

SIZES = ([(84, 84)], [], [(140, 56), (56, 84)], [(84, 168)], [(56, 56)])


def test_an_engine_is_found_by_its_name(load: Any) -> None:
    assert RolloutConfig().engine in ENGINES
    assert isinstance(build_engine(RolloutConfig(), load()), HfEngine)


def test_an_unknown_engine_is_refused_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """There is no model and no data either."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.yaml").write_text(
        "{model: {path: ./none}, task: counting, data: {train: [none.jsonl]}, rollout: {engine: hv}}"
    )
    assert cli.main(["train", "recipe.yaml"]) == 2
    assert lines_naming(capsys.readouterr().err, "rollout.engine", "hv", "hf")


# --- groups that are complete before others ---


@pytest.mark.parametrize("tokens_per_batch", [10**6, 1])
def test_groups_are_told_of_in_order_while_others_are_sampled(load: Any, tokens_per_batch: int) -> None:
    """In one batch, and in one for each prompt, the longest first."""
    adapter = load()
    make_lively(adapter)
    adapter.model.generation_config.eos_token_id = [2, *range(40, 120)]
    prompts = [make_prompt(adapter, make_sample(sizes, seed)) for seed, sizes in enumerate(SIZES)]
    seeds = [("early", n) for n in range(len(prompts))]
    sampling = Sampling(40, 1.0)
    expected = HfEngine(adapter, 10**6).generate(prompts, 3, sampling, seeds, keep_log_probs=True)
    steps, told = count_steps(adapter), []
    engine = HfEngine(adapter, tokens_per_batch)
    found = engine.generate(
        prompts, 3, sampling, seeds, keep_log_probs=True, tell=lambda group: told.append((group, steps[0]))
    )
    assert [[c.token_ids for c in g.completions] for g in found] == [
        [c.token_ids for c in g.completions] for g in expected
    ]
    lengths = [max(len(c.token_ids) for c in group.completions) for group in found]
    assert lengths != sorted(lengths), "a later group ends before an earlier one"
    assert 0 < len(told) < len(found)
    assert all(group is other for (group, _), other in zip(told, found, strict=False)), "the very groups, in order"
    if tokens_per_batch == 10**6:
        ends = [max(lengths[: n + 1]) for n in range(len(told))]
        assert [at for _, at in told] == ends, "at once when it and all before it have ended"


def count_steps(adapter: QwenVLAdapter) -> list[int]:
    """The tokens that each row has been asked for: the prefill's, and one for each later pass."""
    steps = [0]
    adapter.model.model.language_model.norm.register_forward_hook(lambda *_: steps.__setitem__(0, steps[0] + 1))
    return steps

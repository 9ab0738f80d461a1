"""The list of engines: what names one, and what names none; and when ``hf`` tells of a group."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gpg_vl import cli
from gpg_vl.config import RolloutConfig
from gpg_vl.models.families.qwen_vl import QwenVLAdapter
from gpg_vl.records import Prompt, RolloutGroup
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


def make_prompts(adapter: QwenVLAdapter) -> list[Prompt]:
    return [make_prompt(adapter, make_sample(sizes, seed)) for seed, sizes in enumerate(SIZES)]


def test_groups_are_told_of_in_order_while_others_are_sampled(load: Any) -> None:
    adapter = load()
    make_lively(adapter)
    adapter.model.generation_config.eos_token_id = [2, *range(40, 120)]
    prompts, sampling = make_prompts(adapter), Sampling(40, 1.0)
    sampled = HfEngine(adapter, 10**6).generate(prompts, 3, sampling, [(p.sample.id,) for p in prompts])
    first, second, *rest = sorted(sampled, key=longest)
    expected = [second, first, *rest]  # so that a later group ends before an earlier one, and the last one last
    prompts = [group.prompt for group in expected]
    steps, told = count_steps(adapter), []
    found = HfEngine(adapter, 10**6).generate(
        prompts, 3, sampling, [(p.sample.id,) for p in prompts], tell=lambda group: told.append((group, steps[0]))
    )
    assert [[c.token_ids for c in g.completions] for g in found] == [
        [c.token_ids for c in g.completions] for g in expected
    ]
    lengths = [longest(group) for group in found]
    early = [max(lengths[: n + 1]) for n in range(len(found)) if max(lengths[: n + 1]) < lengths[-1]]
    assert lengths[1] < lengths[0] and len(early) >= 2
    assert [at for _, at in told] == early, "at once when it and all before it have ended, and others go on"
    assert all(group is other for (group, _), other in zip(told, found, strict=False)), "the very groups, in order"


def longest(group: RolloutGroup) -> int:
    return max(len(completion.token_ids) for completion in group.completions)


def test_groups_of_earlier_batches_are_told_of_before_the_next(load: Any) -> None:
    """A batch for each prompt, the longest prompt first; the second is the shortest, so the rest is in time for it."""
    adapter = load()
    prompts, told, steps = make_prompts(adapter), [], count_steps(adapter)
    found = HfEngine(adapter, 1).generate(
        prompts, 2, Sampling(3, 1.0), [(n,) for n in range(5)], tell=lambda group: told.append((group, steps[0]))
    )
    order = sorted(range(5), key=lambda n: len(prompts[n].encoded.token_ids), reverse=True)
    assert order[-1] == 1, "without an image"
    assert [group is found[0] for group, _ in told] == [True]
    assert told[0][1] == 3 * (order.index(0) + 1)


def count_steps(adapter: QwenVLAdapter) -> list[int]:
    """The tokens that each row has been asked for: the prefill's, and one for each later pass."""
    steps = [0]
    adapter.model.model.language_model.norm.register_forward_hook(lambda *_: steps.__setitem__(0, steps[0] + 1))
    return steps

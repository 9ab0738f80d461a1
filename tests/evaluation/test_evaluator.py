"""The evaluator on real tiny models: batch, ranks and restarts change no prediction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gpg_vl.config import EvaluationConfig, PromptConfig, Recipe, RewardsConfig, RolloutConfig, RunConfig
from gpg_vl.data.sources import Source
from gpg_vl.evaluation.evaluator import Evaluator
from gpg_vl.evaluation.predictions import NO_IMAGE, Prediction, read_prediction
from gpg_vl.evaluation.rows import EvaluationRow, number_rows
from gpg_vl.models.families.qwen_vl import QwenVLAdapter
from gpg_vl.preflight.sources import CheckedSources
from gpg_vl.prompts.builder import PromptBuilder
from gpg_vl.records import Sample
from gpg_vl.rewards.scorer import Scorer
from gpg_vl.rollout.hf import HfEngine
from gpg_vl.tasks import TASKS
from tests.support.builders import make_sample
from tests.support.messages import naming

Load = Callable[..., QwenVLAdapter]
LONG = "How many shapes are there in this picture, if one counts the small ones as well?"


def make_rows(num: int) -> list[EvaluationRow]:
    """Rows of different images and lengths."""
    samples = [
        make_sample(sizes=((56 + 28 * (n % 3), 84),), seed=n, question=LONG if n % 2 else "How many shapes?")
        for n in range(num)
    ]
    return [EvaluationRow(n, "test", sample, f"kind {n % 2}") for n, sample in enumerate(samples)]


def predict(
    adapter: QwenVLAdapter,
    rows: Sequence[EvaluationRow],
    prompts_at_once: int,
    tokens_per_batch: int,
    **sampling: float,
) -> list[Prediction]:
    recipe = Recipe(
        evaluation=EvaluationConfig(**sampling),  # type: ignore[arg-type]
        rollout=RolloutConfig(max_new_tokens=6),
        run=RunConfig(seed=3),
    )
    with Scorer(RewardsConfig()) as scorer:
        prompts = PromptBuilder(adapter, TASKS, PromptConfig())
        evaluator = Evaluator(prompts, HfEngine(adapter, tokens_per_batch), scorer, TASKS, recipe, with_legacy=True)
        return [each for part in evaluator.run(rows, prompts_at_once) for each in part]


@pytest.mark.parametrize(
    ("family", "sampling"), [("qwen2_vl", {}), ("qwen2_5_vl", {"num_samples": 3, "temperature": 1.0})]
)
def test_batch_of_1_7_and_32_gives_the_same_predictions(load: Load, family: str, sampling: dict[str, float]) -> None:
    adapter, rows = load(family), make_rows(34)
    alone = predict(adapter, rows, 1, 1, **sampling)
    assert [each.row for each in alone] == list(range(34))
    assert len({each.completions for each in alone}) > 5, "the rows are not all answered alike"
    for batch in (7, 32):
        assert predict(adapter, rows, batch, 10**6, **sampling) == alone


def test_a_row_without_its_image_is_wrong_and_the_others_are_as_they_were(load: Load, tmp_path: Path) -> None:
    adapter, rows = load(), make_rows(5)
    gone = replace(rows[2], sample=replace(rows[2].sample, images=(str(tmp_path / "gone.png"),)))
    with_gap = predict(adapter, [*rows[:2], gone, *rows[3:]], 5, 10**6)
    assert [each.status[0] for each in with_gap].count(NO_IMAGE) == 1
    missing = with_gap.pop(2)
    assert (missing.row, missing.rewards, missing.legacy, missing.parts) == (2, (0.0,), (0.0,), ({},))
    whole = predict(adapter, rows, 5, 10**6)
    whole.pop(2)
    assert with_gap == whole


def test_prediction_comes_back_from_its_line(load: Load) -> None:
    for prediction in predict(load(), make_rows(2), 2, 10**6, num_samples=2, temperature=1.0):
        assert read_prediction(prediction.to_line()) == prediction
    for line in ("[]", "{}", "3"):
        with pytest.raises(ValueError, match=naming("predictions.jsonl")):
            read_prediction(line)


def test_rows_are_made_when_asked_for() -> None:
    """Their images are never in memory together."""
    made: list[str] = []

    class Table(list[Sample]):
        def __getitem__(self, index: Any) -> Any:
            made.append(str(index))
            return super().__getitem__(index)

    samples = [replace(make_sample(seed=n), meta={"kind": n % 2 or None}) for n in range(4)]
    sources = [Source("a", 1.0, Table(samples[:1])), Source("b", 1.0, Table(samples[1:]))]
    rows = number_rows(CheckedSources(sources, {}, []), ["first", "second"], "kind")
    assert (len(rows), made) == (4, [])
    assert [(row.number, row.split, row.sample, row.category) for row in rows] == [
        (0, "first", samples[0], ""), (1, "second", samples[1], "1"),
        (2, "second", samples[2], ""), (3, "second", samples[3], "1"),
    ]  # fmt: skip
    assert made == ["0", "0", "1", "2"]
    left = rows.without({1, 3})
    assert len(made) == 4
    assert [row.number for row in left] == [0, 2]
    assert [row.number for row in rows[1:][::2]] == [1, 3]
    with pytest.raises(IndexError):
        left[2]

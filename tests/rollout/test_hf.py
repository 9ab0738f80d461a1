"""The decode loop against transformers' own generate, and against itself in other batches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import SuppressTokensLogitsProcessor

from gpg_vl.models.families.qwen_vl import QwenVLAdapter
from gpg_vl.models.plain_rows import plain_log_probs
from gpg_vl.records import Prompt, RolloutGroup
from gpg_vl.rollout import decoding
from gpg_vl.rollout.engine import Sampling
from gpg_vl.rollout.hf import HfEngine
from tests.support.builders import FAMILIES, make_lively, make_prompt, make_sample
from tests.support.messages import naming

LoadModel = Callable[..., QwenVLAdapter]
GREEDY = Sampling(max_new_tokens=12, temperature=0.0)
SAMPLED = Sampling(max_new_tokens=12, temperature=1.0)
MANY = 10**6
SIZES = ([(84, 84)], [], [(140, 56), (56, 84)], [(84, 168)], [(56, 56)])


def make_prompts(adapter: QwenVLAdapter) -> list[Prompt]:
    questions = ("How many shapes?", "What?", "Where is the red shape?", "Where?", "What is the perimeter?")
    return [
        make_prompt(adapter, make_sample(sizes, seed, question=question))
        for seed, (sizes, question) in enumerate(zip(SIZES, questions, strict=True))
    ]


def vision_inputs(prompt: Prompt) -> dict[str, torch.Tensor]:
    return {} if prompt.encoded.vision is None else dict(prompt.encoded.vision.tensors)


def hf_greedy(adapter: QwenVLAdapter, prompt: Prompt) -> tuple[int, ...]:
    """Plain ``generate`` on one prompt with the same tokens banned."""
    output = adapter.model.generate(
        input_ids=torch.tensor([prompt.encoded.token_ids]),
        attention_mask=torch.ones(1, len(prompt.encoded.token_ids), dtype=torch.long),
        mm_token_type_ids=torch.tensor([prompt.encoded.token_types]),
        **vision_inputs(prompt),
        max_new_tokens=GREEDY.max_new_tokens,
        do_sample=False,
        logits_processor=[SuppressTokensLogitsProcessor(list(adapter.banned_token_ids))],
    )
    return tuple(output[0, len(prompt.encoded.token_ids) :].tolist())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_greedy_equals_generate_for_a_batch_and_one_by_one(load: LoadModel, family: str, attention: str) -> None:
    adapter = load(family, attention=attention)
    make_lively(adapter)
    prompts = make_prompts(adapter)
    expected = [hf_greedy(adapter, prompt) for prompt in prompts]
    together = roll_out(adapter, prompts, 2, GREEDY, ())
    alone = [roll_out(adapter, [prompt], 1, GREEDY, ())[0] for prompt in prompts]
    assert [g.completions[0].token_ids for g in alone] == expected
    assert [[c.token_ids for c in g.completions] for g in together] == [[tokens] * 2 for tokens in expected]
    assert len(set(expected)) == len(prompts)
    assert len({token for tokens in expected for token in tokens}) > 10


def test_rope_deltas_of_the_model_play_no_part(load: LoadModel) -> None:
    """The model remembers the positions of its last forward; a rollout must not read them."""
    adapter = load()
    prompts = make_prompts(adapter)
    before = roll_out(adapter, prompts, 2, GREEDY, ())
    adapter.model.model.rope_deltas = torch.full((1, 1), 37)
    assert roll_out(adapter, prompts, 2, GREEDY, ()) == before


def test_samples_do_not_depend_on_the_batch(load: LoadModel) -> None:
    adapter = load()
    prompts = make_prompts(adapter)
    together = roll_out(adapter, prompts, 4, SAMPLED, (3, 1))
    in_small_batches = roll_out(adapter, prompts, 4, SAMPLED, (3, 1), tokens_per_batch=1)
    alone = [roll_out(adapter, [prompt], 4, SAMPLED, (3, 1))[0] for prompt in prompts]
    assert tokens_of(together) == tokens_of(in_small_batches) == tokens_of(alone)
    assert tokens_of(together) != tokens_of(roll_out(adapter, prompts, 4, SAMPLED, (3, 2)))
    assert len({c.token_ids for g in together for c in g.completions}) == 20


def roll_out(
    adapter: QwenVLAdapter, prompts: list[Prompt], group_size: int, sampling: Sampling, key: tuple[int, ...] = (),
    tokens_per_batch: int = MANY,
) -> list[RolloutGroup]:  # fmt: skip
    seeds = [(*key, prompt.sample.id) for prompt in prompts]
    return HfEngine(adapter, tokens_per_batch).generate(prompts, group_size, sampling, seeds)


def tokens_of(groups: list) -> list:
    return [[c.token_ids for c in group.completions] for group in groups]


@pytest.mark.parametrize("family", FAMILIES)
def test_no_vision_token_in_ten_thousand_samples(load: LoadModel, family: str) -> None:
    adapter = load(family)
    config = adapter.model.config
    vision = {config.image_token_id, config.video_token_id, config.vision_start_token_id, config.vision_end_token_id}
    vision.add(adapter.tokenizer.convert_tokens_to_ids("<|vision_pad|>"))
    assert set(adapter.banned_token_ids) == vision
    sampling = Sampling(max_new_tokens=64, temperature=2.0)
    groups = roll_out(adapter, make_prompts(adapter), 48, sampling, (0,))
    tokens = [token for group in groups for c in group.completions for token in c.token_ids]
    assert len(tokens) > 10_000
    assert not vision & set(tokens)


def test_without_the_ban_a_vision_token_would_come(load: LoadModel, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = load()
    monkeypatch.setattr(QwenVLAdapter, "banned_token_ids", property(lambda self: ()))
    sampling = Sampling(max_new_tokens=64, temperature=2.0)
    groups = roll_out(adapter, make_prompts(adapter)[:1], 64, sampling, (0,))
    assert {3, 4, 5, 6, 7} & {token for c in groups[0].completions for token in c.token_ids}


def test_completions_end_in_an_end_token_iff_finished(load: LoadModel) -> None:
    adapter = load()
    adapter.model.generation_config.eos_token_id = [2, 40, 41, 42, 43, 44, 45]
    groups = roll_out(adapter, make_prompts(adapter), 16, Sampling(24, 1.5), (0,))
    completions = [c for group in groups for c in group.completions]
    assert {c.finished for c in completions} == {True, False}
    for completion in completions:
        ends = [token in adapter.end_token_ids for token in completion.token_ids]
        assert completion.finished == ends[-1]
        assert not any(ends[:-1])
        assert completion.finished or len(completion.token_ids) == 24
        assert completion.text == adapter.tokenizer.decode(
            completion.token_ids[: -1 if completion.finished else None], skip_special_tokens=False
        )


def test_sampling_follows_the_models_distribution(load: LoadModel) -> None:
    """First tokens of 4,000 samples against the softmax of the plain forward, temperature and bans applied."""
    adapter = load()
    make_lively(adapter)
    prompt = make_prompts(adapter)[0]
    temperature, n = 2.0, 4000
    groups = roll_out(adapter, [prompt], n, Sampling(1, temperature), (5,))
    counts = torch.bincount(
        torch.tensor([c.token_ids[0] for c in groups[0].completions]), minlength=adapter.head_weight.shape[0]
    )
    with torch.no_grad():
        logits = adapter.model(
            input_ids=torch.tensor([prompt.encoded.token_ids]),
            mm_token_type_ids=torch.tensor([prompt.encoded.token_types]),
            **vision_inputs(prompt),
        ).logits[0, -1]
    logits[list(adapter.banned_token_ids)] = -torch.inf
    expected = torch.softmax(logits / temperature, -1)
    likely = expected * n > 5
    chi_square = float((((counts - expected * n) ** 2) / (expected * n))[likely].sum())
    degrees = int(likely.sum())
    assert degrees > 5
    assert chi_square < degrees + 5 * (2 * degrees) ** 0.5


@pytest.mark.parametrize(("top_k", "top_p"), [(3, 1.0), (0, 0.05)])
def test_top_k_and_top_p_narrow_the_choice(load: LoadModel, top_k: int, top_p: float) -> None:
    adapter = load()
    prompt = make_prompts(adapter)[0]
    [wide] = roll_out(adapter, [prompt], 256, Sampling(1, 1.0), (0,))
    [narrow] = roll_out(adapter, [prompt], 256, Sampling(1, 1.0, top_p, top_k), (0,))
    first = {c.token_ids[0] for c in narrow.completions}
    assert len(first) < len({c.token_ids[0] for c in wide.completions})
    assert top_k == 0 or len(first) <= top_k


def test_mode_is_restored(load: LoadModel) -> None:
    adapter = load()
    for training in (True, False):
        adapter.model.train(training)
        roll_out(adapter, make_prompts(adapter)[:1], 1, GREEDY, ())
        assert adapter.model.training is training


def test_log_probs_are_kept_on_request(load: LoadModel) -> None:
    """They are the update's, where the distribution is not truncated; a truncated one is renormalised."""
    adapter = load()
    prompts = make_prompts(adapter)
    sampling = Sampling(max_new_tokens=9, temperature=0.7)
    assert {c.log_probs for g in roll_out(adapter, prompts, 3, sampling, (1,)) for c in g.completions} == {None}
    seeds = [(1, prompt.sample.id) for prompt in prompts]
    groups = HfEngine(adapter, MANY).generate(prompts, 3, sampling, seeds, keep_log_probs=True)
    for group in groups:
        for completion in group.completions:
            kept = torch.tensor(completion.log_probs)
            expected = plain_log_probs(adapter, group.prompt.encoded, completion, 0.7).detach()
            assert torch.allclose(kept, expected, atol=1e-5)
    narrow = Sampling(max_new_tokens=9, temperature=0.7, top_k=1)
    groups = HfEngine(adapter, MANY).generate(prompts, 1, narrow, seeds, keep_log_probs=True)
    assert {value for g in groups for c in g.completions for value in c.log_probs or ()} == {0.0}


def test_a_wrong_position_of_one_prompt_shows(load: LoadModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutation: all completions start where those of the first prompt do, as with rope deltas not repeated."""
    adapter = load()
    make_lively(adapter)
    prompts = make_prompts(adapter)
    prefill = HfEngine._prefill

    def with_positions_of_the_first(engine: HfEngine, batch: list[Prompt], group_size: int) -> object:
        state = prefill(engine, batch, group_size)
        return replace(state, positions=state.positions[:, :1].expand_as(state.positions))

    right = tokens_of(roll_out(adapter, prompts, 2, GREEDY))
    monkeypatch.setattr(HfEngine, "_prefill", with_positions_of_the_first)
    assert tokens_of(roll_out(adapter, prompts, 2, GREEDY)) != right


def test_the_image_is_encoded_once_and_the_prompt_runs_once_per_group(load: LoadModel) -> None:
    adapter = load()
    prompts = make_prompts(adapter)
    patches: list[int] = []
    rows: list[tuple[int, ...]] = []
    adapter.model.model.visual.register_forward_hook(lambda module, inputs, output: patches.append(len(inputs[0])))
    adapter.model.model.language_model.register_forward_hook(
        lambda module, inputs, words, output: rows.append(tuple(words["inputs_embeds"].shape[:2])), with_kwargs=True
    )
    roll_out(adapter, prompts, 6, SAMPLED, (0,))
    assert patches == [sum(p.encoded.vision.num_patches for p in prompts if p.encoded.vision is not None)]
    assert rows[0] == (len(prompts), max(len(p.encoded.token_ids) for p in prompts))
    assert all(length == 1 for _, length in rows[1:])


# --- memory that runs out ---


def out_of_memory_above(adapter: QwenVLAdapter, monkeypatch: pytest.MonkeyPatch, rows: int, error: Exception) -> None:
    """As if no more than ``rows`` rows fitted."""
    run_body, run_step = type(adapter).run_body, decoding.run_step

    def limited(self: QwenVLAdapter, *, input_ids: torch.Tensor, **more: Any) -> torch.Tensor:
        if len(input_ids) > rows:
            raise error
        return run_body(self, input_ids=input_ids, **more)

    def limited_step(adapter: QwenVLAdapter, tokens: torch.Tensor, *more: Any) -> torch.Tensor:
        if len(tokens) > rows:
            raise error
        return run_step(adapter, tokens, *more)

    monkeypatch.setattr(type(adapter), "run_body", limited)
    monkeypatch.setattr(decoding, "run_step", limited_step)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
    ids=str,
)
def test_memory_that_runs_out_halves_and_changes_nothing(
    load: LoadModel,
    family: str,
    error: Exception,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Down to a part of a group: which completions are sampled does not depend on it."""
    adapter = load(family)
    make_lively(adapter)
    prompts = make_prompts(adapter)
    seeds = [("test", n) for n in range(len(prompts))]
    expected = HfEngine(adapter, MANY).generate(prompts, 4, SAMPLED, seeds, keep_log_probs=True)
    out_of_memory_above(adapter, monkeypatch, 3, error)
    capsys.readouterr()
    engine = HfEngine(adapter, MANY)
    found = engine.generate(prompts, 4, SAMPLED, seeds, keep_log_probs=True)
    assert [[c.token_ids for c in group.completions] for group in found] == [
        [c.token_ids for c in group.completions] for group in expected
    ]
    assert [group.prompt for group in found] == prompts
    said = capsys.readouterr().err.splitlines()
    assert said and all("rollout.tokens_per_batch" in line for line in said)
    engine.generate(prompts[:2], 2, SAMPLED, seeds[:2])
    assert capsys.readouterr().err == "", "the next rollout begins with what fits"


def test_memory_that_does_not_do_for_one_completion_is_one_line(
    load: LoadModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = load()
    out_of_memory_above(adapter, monkeypatch, 0, torch.OutOfMemoryError("CUDA out of memory"))
    adapter.model.train()
    with pytest.raises(ValueError, match=naming("rollout.max_new_tokens", "model.max_pixels")):
        HfEngine(adapter, MANY).generate(make_prompts(adapter)[:2], 3, SAMPLED, [("a",), ("b",)])
    assert adapter.model.training


def test_other_errors_of_a_rollout_are_raised(load: LoadModel, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = load()
    out_of_memory_above(adapter, monkeypatch, 0, RuntimeError("CUDA error: an illegal memory access was encountered"))
    with pytest.raises(RuntimeError, match="illegal"):
        HfEngine(adapter, MANY).generate(make_prompts(adapter)[:1], 1, SAMPLED, [("a",)])


def test_half_a_group_is_not_told_of(load: LoadModel, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = load()
    make_lively(adapter)
    prompts = make_prompts(adapter)
    seeds = [("test", n) for n in range(len(prompts))]
    out_of_memory_above(adapter, monkeypatch, 3, torch.OutOfMemoryError("CUDA out of memory"))
    told: list[RolloutGroup] = []
    found = HfEngine(adapter, MANY).generate(prompts, 4, SAMPLED, seeds, tell=told.append)
    assert {len(group.completions) for group in [*found, *told]} == {4}


def test_what_is_raised_where_a_group_is_told_of_ends_the_rollout(load: LoadModel) -> None:
    adapter = load()
    adapter.model.train()

    def refuse(group: RolloutGroup) -> None:
        raise KeyError(group.prompt.sample.id)

    with pytest.raises(KeyError):
        HfEngine(adapter, 1).generate(make_prompts(adapter), 2, SAMPLED, [(n,) for n in range(5)], tell=refuse)
    assert adapter.model.training

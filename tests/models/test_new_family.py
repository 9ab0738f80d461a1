"""A family of a file of its own, in no file of the kit: it encodes, packs, samples, saves and trains as the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor, SuppressTokensLogitsProcessor

from gpg_vl.config import LoraConfig, PromptConfig, Recipe
from gpg_vl.data.images import open_image
from gpg_vl.models import load_adapter
from gpg_vl.models.saving import save_model
from gpg_vl.prompts.builder import PromptBuilder
from gpg_vl.records import Prompt, TrainingGroup, VisionInputs
from gpg_vl.rollout.engine import Sampling
from gpg_vl.rollout.hf import HfEngine
from gpg_vl.tasks import TASKS
from gpg_vl.update import packing
from gpg_vl.update.gradient import build_filler_row
from gpg_vl.update.packing import PackedRow, plan_micro_batches
from gpg_vl.update.self_check import check_packing, plain_log_probs
from tests.support.builders import make_lively, make_prompt, make_sample, make_training_group, whole
from tests.support.groups import packed_gradients, plain_gradients, worst_relative_error
from tests.support.llava_onevision_adapter import LlavaOnevisionAdapter

LoadModel = Callable[..., LlavaOnevisionAdapter]
MANY = 10**6
PICTURES = ([], [(60, 40)], [(30, 40), (84, 20)], [(25, 80)], [(84, 84)], [(28, 28), (30, 30), (99, 20)])
"""None, one in tiles of several shapes, several."""


def make_groups(adapter: LlavaOnevisionAdapter) -> list[TrainingGroup]:
    """Of different length, with none, one and several images: two to six completions each."""
    lengths = ([6, 2, 1], [5, 1, 9, 3], [4, 7], [3, 8], [1, 4, 1, 1, 2, 3], [12, 2])
    return [
        make_training_group(adapter, make_sample(sizes, seed), row, seed)
        for seed, (sizes, row) in enumerate(zip(PICTURES, lengths, strict=True))
    ]


def opened(prompt: Prompt) -> list[Image.Image]:
    return [open_image(source) for source in prompt.sample.images]


# --- reading ---


@pytest.mark.parametrize("sizes", PICTURES, ids=str)
def test_encode_gives_what_the_processor_gives(
    load_llava: LoadModel, llava_folder: Path, sizes: Sequence[tuple[int, int]]
) -> None:
    """The processor's way from a conversation to tensors, which knows nothing of views and placeholders."""
    adapter = load_llava()
    prompt = make_prompt(adapter, make_sample(sizes))
    pictures = [{"type": "image", "image": image} for image in opened(prompt)]
    content = [*pictures, {"type": "text", "text": "How many shapes?"}]
    expected = AutoProcessor.from_pretrained(llava_folder).apply_chat_template(
        [{"role": "user", "content": content}],
        tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True,
    )  # fmt: skip
    encoded = prompt.encoded
    assert encoded.token_ids == tuple(expected.pop("input_ids")[0].tolist())
    del expected["attention_mask"]
    found = {} if encoded.vision is None else encoded.vision.tensors
    assert found.keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())
    assert encoded.position_ids.tolist() == [list(range(encoded.next_position))]
    assert sum(encoded.token_types) == sum(adapter.count_image_tokens(prompt.views))
    assert encoded.vision is None or encoded.vision.num_tokens == sum(encoded.token_types)


def test_an_image_takes_fewer_tokens_where_there_are_several(load_llava: LoadModel) -> None:
    """So tokens are counted for the images of a prompt together, and before anything is encoded."""
    adapter = load_llava()
    view = adapter.view(60, 40)
    assert adapter.count_image_tokens([view])[0] > adapter.count_image_tokens([view, view])[0] == 5
    for with_weights in (True, False):
        reader = load_adapter(adapter.config, with_weights)
        build = PromptBuilder(reader, TASKS, PromptConfig())
        for sizes in PICTURES:
            sample = make_sample(sizes)
            assert build.read(sample, sizes).num_tokens == len(build.build(sample).encoded.token_ids)


def test_images_stand_where_the_markers_are(load_llava: LoadModel) -> None:
    """The marker of a row is the image token of this family: it is a marker in the question and refused elsewhere."""
    adapter = load_llava()
    sample = make_sample([(28, 28), (30, 30)], question="Is <image> larger than <image>?")
    prompt = make_prompt(adapter, sample)
    assert "user\nIs <image> larger than <image>?<|im_end|>" in prompt.text
    assert prompt.encoded.vision is not None
    assert len(prompt.encoded.vision.tensors["image_sizes"]) == 2
    with pytest.raises(ValueError, match=r"sample counting-0: .* 1 <image> markers for 2 images"):
        make_prompt(adapter, replace(sample, question="<image>?"))
    with pytest.raises(ValueError, match=r"sample counting-0: .*<\|im_end\|>"):
        make_prompt(adapter, replace(sample, question="<image> or <image><|im_end|>?"))


def test_images_are_scaled_down_to_fit(load_llava: LoadModel) -> None:
    adapter = load_llava()
    sample = make_sample([(99, 99)])
    full = make_prompt(adapter, sample)
    for missing in (1, 10, 20):
        limit = len(full.encoded.token_ids) - missing
        build = PromptBuilder(adapter, {}, PromptConfig(template="{question}"), shrink_to=limit)
        prompt = build.build(sample)
        assert len(prompt.encoded.token_ids) <= limit
        assert prompt.views[0].model_width < full.views[0].model_width


# --- the update ---


def gradient_error(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """The worst of all parameters, relative; a key's bias in the tower has none, as it moves all scores alike."""
    rounding = [name for name in expected if "vision_tower" in name and name.endswith("k_proj.bias")]
    assert all(float(each[name].norm()) < 1e-5 for name in rounding for each in (found, expected))
    real, true = ({n: g for n, g in each.items() if n not in rounding} for each in (found, expected))
    return worst_relative_error(real, true)


@pytest.mark.parametrize("attention", ["grouped_sdpa", "sdpa", "eager"])
def test_packed_gradients_equal_plain_ones(load_llava: LoadModel, attention: str) -> None:
    adapter = load_llava(attention=attention)
    groups = make_groups(adapter)
    assert len(plan_micro_batches(groups, 8192, 10_000)) == 1
    assert gradient_error(packed_gradients(adapter, groups), plain_gradients(adapter, groups)) < 1e-5


def test_self_check_passes(load_llava: LoadModel) -> None:
    adapter = load_llava()
    rows = whole(*make_groups(adapter))
    assert check_packing(adapter, rows, 0.7) < 1e-5
    assert check_packing(adapter, [*rows[:2], build_filler_row(adapter, with_image=True)], 0.7) < 1e-5


def test_features_that_autocast_rounded_pass_the_self_check(load_llava: LoadModel) -> None:
    adapter = load_llava(freeze=["vision", "projector"], dtype="bfloat16")
    groups = [make_training_group(adapter, make_sample([(60, 40)], seed), [5, 4], seed) for seed in range(2)]
    rolled = HfEngine(adapter, MANY).generate([g.prompt for g in groups], 2, Sampling(3, 1.0), seeds_of(groups))
    reused = [replace(group, features=each.features) for group, each in zip(groups, rolled, strict=True)]
    assert check_packing(adapter, whole(*reused), 1.0) < 1e-5
    swapped = [replace(reused[0], features=reused[1].features), reused[1]]
    with pytest.raises(RuntimeError, match="self-check failed on sample counting-0"):
        check_packing(adapter, whole(*swapped), 1.0)


def completions_start_late(row: PackedRow) -> Tensor:
    """Mutation: one position after the prompt is left free."""
    encoded = row.encoded
    tails = [encoded.next_position + 1 + torch.arange(len(c.token_ids) - 1)[None] for c in row.completions]
    return torch.cat([encoded.position_ids, *tails], dim=1)


def images_swapped(rows: Sequence[PackedRow], adapter: LlavaOnevisionAdapter) -> VisionInputs:
    """Mutation: each prompt has the images of another."""
    return adapter.join_vision([row.encoded.vision for row in reversed(rows) if row.encoded.vision is not None])


@pytest.mark.parametrize(
    ("name", "mutation"), [("_positions", completions_start_late), ("_join_vision", images_swapped)]
)
def test_mutations_are_caught(
    load_llava: LoadModel, monkeypatch: pytest.MonkeyPatch, name: str, mutation: Callable[..., object]
) -> None:
    adapter = load_llava()
    make_lively(adapter)
    groups = [
        make_training_group(adapter, make_sample([size], seed), [5, 4], seed)
        for seed, size in enumerate([(60, 40), (25, 80)])
    ]
    expected = plain_gradients(adapter, groups)
    assert check_packing(adapter, whole(*groups), 1.0) < 1e-5
    assert gradient_error(packed_gradients(adapter, groups), expected) < 1e-5
    monkeypatch.setattr(packing, name, mutation)
    with pytest.raises(RuntimeError, match="self-check failed"):
        check_packing(adapter, whole(*groups), 1.0)
    assert gradient_error(packed_gradients(adapter, groups), expected) > 1e-3


def test_features_of_a_frozen_tower_are_reused_from_the_rollout(load_llava: LoadModel) -> None:
    adapter = load_llava(freeze=["vision", "projector"])
    make_lively(adapter)
    groups = make_groups(adapter)
    rolled = HfEngine(adapter, MANY).generate([g.prompt for g in groups], 2, Sampling(3, 1.0), seeds_of(groups))
    reused = [replace(group, features=each.features) for group, each in zip(groups, rolled, strict=True)]
    assert [group.features is None for group in reused] == [not sizes for sizes in PICTURES]
    expected = plain_gradients(adapter, groups)
    calls: list[int] = []
    adapter.model.model.vision_tower.register_forward_hook(lambda *_: calls.append(1))
    assert gradient_error(packed_gradients(adapter, reused), expected) < 1e-5
    assert not calls
    one, other = (group.features for group in reused[1:3])
    swapped = [reused[0], replace(reused[1], features=other), replace(reused[2], features=one), *reused[3:]]
    with pytest.raises(RuntimeError, match="self-check failed"):
        check_packing(adapter, whole(*swapped), 1.0)


# --- the rollout ---


def seeds_of(groups: Sequence[TrainingGroup]) -> list[tuple[object, ...]]:
    return [(group.prompt.sample.id,) for group in groups]


def hf_greedy(adapter: LlavaOnevisionAdapter, prompt: Prompt, num_tokens: int) -> tuple[int, ...]:
    """Plain ``generate`` on one prompt with the same tokens banned."""
    vision = {} if prompt.encoded.vision is None else dict(prompt.encoded.vision.tensors)
    output = adapter.model.generate(
        input_ids=torch.tensor([prompt.encoded.token_ids]),
        attention_mask=torch.ones(1, len(prompt.encoded.token_ids), dtype=torch.long),
        **vision,
        max_new_tokens=num_tokens,
        do_sample=False,
        logits_processor=[SuppressTokensLogitsProcessor(list(adapter.banned_token_ids))],
    )
    return tuple(output[0, len(prompt.encoded.token_ids) :].tolist())


@pytest.mark.parametrize("freeze", [[], ["vision", "projector"]], ids=str)
def test_greedy_equals_generate_one_by_one(load_llava: LoadModel, freeze: list[str]) -> None:
    adapter = load_llava(freeze=freeze)
    make_lively(adapter)
    groups = make_groups(adapter)
    prompts = [group.prompt for group in groups]
    rolled = HfEngine(adapter, MANY).generate(prompts, 2, Sampling(12, 0.0), seeds_of(groups))
    expected = [hf_greedy(adapter, prompt, 12) for prompt in prompts]
    assert [[c.token_ids for c in group.completions] for group in rolled] == [[tokens] * 2 for tokens in expected]
    assert len(set(expected)) == len(prompts)


def test_kept_log_probs_are_those_of_plain_rows(load_llava: LoadModel) -> None:
    adapter = load_llava()
    groups = make_groups(adapter)
    prompts = [group.prompt for group in groups]
    rolled = HfEngine(adapter, MANY).generate(prompts, 3, Sampling(8, 0.7), seeds_of(groups), keep_log_probs=True)
    for group in rolled:
        for completion in group.completions:
            expected = plain_log_probs(adapter, group.prompt.encoded, completion, 0.7).detach()
            assert torch.allclose(torch.tensor(completion.log_probs), expected, atol=1e-5)


# --- saving and training ---


def test_saved_model_is_the_same_model(load_llava: LoadModel, llava_folder: Path, tmp_path: Path) -> None:
    adapter = load_llava()
    with torch.no_grad():
        for parameter in adapter.model.parameters():
            parameter.add_(0.01)
    recipe = Recipe(model=adapter.config)
    save_model(adapter, tmp_path / "model", recipe, {"reward": 0.25})
    again = load_llava(path=str(tmp_path / "model"))
    expected, found = adapter.model.state_dict(), again.model.state_dict()
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    group = make_groups(adapter)[1]
    assert make_prompt(again, group.prompt.sample).encoded.token_ids == group.prompt.encoded.token_ids


def test_lora_trains_its_own_layers_and_is_read_by_transformers(load_llava: LoadModel, tmp_path: Path) -> None:
    config = LoraConfig(r=4, parts=["text", "vision"])
    adapter = load_llava(lora=config)
    linear = {
        name for name, module in load_llava().model.named_modules()
        if isinstance(module, torch.nn.Linear) and name.startswith(("model.language_model.", "model.vision_tower."))
    }  # fmt: skip
    assert {name.split(".lora_A")[0] for name, _ in adapter.trainable_parameters() if "lora_A" in name} == linear
    for name, parameter in adapter.trainable_parameters():
        torch.nn.init.normal_(parameter, std=0.05, generator=torch.Generator().manual_seed(len(name)))
    groups = make_groups(adapter)
    assert gradient_error(packed_gradients(adapter, groups), plain_gradients(adapter, groups)) < 1e-5
    save_model(adapter, tmp_path / "lora", Recipe(model=adapter.config), {})
    merged = load_llava(path=str(tmp_path / "lora"))
    plain = load_llava()
    plain.model = AutoModelForImageTextToText.from_pretrained(tmp_path / "lora")
    for group in groups[:3]:
        for completion in group.completions:
            values = [
                plain_log_probs(each, group.prompt.encoded, completion, 1.0).detach()
                for each in (adapter, load_llava(path=str(tmp_path / "lora"), lora=config), merged, plain)
            ]
            assert all(torch.allclose(values[0], each, atol=1e-5) for each in values)
            assert not torch.allclose(
                values[0], plain_log_probs(load_llava(), group.prompt.encoded, completion, 1.0), atol=1e-3
            )

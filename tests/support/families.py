"""A family's tiny model beside the truth: the folder that the kit saves, opened by plain transformers.

The plain side is the family's own processor, from a conversation to tensors, and the model's own forward on one row.
It knows nothing of the kit's encoding, positions, masks or packing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from packaging.version import Version
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor, SuppressTokensLogitsProcessor

from gpg_vl.config import ModelConfig
from gpg_vl.data.images import open_image
from gpg_vl.models import load_adapter
from gpg_vl.models.base import BaseAdapter
from gpg_vl.models.families import FAMILIES
from gpg_vl.models.families.gemma3 import Gemma3Adapter
from gpg_vl.models.families.gemma4 import Gemma4Adapter
from gpg_vl.models.families.paligemma import PaliGemmaAdapter
from gpg_vl.models.families.smolvlm import BY_PATCHES
from gpg_vl.models.tiny import write_tiny_model
from gpg_vl.records import Completion, Prompt, TrainingGroup
from gpg_vl.update.packing import PackedRow, build_micro_batch
from gpg_vl.update.policy import packed_log_probs
from tests.support.builders import make_prompt, make_sample, whole
from tests.support.family_mutations import (
    images_swapped,
    no_depths,
    not_regrouped,
    one_group,
    one_mask,
    padding_in_state,
    positions_start_late,
    state_of_another,
)
from tests.support.mask_mutations import count_patches_by_prompt, mask_mutations, no_cap, see_no_later_token

Sizes = Sequence[tuple[int, int]]
TOKEN_TYPES = ("mm_token_type_ids", "token_type_ids")

LENGTHS = ([6, 2, 1], [5, 1, 9, 3], [4, 7], [3, 8, 2])
"""Of the completions of each prompt."""


@dataclass(frozen=True)
class FamilyCase:
    """What is particular to the tests of a family; ``CASES`` lists them."""

    pictures: tuple[Sizes, ...]
    """Image sizes of four prompts: none, one, several of different sizes, one of another size."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """Keys of ``ModelConfig``."""
    tolerance: float = 1e-5
    """Of log-probs in nats and of gradients, relative; more where plain rows differ from themselves by more, as
    ``test_recurrent.py`` and docs/models.md show."""
    completion_type: int = 0
    """Token type of a completion, where the model takes types; its prompts are all of type 0 where this is 1."""
    since: str = "5.17"
    """Version of transformers from which the family is exact."""
    except_in: tuple[str, ...] = ()  # later versions that refuse the tiny model
    too_narrow: Sizes = ()  # pictures on which the processor of the tiny model fails
    is_tied: bool = True
    """Whether the head is the embedding matrix. Gemma scales its embeddings: a tiny tied one only says its last token
    again, whatever it sees."""
    needs: str | None = None
    """A package that the family's processor needs and the kit does not install."""
    attentions: tuple[str, ...] = ("grouped_sdpa", "sdpa", "eager")
    """The values of ``model.attention`` under which packed rows are exact."""
    adapted: tuple[str, ...] | None = None  # the layers that LoRA adapts here, where peft cannot adapt all
    adapted_since: str = "0.19"  # version of peft
    mutations: Mapping[str, Callable[[Any], None]] = field(default_factory=dict)
    """Each gets a monkeypatch and breaks the family's adapter class; packed rows are then no longer plain ones."""


@dataclass(frozen=True)
class Bench:
    """A family's adapter and, beside it, the model and the processor of the folder that it saved."""

    case: FamilyCase
    adapter: BaseAdapter
    folder: Path

    @cached_property
    def model(self) -> Any:
        return AutoModelForImageTextToText.from_pretrained(self.folder, dtype=torch.float32).eval()

    @cached_property
    def processor(self) -> Any:
        return AutoProcessor.from_pretrained(self.folder)

    @cached_property
    def prompts(self) -> list[Prompt]:
        return [make_prompt(self.adapter, make_sample(sizes, n)) for n, sizes in enumerate(self.case.pictures)]

    @cached_property
    def groups(self) -> list[TrainingGroup]:
        draws = torch.Generator().manual_seed(7)
        return [
            TrainingGroup(
                prompt,
                tuple(self.random_completion(length, draws) for length in lengths),
                tuple(tuple(torch.randn(length, generator=draws).tolist()) for length in lengths),
            )
            for prompt, lengths in zip(self.prompts, LENGTHS, strict=True)
        ]

    def random_completion(self, length: int, draws: torch.Generator) -> Completion:
        """Of tokens that may be sampled."""
        special = {*self.adapter.banned_token_ids, *self.adapter.tokenizer.all_special_ids}
        allowed = [i for i in range(min(300, len(self.adapter.head_weight))) if i not in special]
        ids = torch.randint(len(allowed), (length,), generator=draws).tolist()
        tokens = tuple(allowed[i] for i in ids)
        return Completion(tokens, self.adapter.decode(tokens), finished=False)

    def inputs(self, prompt: Prompt) -> dict[str, Tensor]:
        """The processor's own tensors for what the kit's prompt was made from."""
        if self.processor.chat_template is None:
            return self._plain_inputs(prompt)
        pictures = [{"type": "image", "image": open_image(source)} for source in prompt.sample.images]
        content = [*pictures, {"type": "text", "text": prompt.sample.question}]
        return dict(
            self.processor.apply_chat_template(
                [{"role": "user", "content": content}],
                tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True,
            )
        )  # fmt: skip

    def _plain_inputs(self, prompt: Prompt) -> dict[str, Tensor]:
        """For a processor that knows no conversations: it writes images, the text's beginning and its end itself."""
        text = re.sub("<bos>|<image>", "", prompt.text).removesuffix("\n")
        pictures = [open_image(source) for source in prompt.sample.images]
        inputs = dict(self.processor(text=[text], images=[pictures], return_tensors="pt"))
        del inputs["labels"]
        return inputs

    def plain_log_probs(self, prompt: Prompt, completion: Completion) -> Tensor:
        """[T], from one ordinary row."""
        inputs, tokens = self.inputs(prompt), torch.tensor([completion.token_ids])
        length = inputs["input_ids"].shape[1]
        inputs["input_ids"] = torch.cat([inputs["input_ids"], tokens], dim=1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        for name in TOKEN_TYPES:
            if name in inputs:
                types = torch.full_like(tokens, self.case.completion_type)
                inputs[name] = torch.cat([inputs[name], types], dim=1)
        logits = self.model(**inputs, use_cache=False).logits[0, length - 1 : -1].float()
        logits = logits.index_fill(-1, torch.tensor(self.adapter.banned_token_ids, dtype=torch.long), -torch.inf)
        return logits.log_softmax(-1).gather(-1, tokens[0, :, None])[:, 0]

    def generate(self, prompt: Prompt, num_tokens: int) -> list[int]:
        """Greedy tokens of one prompt alone, with no end."""
        inputs = self.inputs(prompt)
        [row] = self.model.generate(
            **inputs, max_new_tokens=num_tokens, do_sample=False, eos_token_id=None,
            logits_processor=[SuppressTokensLogitsProcessor(list(self.adapter.banned_token_ids))],
        )  # fmt: skip
        tokens: list[int] = row[inputs["input_ids"].shape[1] :].tolist()
        return tokens

    @cached_property
    def plain(self) -> Tensor:
        """Log-probs of all completions of all groups, one row each, with their graph."""
        with torch.enable_grad():
            return torch.cat([self.plain_log_probs(each.prompt, c) for each in self.groups for c in each.completions])

    @cached_property
    def plain_gradients(self) -> dict[str, Tensor]:
        return gradients(self.model, self.plain, self.coefficients)

    @cached_property
    def coefficients(self) -> Tensor:
        return torch.tensor([x for group in self.groups for of_one in group.coefficients for x in of_one])

    def packed(self, rows: Sequence[PackedRow] | None = None) -> Tensor:
        """The same log-probs from one packed micro-batch."""
        rows = whole(*self.groups) if rows is None else rows
        return packed_log_probs(self.adapter, build_micro_batch(rows, self.adapter), 1.0)

    def with_features(self) -> list[PackedRow]:
        """Rows whose images were encoded before, as those of a frozen tower are in the rollout."""
        rows = whole(*self.groups)
        visions = [row.encoded.vision for row in rows]
        found = [None if each is None else self.adapter.encode_images(each) for each in visions]
        return [replace(row, features=features) for row, features in zip(rows, found, strict=True)]

    def packed_gradients(self, rows: Sequence[PackedRow] | None = None) -> dict[str, Tensor]:
        return gradients(self.adapter.model, self.packed(rows), self.coefficients)

    def difference(self, rows: Sequence[PackedRow] | None = None) -> float:
        with torch.no_grad():
            return float((self.packed(rows) - self.plain).abs().max())


def is_installed(case: FamilyCase) -> bool:
    """Whether the family is exact under this version of transformers, and its processor's packages are there."""
    version = transformers.__version__
    is_exact = Version(version) >= Version(case.since) and version not in case.except_in
    return is_exact and (case.needs is None or find_spec(case.needs) is not None)


def skip_unless_installed(case: FamilyCase) -> None:
    if not is_installed(case):
        versions = f"transformers {case.since}" + "".join(f", not {each}" for each in case.except_in)
        pytest.skip(f"needs {versions}" + (f" and {case.needs}" if case.needs else ""))


def make_bench(family: str, case: FamilyCase, root: Path) -> Bench:
    skip_unless_installed(case)
    return open_bench(write_tiny_model(root / "tiny", family, 1, tie_word_embeddings=case.is_tied), case, root)


def open_bench(tiny: Path, case: FamilyCase, root: Path) -> Bench:
    adapter = load_case(case, tiny)
    shake(adapter)
    adapter.save(root / "saved")
    return Bench(case, adapter, root / "saved")


def load_case(case: FamilyCase, folder: Path, **config: Any) -> BaseAdapter:
    adapter = load_adapter(ModelConfig(path=str(folder), **{"dtype": "float32", **case.config, **config}))
    assert isinstance(adapter, BaseAdapter)
    return adapter


def reload(bench: Bench, **config: Any) -> Bench:
    """The same weights under other keys of ``ModelConfig``, beside the same truth."""
    return replace(bench, adapter=load_case(bench.case, bench.folder, **config))


def under(bench: Bench, attention: str) -> Bench:
    """As ``reload``, with another attention; the truth computes scores in the same order."""
    other = reload(bench, attention=attention)
    other.model.set_attn_implementation("eager" if attention == "eager" else bench.model.config._attn_implementation)
    return other


@torch.no_grad()
def shake(adapter: BaseAdapter, seed: int = 1) -> None:
    """Moves every weight from where a symmetric start would hide a mistake; the pad token, too, means something."""
    draws = torch.Generator().manual_seed(seed)
    for parameter in adapter.model.parameters():
        if parameter.dim() > 1 and 0 < float(parameter.std()) < 0.1:
            parameter.mul_(0.1 / float(parameter.std()))
        if parameter.dim() <= 1 or bool((parameter == parameter.flatten()[0]).all()):
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=draws))
    pad = adapter.model.get_input_embeddings().weight[adapter.pad_token_id]
    pad.add_(0.1 * torch.randn(pad.shape, generator=draws))


def gradients(model: Any, log_probs: Tensor, coefficients: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    (log_probs * coefficients).sum().backward(retain_graph=True)
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


KEY_BIAS = re.compile(r"(vision|pooling).*k_proj\.bias$")
"""Without rotary positions it moves all scores of a query alike, so its gradient is rounding."""


def worst_gradient(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> tuple[float, str]:
    """The largest relative error of a parameter's gradient, and its name.

    A key's bias in a tower (``KEY_BIAS``) has none while its gradient is less than a millionth of the largest.
    """
    largest, none = max(float(each.norm()) for each in expected.values()), torch.zeros(())
    errors = [(0.0, "")]
    for name in {*found, *expected}:
        one, other = found.get(name, none), expected.get(name, none)
        is_rounding = KEY_BIAS.search(name) and max(one.norm(), other.norm()) < 1e-6 * largest
        if not is_rounding and not torch.equal(one, other):
            errors.append((float((one - other).norm() / other.norm()), name))
    return max(errors)


# --- the families ---

PATCHES_28: tuple[Sizes, ...] = ([], [(84, 56)], [(28, 56), (84, 28), (56, 56)], [(56, 112)])
PATCHES_32: tuple[Sizes, ...] = ([], [(96, 64)], [(32, 64), (96, 32), (64, 64)], [(64, 128)])


SHARED_MUTATIONS = {"positions start late": positions_start_late, "images swapped": images_swapped}
PLAIN_MUTATIONS = {**SHARED_MUTATIONS, "completions see each other": one_mask}
JOINED_MUTATIONS = {**PLAIN_MUTATIONS, "groups see each other": one_group}
QWEN3_MUTATIONS = {**JOINED_MUTATIONS, "no depths": no_depths}
OF_28 = {"min_pixels": 1568, "max_pixels": 40_000}
OF_32 = {"min_pixels": 2048, "max_pixels": 50_000}
RECURRENT_MUTATIONS = {
    **PLAIN_MUTATIONS,
    "not regrouped": not_regrouped,
    "state of another prompt": state_of_another,
    "padding in the state": padding_in_state,
}
TILES: tuple[Sizes, ...] = ([], [(120, 50)], [(30, 40), (200, 90), (84, 84)], [(70, 160)])
ONE_SIZE: tuple[Sizes, ...] = ([], [(84, 56)], [(28, 56), (84, 28), (56, 56)], [(56, 112)])
WITH_IMAGES: tuple[Sizes, ...] = ([(28, 28)], *ONE_SIZE[1:])
DENSE = ("sdpa", "eager")
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj", "qkv")
GEMMA3_MUTATIONS = {**SHARED_MUTATIONS, **mask_mutations(Gemma3Adapter)}
GEMMA4_MUTATIONS = {**SHARED_MUTATIONS, **mask_mutations(Gemma4Adapter), "no cap": no_cap}
PALI_MUTATIONS = {**SHARED_MUTATIONS, **mask_mutations(PaliGemmaAdapter), "no cap": no_cap}
MOLMO_MUTATIONS = {**SHARED_MUTATIONS, "no later token": see_no_later_token, "patches": count_patches_by_prompt}

CASES: dict[str, FamilyCase] = {
    "qwen2_vl": FamilyCase(PATCHES_28, OF_28, mutations=JOINED_MUTATIONS),
    "qwen2_5_vl": FamilyCase(PATCHES_28, OF_28, mutations=JOINED_MUTATIONS),
    "qwen3_vl": FamilyCase(PATCHES_32, OF_32, mutations=QWEN3_MUTATIONS),
    "qwen3_vl_moe": FamilyCase(PATCHES_32, OF_32, mutations=QWEN3_MUTATIONS),
    "internvl": FamilyCase(TILES, {"max_tiles": 4}, mutations=JOINED_MUTATIONS),
    "smolvlm": FamilyCase(TILES, {"max_tiles": 4}, except_in=BY_PATCHES, mutations=JOINED_MUTATIONS, needs="num2words"),
    "idefics3": FamilyCase(TILES, {"max_tiles": 4}, mutations=JOINED_MUTATIONS),
    "glm4v": FamilyCase(PATCHES_28, OF_28, mutations=JOINED_MUTATIONS),
    "glm4v_moe": FamilyCase(
        PATCHES_28, OF_28, is_tied=False, adapted=ATTENTION, adapted_since="0.20", mutations=JOINED_MUTATIONS
    ),
    "glm46v": FamilyCase(PATCHES_28, OF_28, mutations=JOINED_MUTATIONS),
    "mistral3": FamilyCase(PATCHES_28, {"max_pixels": 50176}, mutations=JOINED_MUTATIONS),
    "llava_onevision": FamilyCase(TILES, {"max_tiles": 4}, mutations=JOINED_MUTATIONS),
    "gemma3": FamilyCase(ONE_SIZE, is_tied=False, attentions=DENSE, mutations=GEMMA3_MUTATIONS),
    "gemma4": FamilyCase(ONE_SIZE, tolerance=5e-5, is_tied=False, attentions=DENSE, mutations=GEMMA4_MUTATIONS),
    "paligemma": FamilyCase(
        WITH_IMAGES, completion_type=1, since="5.23", is_tied=False, attentions=("eager",), mutations=PALI_MUTATIONS
    ),
    "molmo2": FamilyCase(TILES, {"max_tiles": 4}, attentions=DENSE, mutations=MOLMO_MUTATIONS),
    "qwen3_5": FamilyCase(PATCHES_32, OF_32, tolerance=5e-5, mutations=RECURRENT_MUTATIONS),
    "qwen3_5_moe": FamilyCase(PATCHES_32, OF_32, tolerance=5e-5, mutations=RECURRENT_MUTATIONS),
    "lfm2_vl": FamilyCase(
        TILES,
        {"max_tiles": 4, "frame": "grid_1000"},
        too_narrow=((300, 20), (600, 24), (400, 10)),
        mutations=RECURRENT_MUTATIONS,
    ),
    "minicpmv4_6": FamilyCase(TILES, {"max_tiles": 4}, tolerance=5e-5, since="5.23", mutations=RECURRENT_MUTATIONS),
}
CASES = {name: case for name, case in CASES.items() if name in FAMILIES}

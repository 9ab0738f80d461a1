"""Models that the kit has no adapter for, on ordinary rows: exact where the self-check says so, refused elsewhere."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import AutoProcessor, Glm4vProcessor, LlavaModel, LlavaProcessor, PixtralProcessor

from gpg_vl import cli
from gpg_vl.config import ModelConfig, PromptConfig
from gpg_vl.data.images import open_image
from gpg_vl.models import load_adapter
from gpg_vl.models.families import FAMILIES
from gpg_vl.models.folder.paths import resolve_model_path
from gpg_vl.models.tiny import write_tiny_model
from gpg_vl.prompts.builder import PromptBuilder
from gpg_vl.rollout.engine import Sampling
from gpg_vl.rollout.hf import HfEngine
from gpg_vl.update.packing import PackedRow, plan_micro_batches
from gpg_vl.update.self_check import check_packing, check_prefill
from tests.support.builders import SMALL_IMAGES, png, whole
from tests.support.families import CASES, ONE_SIZE, Bench, FamilyCase, open_bench, worst_gradient
from tests.support.hub import put_on_hub
from tests.support.messages import lines_naming, naming
from tests.support.start_tokens import add_start
from tests.support.unknown_models import write_llava, write_pixtral

LIMITS = {**SMALL_IMAGES, "family": "generic"}
UNKNOWN = {"llava": write_llava, "pixtral": write_pixtral}


@pytest.fixture(scope="module")
def open_generic(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Bench]:
    """A tiny model that the kit does not know, or as if it did not, beside plain transformers."""

    def open_it(family: str) -> Bench:
        root = tmp_path_factory.mktemp(family)
        write = UNKNOWN.get(family)
        tiny = write_tiny_model(root / "tiny", family, seed=1) if write is None else write(root / "tiny")
        case = CASES.get(family, FamilyCase(ONE_SIZE))
        return open_bench(tiny, replace(case, config={**case.config, **LIMITS, "max_tiles": None}), root)

    return open_it


def ordinary(bench: Bench) -> list[PackedRow]:
    """One row per completion, in the order of the groups."""
    [rows] = plan_micro_batches(bench.groups, 10**6, 10**6, pack=False)
    place = {id(group.prompt.encoded): number for number, group in enumerate(bench.groups)}
    return sorted(rows, key=lambda row: place[id(row.encoded)])


@pytest.mark.parametrize("family", ["internvl", "qwen2_vl", "mistral3", "llava_onevision", *UNKNOWN])
def test_ordinary_rows_of_any_model_are_plain_ones(open_generic: Callable[[str], Bench], family: str) -> None:
    """Tiles, patches, images of one size; positions on one axis and on three. The kit has nothing for LLaVA, nor for
    Pixtral, which is LLaVA's class with another processor: prompts are those of the processor that the folder names."""
    assert (family in FAMILIES) == (family not in UNKNOWN)
    bench = open_generic(family)
    for prompt in bench.prompts:
        assert list(prompt.encoded.token_ids) == bench.inputs(prompt)["input_ids"][0].tolist()
    rows = ordinary(bench)
    assert check_packing(bench.adapter, rows, 0.7) < 1e-5
    assert check_prefill(bench.adapter, rows, 0.7) < 1e-5
    assert bench.difference(rows) < 1e-5
    error, name = worst_gradient(bench.packed_gradients(rows), bench.plain_gradients)
    assert error < 1e-5, name
    rolled = HfEngine(bench.adapter, 10**6).generate(bench.prompts, 1, Sampling(6, 0.0), [(n,) for n in range(4)])
    for prompt, group in zip(bench.prompts, rolled, strict=True):
        endless = bench.generate(prompt, 6)
        ends = [number for number, token in enumerate(endless, 1) if token in bench.adapter.end_token_ids]
        assert list(group.completions[0].token_ids) == endless[: min(ends, default=6)]
    with pytest.raises(ValueError, match=naming("model.family", "update.pack")):
        check_packing(bench.adapter, whole(*bench.groups), 1.0)


@pytest.mark.parametrize("writes_it", [False, True])
def test_a_prompt_begins_as_the_processors_own(tmp_path: Path, writes_it: bool) -> None:
    """The tokenizer adds a token to a chat whose template does not write it, and to a prompt without a template."""
    folder = write_llava(tmp_path / "tiny")
    start = add_start(folder, ["<|endoftext|>"], writes_it=writes_it)
    bench = open_bench(folder, FamilyCase(ONE_SIZE, LIMITS), tmp_path)
    base = PromptBuilder(bench.adapter, {}, PromptConfig(template="{question}", style="base"))
    for prompt in bench.prompts:
        assert list(prompt.encoded.token_ids) == bench.inputs(prompt)["input_ids"][0].tolist()
        plain = base.build(prompt.sample)
        shown = {"images": [[open_image(source) for source in prompt.sample.images]]} if prompt.views else {}
        own = bench.processor(text=[plain.text], **shown)["input_ids"][0]
        assert list(plain.encoded.token_ids) == own
        for found in (prompt, plain):
            assert bench.adapter.decode(found.encoded.token_ids).count(start) == 1
            assert bench.adapter.count_tokens(found.text, found.views) == len(found.encoded.token_ids)


def test_a_model_that_is_not_exact_this_way_is_refused(open_generic: Callable[[str], Bench]) -> None:
    """Features that enter at several depths are more than is known of any model."""
    bench = open_generic("qwen3_vl")
    with pytest.raises(RuntimeError, match=naming("self-check")):
        check_packing(bench.adapter, ordinary(bench), 1.0)


def test_a_model_that_scales_its_logits_is_refused(open_generic: Callable[[str], Bench]) -> None:
    """As HyperCLOVA X does, behind its head: a rollout would not sample what the model itself does."""
    bench = open_generic("llava")
    bench.adapter.model.lm_head.register_forward_hook(lambda _layer, _inputs, logits: logits / 4)
    with pytest.raises(RuntimeError, match=naming("self-check", "rollout")):
        check_prefill(bench.adapter, ordinary(bench), 1.0)


def test_a_body_that_makes_no_features_of_images_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As that of Mllama, whose layers look at the images themselves."""
    folder = write_llava(tmp_path)
    monkeypatch.delattr(LlavaModel, "get_image_features")
    with pytest.raises(ValueError, match=naming("model.family", folder, "get_image_features")):
        load_adapter(ModelConfig(path=str(folder), **LIMITS), with_weights=False)


def test_pixtral_trains_and_the_log_says_that_prompts_are_repeated(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = write_pixtral(tmp_path / "tiny")
    rows = tmp_path / "rows.jsonl"
    (tmp_path / "1.png").write_bytes(png(84, 56))
    row = {"id": "r", "task": "counting", "images": ["1.png"], "question": "How many?", "answer": "4"}
    rows.write_text(json.dumps(row))
    (tmp_path / "length.py").write_text(
        "def length(completions, **_): return [len(str(c)) % 7 / 7 for c in completions]"
    )
    recipe = {
        "model": {"path": str(folder), **LIMITS}, "data": {"train": [str(rows)]},
        "rewards": {"functions": [str(tmp_path / "length.py:length")]}, "objective": {"beta_th": 0},
        "rollout": {"prompts_per_step": 1, "group_size": 4, "max_new_tokens": 4},
        "run": {"steps": 2, "trackers": [], "output_dir": str(tmp_path / "run")},
    }  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    assert cli.main(["train", str(tmp_path / "recipe.yaml")]) == 2
    assert lines_naming(capfd.readouterr().err, "model.family", "update.pack")
    assert cli.main(["train", str(tmp_path / "recipe.yaml"), "--update.pack", "false"]) == 0
    assert lines_naming(capfd.readouterr().err, "self-check", "update.pack: false")
    saved = AutoProcessor.from_pretrained(resolve_model_path(str(tmp_path / "run")))
    assert isinstance(saved, PixtralProcessor)


def test_only_processors_of_transformers_itself_are_taken(tmp_path: Path) -> None:
    """A name that is code of the folder, or no processor, leaves the one of the model's type."""
    folder = write_llava(tmp_path)
    config = json.loads((folder / "processor_config.json").read_text())
    for name in ("SomeoneElsesProcessor", "Trainer", "AutoProcessor", None):
        (folder / "processor_config.json").write_text(json.dumps({**config, "processor_class": name}))
        adapter = load_adapter(ModelConfig(path=str(folder), **LIMITS), with_weights=False)
        assert type(adapter.processor) is LlavaProcessor  # type: ignore[attr-defined]


def test_a_family_of_the_kit_is_read_by_the_processor_of_its_type(tmp_path: Path) -> None:
    """As published folders of GLM-4.6V, which name the processor of another type."""
    folder = write_tiny_model(tmp_path, "glm4v")
    config = json.loads((folder / "processor_config.json").read_text())
    (folder / "processor_config.json").write_text(json.dumps({**config, "processor_class": "Glm46VProcessor"}))
    adapter = load_adapter(ModelConfig(path=str(folder)), with_weights=False)
    assert type(adapter.processor) is Glm4vProcessor  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("model_type", "told"),
    [
        ("qwen2_vll", ["nearest: qwen2_vl", "transformers", "cannot"]),
        ("llava", ["nearest: llava_onevision", "self-check"]),
        ("bert", ["transformers", "cannot"]),
    ],
)
def test_an_unknown_type_is_told_the_nearest_and_what_generic_would_do(
    tmp_path: Path, model_folders: dict[str, Path], model_type: str, told: list[str]
) -> None:
    folder = shutil.copytree(model_folders["qwen2_vl"], tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": model_type}))
    with pytest.raises(ValueError, match=naming("model.path", folder, model_type, "model.family", *told)) as raised:
        load_adapter(ModelConfig(path=str(folder)))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("model_type", "told"),
    [("qwen2_vll", ["nearest: qwen2_vl", "transformers"]), ("llava", ["nearest: llava_onevision", "self-check"])],
)
def test_so_it_is_for_an_unknown_type_on_the_hub(
    tmp_path: Path,
    model_folders: dict[str, Path],
    model_type: str,
    told: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = shutil.copytree(model_folders["qwen2_vl"], tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": model_type}))
    put_on_hub(folder, "someone/new", monkeypatch)
    with pytest.raises(ValueError, match=naming("model.path", "someone/new", model_type, "model.family", *told)):
        load_adapter(ModelConfig(path="someone/new"))

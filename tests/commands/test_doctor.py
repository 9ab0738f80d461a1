"""`gpg-vl doctor` and `gpg-vl merge`: what they say of a checkpoint."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoProcessor, GenerationConfig

from gpg_vl.cli import main
from gpg_vl.commands.doctor import check_checkpoint
from gpg_vl.config import LoraConfig, ModelConfig, PromptConfig, Recipe
from gpg_vl.models import load_adapter
from gpg_vl.models.families.qwen_vl import QwenVLAdapter
from gpg_vl.models.folder.saving import save_model
from gpg_vl.models.tiny import write_tiny_model
from gpg_vl.run.saved_recipe import recipe_of_model, write_recipe
from tests.support.builders import SMALL_IMAGES
from tests.support.families import CASES, is_installed
from tests.support.messages import lines_naming, naming

LoadModel = Callable[..., QwenVLAdapter]


def test_doctor_reloads_and_lets_it_answer(
    load: LoadModel, model_folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "adapter"
    config = ModelConfig(path=str(model_folders["qwen2_vl"]), lora=LoraConfig(r=4), **SMALL_IMAGES)  # type: ignore[arg-type]
    save_model(load(lora=config.lora), folder, Recipe(model=config), {})
    assert main(["merge", str(folder), str(tmp_path / "merged")]) == 0
    for path, kind in ((folder, f"adapter of {model_folders['qwen2_vl']}"), (tmp_path / "merged", "weights")):
        capsys.readouterr()
        assert main(["doctor", "--checkpoint", str(path)]) == 0
        out = capsys.readouterr().out.splitlines()
        assert re.search(naming(kind, "names", "shapes", "types"), out[0])
        assert out[1].startswith("completion: '") and len(out[1]) > 20
    assert not list((tmp_path / "merged").glob("adapter*"))
    assert main(["merge", str(folder), str(tmp_path / "merged")]) == 2
    assert lines_naming(capsys.readouterr().err, tmp_path / "merged")
    assert main(["merge", str(tmp_path / "merged"), str(tmp_path / "again")]) == 2
    assert lines_naming(capsys.readouterr().err, tmp_path / "merged", "adapter")
    config = json.loads((tmp_path / "merged/config.json").read_text())
    config["text_config"]["hidden_size"] = 64
    (tmp_path / "merged/config.json").write_text(json.dumps(config))
    assert main(["doctor", "--checkpoint", str(tmp_path / "merged")]) == 2
    assert lines_naming(capsys.readouterr().err, "config.json", "mismatched")


@pytest.mark.skipif(not is_installed(CASES["paligemma"]), reason="needs a newer transformers")
def test_a_model_without_a_chat_template_is_merged_and_answers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = write_tiny_model(tmp_path / "base", "paligemma", 1)
    config = ModelConfig(path=str(base), dtype="float32", lora=LoraConfig(r=4))
    save_model(load_adapter(config), tmp_path / "a", Recipe(model=config), {})
    write_recipe(Recipe(model=config), tmp_path / "a/recipe.yaml")
    assert main(["merge", str(tmp_path / "a"), str(tmp_path / "m")]) == 0
    for folder in ("a", "m"):
        capsys.readouterr()
        assert main(["doctor", "--checkpoint", str(tmp_path / folder)]) == 0
        said = capsys.readouterr().out
        assert lines_naming(said, "no chat template") and lines_naming(said, "completion")
    recipe = Recipe(model=ModelConfig(path=str(tmp_path / "m")), prompt=PromptConfig(style="chat"))
    with pytest.raises(ValueError, match=naming("no chat template")):
        list(check_checkpoint(recipe))


@pytest.fixture
def adapter_folder(load: LoadModel, model_folders: dict[str, Path], tmp_path: Path) -> Path:
    config = ModelConfig(path=str(model_folders["qwen2_vl"]), lora=LoraConfig(r=4), **SMALL_IMAGES)  # type: ignore[arg-type]
    recipe = Recipe(model=config, prompt=PromptConfig(template="{question} Now."))
    save_model(load(lora=config.lora), tmp_path / "a", recipe, {})
    write_recipe(recipe, tmp_path / "a/recipe.yaml")
    return tmp_path / "a"


def test_a_merged_model_holds_nothing_that_an_earlier_merge_left(
    adapter_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "m.partial").mkdir()
    (tmp_path / "m.partial/pytorch_model.bin").write_bytes(b"left")
    before = os.umask(0o022)
    try:
        assert main(["merge", str(adapter_folder), str(tmp_path / "m")]) == 0
    finally:
        os.umask(before)
    names = {path.name for path in (tmp_path / "m").iterdir()}
    assert {"model.safetensors", "config.json", "generation_config.json", "recipe.yaml", "README.md"} <= names
    assert "pytorch_model.bin" not in names
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "m").iterdir()} == {0o644}
    assert {path.name for path in tmp_path.iterdir()} == {"a", "m", "m.partial"}


def test_what_the_run_bounded_and_asked_is_in_the_merged_folder(
    adapter_folder: Path, tmp_path: Path, load: LoadModel
) -> None:
    """For whoever opens it with transformers alone, and for the kit."""
    assert main(["merge", str(adapter_folder), str(tmp_path / "m")]) == 0
    for folder in (adapter_folder, tmp_path / "m"):
        size = AutoProcessor.from_pretrained(folder).image_processor.size
        assert (size["shortest_edge"], size["longest_edge"]) == (784, 50176)
        ends = GenerationConfig.from_pretrained(folder).eos_token_id
        assert tuple(ends if isinstance(ends, list) else [ends]) == load().end_token_ids
        recipe = recipe_of_model(str(folder))
        assert recipe.prompt.template == "{question} Now." and recipe.model.max_pixels == 50176
    assert recipe_of_model(str(tmp_path / "m")).model.lora is None


@pytest.mark.parametrize("out", ["a", "a/merged", "file", "link"])
def test_merge_writes_nowhere_that_is_taken(
    adapter_folder: Path, tmp_path: Path, out: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert main(["merge", str(adapter_folder), str(tmp_path / out)]) == 2
    assert lines_naming(capsys.readouterr().err, tmp_path / out)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_doctor_shows_no_traceback(
    model_folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever is wrong with a folder."""
    for number, (name, content) in enumerate(
        (file, text)
        for file in ("config.json", "tokenizer.json", "tokenizer_config.json", "processor_config.json",
                     "generation_config.json", "model.safetensors")
        for text in ("", "[]", "{}", '{"model_type": "qwen2_vl", "text_config": {"hidden_size": "x"}}')
    ):  # fmt: skip
        folder = shutil.copytree(model_folders["qwen2_vl"], tmp_path / str(number))
        (folder / name).write_text(content)
        code = main(["doctor", "--checkpoint", str(folder)])
        said = capsys.readouterr().err
        assert code in (0, 2), (name, content)
        assert code == 0 or len([line for line in said.splitlines() if line.startswith("gpg-vl doctor")]) == 1
        assert "Traceback" not in said

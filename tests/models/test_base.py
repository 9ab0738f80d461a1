"""Chat templates of a model's folder that fail, or that show no image: one line that names the model and no row."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_tools import check
from gpg_vl import cli
from gpg_vl.config import ModelConfig, PromptConfig
from gpg_vl.errors import ModelMistake
from gpg_vl.models import load_adapter
from gpg_vl.models.families.qwen_vl import QwenVLAdapter
from gpg_vl.prompts.builder import PromptBuilder
from gpg_vl.tasks import TASKS
from tests.support.builders import SMALL_IMAGES, make_sample, png
from tests.support.messages import naming

IMAGES = (
    "{% for c in m.content %}{{ '<|vision_start|><|image_pad|><|vision_end|>' if c.type == 'image' else c.text }}"
    "{% endfor %}"
)
TEMPLATES = {
    "no image": "{% for m in messages %}{{ m.role }}: {% for c in m.content %}{{ c.text }}{% endfor %}{% endfor %}",
    "two images each": "{% for m in messages %}{{ m.role }}<|image_pad|>" + IMAGES + "{% endfor %}",
    "strings": "{% for m in messages %}{{ m.role + ': ' + m.content }}{% endfor %}",
    "raises": "{{ raise_exception('only for tools') }}",
    "divides": "{{ 1 / 0 }}",
    "syntax": "{% for m in messages %}{{ m.role }",
}
SOUND = (
    "{% for m in messages %}{{ m.role }}: " + IMAGES + "{% endfor %}{% if add_generation_prompt %}model: {% endif %}"
)


@pytest.fixture
def folder_with(model_folders: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    def write(template: str) -> Path:
        folder = shutil.copytree(model_folders["qwen2_vl"], tmp_path / "model")
        (folder / "chat_template.jinja").write_text(template)
        return folder

    return write


def build(folder: Path, **config: Any) -> str:
    adapter = load_adapter(ModelConfig(path=str(folder), **SMALL_IMAGES), with_weights=False)
    return PromptBuilder(adapter, TASKS, PromptConfig(**config)).build(make_sample([(84, 84), (56, 84)])).text


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_a_template_that_does_not_work(folder_with: Callable[[str], Path], template: str) -> None:
    folder = folder_with(template)
    with pytest.raises(ModelMistake, match=naming("model.path", folder, "chat template", "prompt.style")) as raised:
        build(folder)
    assert "sample" not in str(raised.value) and "\n" not in str(raised.value)
    assert build(folder, style="base").endswith("<think>"), "the way out that it names"


def test_a_template_without_system_messages(folder_with: Callable[[str], Path]) -> None:
    folder = folder_with("{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + SOUND)
    assert build(folder).count("<|image_pad|>") == 2
    with pytest.raises(ModelMistake, match=naming("model.path", folder, "no system", "prompt.system")):
        build(folder, system="Be brief.")


def test_whether_a_template_opens_the_answer(
    folder_with: Callable[[str], Path], load: Callable[..., QwenVLAdapter]
) -> None:
    assert load().opens_answer()
    folder = folder_with(SOUND.replace("add_generation_prompt", "false"))
    assert not load_adapter(ModelConfig(path=str(folder), **SMALL_IMAGES), with_weights=False).opens_answer()


@pytest.mark.parametrize("command", ["train", "eval", "ask", "doctor", "check"])
def test_every_command_says_it_in_a_line(
    folder_with: Callable[[str], Path], tmp_path: Path, command: str, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = folder_with(TEMPLATES["no image"])
    (tmp_path / "1.png").write_bytes(png(84, 84))
    rows = tmp_path / "rows.jsonl"
    row = {"id": "r", "task": "counting", "images": ["1.png"], "question": "How many?", "answer": "4"}
    rows.write_text(json.dumps(row) + "\n" + json.dumps({**row, "id": "s"}))
    (tmp_path / "recipe.yaml").write_text(f"{{model: {{path: {folder}}}, data: {{train: {rows}}}}}")
    words = {
        "train": ["train", tmp_path / "recipe.yaml", "--run.output_dir", tmp_path / "run"],
        "eval": ["eval", folder, "--data", rows],
        "ask": ["ask", folder, "--question", "How many?", "--image", tmp_path / "1.png"],
        "doctor": ["doctor", "--checkpoint", folder],
        "check": [rows, "--model", folder, "--workers", 1],
    }[command]
    run = check.main if command == "check" else cli.main
    assert run(list(map(str, words))) == 2
    said = capfd.readouterr().err
    assert "Traceback" not in said
    assert said.count("model.path") == 1 and "row 1" not in said


def test_a_template_that_ignores_the_generation_prompt_is_noted(
    folder_with: Callable[[str], Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = folder_with(SOUND.replace("add_generation_prompt", "false"))
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"id": "r", "task": "counting", "images": [], "question": "How many?", "answer": "4"}))
    (tmp_path / "recipe.yaml").write_text(
        f"{{model: {{path: {folder}, dtype: fp32}}, data: {{train: {rows}}}, run: {{steps: 1, trackers: []}},"
        " rollout: {prompts_per_step: 1, group_size: 2, max_new_tokens: 2}, objective: {beta_th: 0}}"
    )
    assert cli.main(["train", str(tmp_path / "recipe.yaml"), "--run.output_dir", str(tmp_path / "run")]) == 0
    assert "add_generation_prompt" in capfd.readouterr().err

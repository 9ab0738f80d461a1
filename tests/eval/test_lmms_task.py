"""Kit rows as a task of lmms-eval: what it shows the model and how it scores are the kit's.

lmms-eval itself is not in this environment; ``eval/lmms.sh`` runs it in its own (docs/evaluation.md).
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import datasets
import pytest
import yaml
from PIL import Image

from eval import lmms_task
from eval.lmms_scoring import doc_to_messages, doc_to_text, encode_conversation, process_results
from gpg_vl.config import Recipe
from gpg_vl.evaluation.score_file import score_rows
from gpg_vl.models import load_adapter
from gpg_vl.preflight.start import load_evaluation
from gpg_vl.prompts.length import build_prompts, evaluation_room
from gpg_vl.run.saved_recipe import recipe_of_model
from tests.support.builders import png
from tests.support.messages import lines_naming, naming

ANSWER = "<think>two and two</think><answer>{}</answer>"


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    (tmp_path / "a.png").write_bytes(png(60, 40))
    (tmp_path / "b.png").write_bytes(png(84, 84, 1))
    given = [
        {"id": "1", "task": "counting", "images": ["a.png"], "question": "How many?", "answer": "4"},
        {"id": "2", "task": "grounding", "images": ["a.png"], "question": "Where?", "answer": "[0, 0, 30, 20]"},
        {"id": "3", "task": "counting", "images": ["a.png", "b.png"], "question": "<image> or <image>?", "answer": "1"},
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({**row, "meta": {}}) + "\n" for row in given))
    return path


def recipe_for(model: Path, rows: Path) -> Recipe:
    return recipe_of_model(str(model), None, ["--data.eval", json.dumps([str(rows)]), "--model.frame", "grid_1000"])


def test_the_model_is_shown_the_kits_prompt(model_folders: dict[str, Path], rows: Path, tmp_path: Path) -> None:
    recipe = recipe_for(model_folders["qwen2_vl"], rows)
    recipe = replace(recipe, prompt=replace(recipe.prompt, system="Look twice."))
    assert lmms_task.write_task(recipe, tmp_path / "task") == 3
    docs = datasets.load_from_disk(tmp_path / "task/rows")["test"]
    adapter = load_adapter(recipe.model, with_weights=False)
    checked = load_evaluation(recipe)
    prompts = build_prompts(recipe, checked.tasks, adapter, evaluation_room(recipe, adapter))
    for doc, sample in zip(docs, checked.sources[0].samples, strict=True):
        messages = doc_to_messages(doc)
        text = adapter.processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)  # type: ignore[attr-defined]
        assert text == prompts.measure(sample).text
        shown = [part["url"] for part in messages[-1]["content"] if part["type"] == "image"]
        assert [image.size for image in shown] == [Image.open(path).size for path in sample.images]
        assert doc_to_text(doc) == "".join(p["text"] for p in messages[-1]["content"] if p["type"] == "text")


THINKS = "{% if not enable_thinking | default(true) %}<think>\n\n</think>\n\n{% endif %}"


@pytest.fixture
def thinking_model(model_folders: dict[str, Path], tmp_path: Path) -> Path:
    """A model whose chat template knows ``enable_thinking``."""
    folder = shutil.copytree(model_folders["qwen2_vl"], tmp_path / "thinks")
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text() + "{% if add_generation_prompt %}" + THINKS + "{% endif %}")
    return folder


@pytest.mark.parametrize("thinking", ["auto", "on", "off"])
def test_thinking_is_asked_for_as_gpg_vl_eval_does(
    thinking_model: Path, rows: Path, tmp_path: Path, thinking: str
) -> None:
    recipe = recipe_for(thinking_model, rows)
    recipe = replace(recipe, prompt=replace(recipe.prompt, thinking=thinking))  # type: ignore[arg-type]
    lmms_task.write_task(recipe, tmp_path / "task")
    described = (tmp_path / f"task/{lmms_task.TASK}.yaml").read_text().partition("doc_to_visual")[0]
    settings = yaml.safe_load(described)["generation_kwargs"]
    adapter = load_adapter(recipe.model, with_weights=False)
    prompts = build_prompts(recipe, load_evaluation(recipe).tasks, adapter, evaluation_room(recipe, adapter))
    samples = load_evaluation(recipe).sources[0].samples
    for doc, sample in zip(datasets.load_from_disk(tmp_path / "task/rows")["test"], samples, strict=True):
        inputs = encode_conversation(adapter.processor, doc_to_messages(doc), settings)  # type: ignore[attr-defined]
        prompt = prompts.build(sample)
        found, expected = inputs["input_ids"][0].tolist(), prompt.encoded.token_ids
        assert [each for each, _ in groupby(found)] == [each for each, _ in groupby(expected)], "images of any size"
        assert prompt.text.endswith("</think>\n\n") is (thinking == "off")


def test_a_prompt_that_is_no_chat_is_refused(model_folders: dict[str, Path], rows: Path, tmp_path: Path) -> None:
    recipe = recipe_for(model_folders["qwen2_vl"], rows)
    recipe = replace(recipe, prompt=replace(recipe.prompt, style="base"))
    with pytest.raises(ValueError, match=naming("prompt.style", "chat")):
        lmms_task.write_task(recipe, tmp_path / "task")
    assert not (tmp_path / "task").exists()


def test_scores_are_the_kits(model_folders: dict[str, Path], rows: Path, tmp_path: Path) -> None:
    recipe = recipe_for(model_folders["qwen2_vl"], rows)
    lmms_task.write_task(recipe, tmp_path / "task")
    counting, grounding, _ = datasets.load_from_disk(tmp_path / "task/rows")["test"]
    for text in (ANSWER.format("4"), ANSWER.format("5"), "4", ANSWER.format("4") + ANSWER.format("4")):
        [expected] = score_rows("counting", [{"completion": text, "answer": "4"}])
        assert process_results(counting, [text]) == {"score": expected.parts["correct"], "reward": expected.total}
    found = process_results(grounding, [ANSWER.format("[0, 0, 500, 500]")])
    assert found["score"] == pytest.approx(1.0), "on the model's 0-1000 grid"
    assert process_results({**counting, "rules": json.dumps({**json.loads(counting["rules"]), "opening": "<think>\n"})},
                           [ANSWER.format("4").removeprefix("<think>")])["reward"] == pytest.approx(1.2)  # fmt: skip


def test_the_description_names_functions_that_exist(
    model_folders: dict[str, Path], rows: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = [str(model_folders["qwen2_vl"]), "--data", str(rows), "--out", str(tmp_path / "task")]
    words += ["--model.frame", "grid_1000", "--evaluation.max_new_tokens", "26"]
    assert lmms_task.main(words) == 0
    capfd.readouterr()
    named: list[str] = []

    class Loader(yaml.SafeLoader):
        pass

    Loader.add_constructor("!function", lambda loader, node: named.append(loader.construct_scalar(node)))  # type: ignore[arg-type]
    described = yaml.load((tmp_path / f"task/{lmms_task.TASK}.yaml").read_text(), Loader)
    from eval import lmms_scoring

    assert all(callable(getattr(lmms_scoring, name.removeprefix("eval.lmms_scoring."))) for name in named)
    assert len(named) == 4 and described["generation_kwargs"]["max_new_tokens"] == 26
    assert described["reasoning_tags"] == "none", "lmms-eval would cut the reasoning out before it is scored"
    assert [metric["metric"] for metric in described["metric_list"]] == ["score", "reward"]
    assert lmms_task.main(words) == 2
    assert lines_naming(capfd.readouterr().err, "--out", tmp_path / "task")


def test_a_row_with_a_video_is_named(model_folders: dict[str, Path], tmp_path: Path) -> None:
    row = {"id": "v1", "task": "counting", "videos": [["a.png"]], "question": "How many?", "answer": "4"}
    (tmp_path / "a.png").write_bytes(png(60, 40))
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    with pytest.raises(ValueError, match="v1"):
        lmms_task.write_task(recipe_for(model_folders["qwen2_vl"], tmp_path / "rows.jsonl"), tmp_path / "task")

"""Kit rows -> a task of lmms-eval that asks as the kit does and scores with the kit's own rules.

    python -m eval.lmms_task MODEL --data FILE --out DIR
    eval/lmms.sh MODEL gpg_vl_rows OUT --include_path DIR

The rows are written with the prompts that the model's recipe makes of them; ``eval.lmms_scoring`` reads them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from eval.lmms_scoring import THINKING
from gpg_vl.config import Recipe
from gpg_vl.data.images import BadImage, open_image
from gpg_vl.preflight.start import load_evaluation
from gpg_vl.processes.command_line import OneLineParser
from gpg_vl.processes.exit_codes import run_command
from gpg_vl.processes.text_encoding import use_utf8
from gpg_vl.records import Sample
from gpg_vl.run.saved_recipe import recipe_of_model
from gpg_vl.screen import tell

if TYPE_CHECKING:
    from gpg_vl.prompts.builder import PromptBuilder

TASK = "gpg_vl_rows"
SCORES = ("score", "reward")
_COLUMNS = ("id", "task", "question", "answer", "system", "parts", "meta", "rules")


def main(argv: Sequence[str] | None = None) -> int:
    if argv is None:
        use_utf8()
    return run_command("eval.lmms_task", lambda: _run(list(sys.argv[1:] if argv is None else argv)))


def _run(words: list[str]) -> None:
    parser = OneLineParser(
        prog="python -m eval.lmms_task",
        description="Writes kit rows as a task of lmms-eval, scored with the kit's own rules.",
        epilog="Every other --section.key VALUE overrides the recipe, e.g. --prompt.template '{question}'.",
        allow_abbrev=False,
    )
    parser.add_argument("model", help="model folder, run folder, or name on the hub; its recipe makes the prompts")
    parser.add_argument("--data", nargs="+", required=True, help="files of rows, as for gpg-vl eval")
    parser.add_argument("--out", type=Path, required=True, help="new folder for the task")
    parser.add_argument("--recipe", help="recipe; default: the one saved with the model, if any")
    options, overrides = parser.parse_known_args(words)
    if options.out.exists():
        raise ValueError(f"--out: {options.out} exists; name a new folder")
    recipe = recipe_of_model(options.model, options.recipe, [*overrides, "--data.eval", json.dumps(options.data)])
    num_rows = write_task(recipe, options.out)
    tell(f"{options.out}: {num_rows} rows as the task {TASK}")


def write_task(recipe: Recipe, out: Path) -> int:
    """Writes the rows of ``data.eval`` and the file that describes the task to lmms-eval; returns how many rows.

    Raises:
        ValueError: a row cannot be used, or has a video; or the recipe's prompts are no chat
    """
    checked = load_evaluation(recipe)
    import datasets

    from gpg_vl.models import load_adapter
    from gpg_vl.prompts.length import build_prompts, evaluation_room

    adapter = load_adapter(recipe.model, with_weights=False)
    room = evaluation_room(recipe, adapter)
    prompts = build_prompts(recipe, checked.tasks, adapter, room)
    if not prompts.is_chat:
        raise ValueError(
            "prompt.style: lmms-eval asks by the chat template, and the prompts of this recipe are plain text; set it "
            "to chat, or use gpg-vl eval"
        )
    samples = [sample for source in checked.sources for sample in source.samples]
    rows = list(_rows(samples, prompts, recipe))
    text = datasets.Value("string")
    features = {**dict.fromkeys(_COLUMNS, text), "images": datasets.List(datasets.Image())}
    table = datasets.Dataset.from_list(rows, features=datasets.Features(features))
    out.mkdir(parents=True)
    datasets.DatasetDict({"test": table}).save_to_disk(out / "rows")
    (out / f"{TASK}.yaml").write_text(_describe(out / "rows", room.max_new_tokens, prompts.thinking), encoding="utf-8")
    return len(rows)


def _rows(samples: Sequence[Sample], prompts: PromptBuilder, recipe: Recipe) -> Iterator[dict[str, Any]]:
    from gpg_vl.models.inputs.parts import Medium
    from gpg_vl.prompts.media_places import place_media
    from gpg_vl.verifiers.reasoning import opened_reasoning

    hosts, shrink = recipe.data.image_hosts, recipe.data.on_large_image == "shrink"
    for sample in samples:
        if sample.videos:
            raise ValueError(f"row {sample.id} has a video, which this task cannot hold; leave it out")
        try:
            layout = prompts.measure(sample)
        except BadImage as error:
            raise ValueError(f"row {sample.id}: {error}") from error
        parts = [None if isinstance(part, Medium) else part for part in place_media(layout.request, layout.views)]
        rules = {
            "weights": recipe.rewards.weights,
            "answer_in": recipe.prompt.answer_in,
            "opening": opened_reasoning(layout.text),
            "views": [asdict(view) for view in layout.views],
        }
        yield {
            "id": sample.id, "task": sample.task, "question": sample.question, "answer": sample.answer,
            "system": layout.system or "", "parts": json.dumps(parts), "meta": json.dumps(sample.meta),
            "rules": json.dumps(rules), "images": [open_image(each, hosts, shrink) for each in sample.images],
        }  # fmt: skip


def _describe(rows: Path, max_new_tokens: int, thinking: bool | None) -> str:
    functions = ("doc_to_visual", "doc_to_text", "doc_to_messages", "process_results")
    asked = {} if thinking is None else {THINKING: thinking}
    plain = {
        "task": TASK,
        "dataset_path": str(rows.resolve()),
        "dataset_kwargs": {"load_from_disk": True},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_target": "answer",
        "reasoning_tags": "none",  # the kit's rules read the reasoning too
        "generation_kwargs": {"max_new_tokens": max_new_tokens, "temperature": 0.0, "do_sample": False, **asked},
        "metric_list": [{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in SCORES],
        "metadata": [{"version": 1}],
    }
    return yaml.safe_dump(plain, sort_keys=False) + "".join(
        f"{name}: !function eval.lmms_scoring.{name}\n" for name in functions
    )


if __name__ == "__main__":
    sys.exit(main())

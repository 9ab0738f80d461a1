"""Small versions of whole published sources: the files that scripts/reproduce needs, and a tiny model to train on them.

    python -m data_tools.published_sources NAME DATA MODEL

NAME is the name of a script in scripts/reproduce. The files have the published formats, as in the converters' tests;
the pictures have nothing to do with the answers.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from data_tools.published_files import picture, sat_row, write_image_rows, write_lines, write_sat, write_zip
from gpg_vl.models.tiny import ModelType, write_tiny_model

NUM_ROWS = 4
FINE_GRAINED = {
    "ViRFT_CLS_flower_4_shot": ("oxford_flowers", "oxford_flowers/jpg"),
    "ViRFT_CLS_pets37_4shot": ("pets", "pets/images"),
    "ViRFT_CLS_fgvc_aircraft_4_shot": ("fgvc_aircraft", "fgvc-aircraft-2013b/data/images"),
    "ViRFT_CLS_car196_4shot": ("stanford_cars", "cars_test"),
}


def write_geoqa(data: Path) -> None:
    _write_r1v(data, "GEOQA_R1V_Train_8K", "geoqa_test_prompts.jsonl", "145°", "./Geo170K/images/test/{}.png", str)


def write_clevr(data: Path) -> None:
    images = "superCLEVR_new_{:06}.png"
    _write_r1v(data, "clevr_cogen_a_train", "superclevr_test200_counting_problems.jsonl", "4", images, int)


def _write_r1v(
    data: Path, train: str, test: str, answer: str, image_path: str, as_gold: Callable[[str], str | int]
) -> None:
    solution = f"<answer> {answer.removesuffix('°') if as_gold is int else answer} </answer>"
    rows = [{"image": n, "problem": f"What is number {n}?", "solution": solution} for n in range(NUM_ROWS)]
    write_image_rows(data / train / "data/train-00000-of-00001.parquet", rows)
    paths = [image_path.format(n) for n in range(NUM_ROWS)]
    gold = as_gold(answer)
    write_lines(data / test, [{"image_path": p, "question": "What is it?", "ground_truth": gold} for p in paths])
    members = [path.removeprefix("./Geo170K/") for path in paths]
    write_zip(data / "images.zip", {member: picture(n, kind="PNG") for n, member in enumerate(members)})


def write_sat_and_cvbench(data: Path) -> None:
    write_sat(data / "SAT/SAT_train.parquet", [sat_row(n) for n in range(NUM_ROWS)])
    rows = [
        {
            "image": n, "prompt": "How many? Select from (A) 1 (B) 2.", "choices": ["1", "2"], "answer": "(A)",
            "task": task, "type": "2D", "source": "ADE20K",
        }
        for n, task in enumerate(("Count", "Relation", "Depth", "Distance"))
    ]  # fmt: skip
    write_image_rows(data / "CV-Bench/test.parquet", rows)


def write_lisa(data: Path) -> None:
    shape = {"label": "target", "points": [[30, 20], [60.5, 25], [40, 50]]}
    for split in ("train", "val", "test"):
        folder = data / "ReasonSeg" / split
        folder.mkdir(parents=True)
        for n in range(NUM_ROWS):
            annotation = {"text": [f"thing {n}", "a place to sit"], "is_sentence": True, "shapes": [shape]}
            (folder / f"{n}.json").write_text(json.dumps(annotation), encoding="utf-8")
            (folder / f"{n}.jpg").write_bytes(picture(n))


def write_fine_grained(data: Path) -> None:
    names = ["first kind", "second kind"]
    for train, (labels, images) in FINE_GRAINED.items():
        rows = [
            {"image": n, "problem": "What is this?", "solution": f"<answer>{names[n % 2]}</answer>"}
            for n in range(NUM_ROWS)
        ]
        write_image_rows(data / train / "data/train-0.parquet", rows, mode="RGBA")
        (data / images).mkdir(parents=True)
        entries = []
        for n in range(NUM_ROWS):
            (data / images / f"image_{n}.jpg").write_bytes(picture(n))
            entries.append({f"/data/{images}/image_{n}.jpg": {"label": torch.tensor(n % 2)}})
        torch.save(entries, data / f"{labels}.pth")
        (data / f"{labels}.txt").write_text("\n".join(names), encoding="utf-8")


SOURCES: dict[str, tuple[Callable[[Path], None], ModelType]] = {
    "geoqa": (write_geoqa, "qwen2_5_vl"),
    "clevr": (write_clevr, "qwen2_vl"),
    "sat": (write_sat_and_cvbench, "qwen2_vl"),
    "lisa": (write_lisa, "qwen2_vl"),
    "fine_grained": (write_fine_grained, "qwen2_vl"),
}


def write_source(name: str, data: Path) -> None:
    """Writes the files once; files from an earlier call in ``data`` are kept."""
    if data.is_dir():
        return
    data.mkdir(parents=True)
    SOURCES[name][0](data)


def main(argv: list[str]) -> Any:
    name, data, model = argv
    write_source(name, Path(data))
    write_tiny_model(model, family=SOURCES[name][1])


if __name__ == "__main__":
    main(sys.argv[1:])

"""`data_tools.check`: each kind of bad row is found and named, good ones are not, and the clean copy passes."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from data_tools import command_line, jsonl
from data_tools.check import main
from data_tools.clean_copy import write_copy
from data_tools.file_checks import ROWS_AT_ONCE
from data_tools.published_files import write_lines
from data_tools.row_checks import DataFile, check_row
from gpg_vl.config import DataConfig, ModelConfig, PromptConfig, Recipe
from gpg_vl.data import media_files, videos
from gpg_vl.data.sources import load_source, write_parquet
from gpg_vl.data.videos import FrameSampling
from gpg_vl.models import load_adapter
from gpg_vl.models.tiny import write_tiny_model
from gpg_vl.prompts.length import build_prompts, evaluation_room
from gpg_vl.records import Sample
from gpg_vl.tasks import TASKS
from tests.support.messages import lines_naming, naming
from tests.support.pictures import encode, png_header
from tests.support.videos import Clip, mp4

RED = (200, 30, 30)
WHOLE = "--workers", "1"


def drawing(number: int, size: tuple[int, int] = (120, 90)) -> Image.Image:
    """A picture of its own for every number from 0 to 99."""
    image = Image.new("RGB", size, "white")
    for place in range(8):
        if (number + 1) * 37 >> place & 1:
            image.paste(
                (20 + 25 * place, 90, 200),
                (10 + 25 * (place % 4), 8 + 40 * (place // 4), 30 + 25 * (place % 4), 38 + 40 * (place // 4)),
            )
    image.paste(RED, (0, 0, number + 1, 4))
    return image


def row(number: int, **changes: Any) -> dict[str, Any]:
    fields = {"id": f"r{number}", "task": "counting", "images": [f"{number}.png"]}
    return {**fields, "question": f"How many in {number}?", "answer": "4", **changes}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(8):
        drawing(number).save(tmp_path / f"{number}.png")
    return tmp_path


Check = Callable[..., tuple[int, list[str]]]


@pytest.fixture
def check(capsys: pytest.CaptureFixture[str]) -> Check:
    """Runs the command: the exit code, and what it printed without the spaces that make columns."""

    def run(*words: object) -> tuple[int, list[str]]:
        code = main([*map(str, words), *WHOLE])
        return code, [re.sub(r"  +", " | ", line.strip()) for line in capsys.readouterr().out.splitlines()]

    return run


def test_good_rows_pass(folder: Path, check: Check) -> None:
    rows = [row(n) for n in range(5)]
    rows += [row(5, task="grounding", question="Where?", answer="[3, 5, 40, 60]"), row(6, images=[], question="2 + 2?")]
    rows += [row(7, task="detection", answer=[[0, 0, 120, 90], [5, 5, 6, 6]])]
    code, lines = check(write_lines(folder / "rows.jsonl", rows))
    assert (code, lines) == (0, [f"{folder}/rows.jsonl: 8 rows, none of them bad"])


IMAGES = {
    "truncated": (encode(drawing(0))[:-40], ["truncated"]),
    "bomb": (png_header(9000, 9000), [9000, 20000000]),
    "zero-byte": (b"", ["empty"]),
    "html": (b"<html>404</html>", ["PNG", "JPEG", "WEBP"]),
    "1x1": (encode(Image.new("RGB", (1, 1))), ["1 x 1", 2]),
    "1x300": (encode(Image.new("RGB", (1, 300))), ["1 x 300", 2]),
}


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_images_that_cannot_be_used(folder: Path, check: Check) -> None:
    rows = [row(0)]
    for number, (name, (data, _)) in enumerate(IMAGES.items(), start=1):
        (folder / f"{name}.jpg").write_bytes(data)
        rows.append(row(number, images=[f"{name}.jpg"]))
    rows.append(row(7, images=["missing.png"]))
    code, lines = check(write_lines(folder / "rows.jsonl", rows))
    assert code == 1 and lines[0] == f"{folder}/rows.jsonl: 8 rows, 7 of them bad"
    assert lines[1].startswith("row | id | field | ")
    for number, (name, (_, named)) in enumerate(IMAGES.items(), start=1):
        assert lines[1 + number].startswith(f"{number + 1} | r{number} | images | ")
        assert re.search(naming(f"{folder}/{name}.jpg", *named), lines[1 + number]), lines[1 + number]
    assert re.search(naming("8 | r7 | images |", "missing.png"), lines[8]), lines[8]


def test_unusual_images_that_can_be_used(folder: Path, check: Check) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    drawing(1).convert("CMYK").save(folder / "cmyk.jpg")
    Image.frombytes("I;16", (64, 64), bytes(range(256)) * 32).save(folder / "16-bit.png")
    frames = [drawing(n) for n in (2, 3)]
    frames[0].save(folder / "animated.webp", save_all=True, append_images=frames[1:])
    drawing(4).save(folder / "turned.jpg", exif=turned)
    names = ["cmyk.jpg", "16-bit.png", "animated.webp", "turned.jpg"]
    rows = [row(n, images=[name]) for n, name in enumerate(names)]
    rows.append(row(4, images=["turned.jpg"], task="grounding", question="Where?", answer="[0, 0, 90, 120]"))
    assert check(write_lines(folder / "rows.jsonl", rows))[0] == 0
    rows.append(row(5, images=["turned.jpg"], task="grounding", question="Which?", answer="[0, 0, 120, 90]"))
    code, lines = check(write_lines(folder / "rows.jsonl", rows))
    assert code == 1 and lines[2].startswith("6 | r5 | answer | ") and len(lines) == 4


def test_paths_out_of_the_folder_and_urls(folder: Path, check: Check, tmp_path_factory: pytest.TempPathFactory) -> None:
    secret = tmp_path_factory.mktemp("elsewhere") / "secret.png"
    drawing(1).save(secret)
    (folder / "link.png").symlink_to(secret)
    names = ["../../etc/passwd", str(secret), "link.png", "file:///etc/passwd", "http://169.254.169.254/a.png",
             "http://127.0.0.1/a.png", "https://example.org/a.png"]  # fmt: skip
    code, lines = check(write_lines(folder / "rows.jsonl", [row(n, images=[name]) for n, name in enumerate(names)]))
    assert code == 1 and lines[0].endswith("7 rows, 7 of them bad")
    for number, name in enumerate(names):
        assert re.search(naming(f"{number + 1} | r{number} | images |", repr(name)), lines[2 + number]), lines[
            2 + number
        ]


ROWS: dict[str, tuple[dict[str, Any], str, list[Any]]] = {
    "no question": ({"question": ""}, "question", ["question", "missing"]),
    "a million characters": ({"question": "x" * 1_000_000}, "question", [1000000, 65536]),
    "no count": ({"answer": "four or five"}, "answer", ["four or five"]),
    "unknown task": ({"task": "countign"}, "task", ["countign", "counting"]),
    "box outside": ({"task": "grounding", "answer": "[100, 40, 300, 80]"}, "answer", ["box", "image"]),
    "box without area": ({"task": "grounding", "answer": "[9, 9, 9, 9]"}, "answer", ["[9, 9, 9, 9]"]),
    "no choice": ({"task": "choice", "answer": "up", "meta": {"options": ["down", "left"]}}, "answer", ["up"]),
    "long choices": ({"task": "choice", "answer": "y", "meta": {"options": ["x" * 9000]}}, "answer", ["y"]),
    "long task": ({"task": "4" * 9000}, "task", ["task"]),
    "version of a kind": ({"schema_version": ["x" * 9000]}, "schema_version", ["schema_version", 1]),
    "newer schema": ({"schema_version": 2}, "schema_version", ["schema_version", 2, 1]),
    "meta of no kind": ({"meta": "{"}, "meta", ["meta", "JSON"]),
    "image of no kind": ({"images": [3]}, "images", ["image", "int"]),
}  # fmt: skip


def test_urls_of_a_named_host_are_opened(folder: Path, check: Check) -> None:
    rows = write_lines(folder / "rows.jsonl", [row(1, images=["http://127.0.0.1/a.png"])])
    assert re.search(naming("http://127.0.0.1/a.png", "data.image_hosts"), check(rows)[1][2])
    refused = "".join(check(rows, "--image-hosts", "127.0.0.1")[1])
    assert re.search(naming("http://127.0.0.1/a.png", "private"), refused) and "data.image_hosts" not in refused


def test_the_clean_copy_holds_the_images_of_urls(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media_files, "download", lambda url, hosts, *limits: encode(drawing(int(url[-1]))))
    rows = [row(1), row(2, images=["https://pictures.test/2"]), row(3, images=["https://pictures.test/3"])]
    file = DataFile(str(write_lines(folder / "rows.jsonl", rows)), image_hosts=("pictures.test",))
    checked = [check_row(file, index) for index in range(3)]
    assert [found.finding for found in checked] == [None, None, None]
    assert [found.pictures[0].size for found in checked] == 3 * [(120, 90)]
    assert write_copy(file, {3}, folder / "clean.parquet") == 2
    copied = load_source(str(folder / "clean.parquet")).samples
    assert [sample.images[0] for sample in copied] == [(folder / "1.png").read_bytes(), encode(drawing(2))]


def test_fields_that_cannot_be_used(folder: Path, check: Check) -> None:
    rows = [row(0), *(row(1, id=f"r{n}", **changes) for n, (changes, _, _) in enumerate(ROWS.values(), start=1))]
    code, lines = check(write_lines(folder / "rows.jsonl", rows))
    assert code == 1 and lines[0].endswith(f"{len(rows)} rows, {len(ROWS)} of them bad")
    assert re.search(naming("--fix drop", "--out"), lines[-1])
    for number, ((_, field, named), line) in enumerate(zip(ROWS.values(), lines[2:-1], strict=True), start=1):
        assert line.startswith(f"{number + 1} | r{number} | {field} | ") and re.search(naming(*named), line), line
        assert len(line) < 300 and "; " in line, "a way out"


def test_rows_of_other_columns(folder: Path, check: Check) -> None:
    """The rows of a file may differ; none is taken for one without images because its column has another name."""
    other = {"id": "other", "images": ["1.png"], "problem": "How many?", "solution": "4"}
    renamed = row(1, picture=["1.png"])
    del renamed["images"]
    code, lines = check(write_lines(folder / "rows.jsonl", [row(0), other, renamed]), "--task", "counting")
    assert code == 1
    assert re.search(naming("2 | other | question |", "missing"), lines[2])
    assert re.search(naming("3 | r1 | images |", "missing", "'images'"), lines[3])


def test_lines_that_are_no_rows(folder: Path, check: Check) -> None:
    good = [json.dumps(row(n)) for n in range(3)]
    half = json.dumps(row(3, question="How many? \ud83d"))
    lines = [good[0], '{"id": ', "", '["r"]', good[1], half, "", good[2].replace("?", "\\u00e4")]
    content = "\n".join(lines).encode() + b'\n{"id": "caf\xe9"}\n'
    (folder / "rows.jsonl").write_bytes(content)
    code, table = check(folder / "rows.jsonl", "--fix", "drop", "--out", str(folder / "clean"))
    assert code == 0 and [line.partition(" | ")[0] for line in table[2:-1]] == ["2", "3", "5", "7"]
    assert re.search(naming("2 | row |", "JSON", "Expecting value at 8"), table[2])
    assert "surrogate" in table[4] and "UTF-8" in table[5] and "line 9" in table[5]
    assert len(load_source(str(folder / "clean/rows.parquet")).samples) == 3


def test_no_control_characters_reach_the_screen(folder: Path, check: Check) -> None:
    rows = [row(0, id="\x1b[2Jr\n0" + "x" * 90, answer="\x1b]0;title\x07")]
    code, lines = check(write_lines(folder / "rows.jsonl", rows))
    assert code == 1 and not any(ord(char) < 32 or ord(char) == 127 for line in lines for char in line)
    assert len(lines) == 4


def test_repeated_ids_and_rows(folder: Path, check: Check) -> None:
    drawing(1).convert("RGB").resize((240, 180)).save(folder / "copy.jpg", quality=70)
    rows = [row(0), row(1), row(2, id="r0"), row(1, id="again", images=["copy.jpg"], question=" how  MANY in 1?")]
    rows += [row(3, images=["copy.jpg"]), row(4, images=[]), row(5, images=[], question="How many in 4?")]
    write_lines(folder / "rows.jsonl", rows)
    other = write_lines(folder / "other.jsonl", [row(1)])
    code, lines = check(folder / "rows.jsonl", other)
    assert code == 1
    expected: list[list[object]] = [
        [f"{folder}/rows.jsonl", "7 rows", 3],
        ["row | id | field |"],
        ["3 | r0 | id |", "row 1"],
        ["4 | again | duplicate |", "row 2"],
        ["7 | r5 | duplicate |", "row 6"],
        [f"{folder}/other.jsonl", "1 rows", 1],
        ["row | id | field |"],
        ["1 | r1 | id |", f"{folder}/rows.jsonl", "row 2"],
        ["1 | r1 | duplicate |", f"{folder}/rows.jsonl", "row 2"],
        ["--fix drop", "--out"],
    ]
    for line, named in zip(lines, expected, strict=True):
        assert re.search(naming(*named), line), line


def test_leaks(folder: Path, check: Check) -> None:
    large = drawing(1).resize((360, 270))
    large.save(folder / "1.png")
    large.resize((240, 180)).save(folder / "copy.webp")
    train = write_lines(folder / "train.jsonl", [row(0), row(7, images=["2.png", "copy.webp"]), row(3, images=[])])
    test = write_lines(folder / "test.jsonl", [row(0, id="t", images=["4.png"]), row(1), row(3, images=[])])
    code, lines = check(train, "--test", test)
    assert code == 1
    assert re.search(naming("2 | r7 | leak |", "image", test, "row 2"), lines[2])
    assert re.search(naming("3 | r3 | leak |", "question", test, "row 3"), lines[3])
    assert re.search(naming(test, "3 rows"), lines[4])


def write_video_row(folder: Path) -> Path:
    """Ten seconds, of which a run sees 20 frames by default."""
    (folder / "v.mp4").write_bytes(mp4(Clip(56, 56, 20, 2)))
    return write_lines(folder / "rows.jsonl", [row(1, images=[], videos=["v.mp4"])])


def test_videos_are_judged_by_the_frames_of_the_recipe(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = write_video_row(folder)
    monkeypatch.setattr(videos, "MAX_SEEN_PIXELS", 8 * 56 * 56)
    found = check_row(DataFile(str(rows)), 0).finding
    assert found is not None and found.field == "videos"
    assert re.search(naming("20 frames", "data.max_frames"), found.text)
    for sampling in (FrameSampling(max_frames=8), FrameSampling(fps=0.8)):
        assert check_row(DataFile(str(rows), sampling=sampling), 0).finding is None
    words = ["--source", str(rows), "--out", str(folder / "out/kept.jsonl")]
    assert jsonl.main(words) == 2
    assert jsonl.main([*words, "--max-frames", "8"]) == 0


def test_no_more_than_a_frame_of_a_video_is_held(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_video_row(folder)
    monkeypatch.setattr(videos, "open_video", None)
    checked = check_row(DataFile(str(folder / "rows.jsonl"), sampling=FrameSampling(2, 5)), 0)
    assert checked.finding is None and len(checked.videos[0].times.numbers) == 5


def test_prompts_with_videos_are_as_long_as_in_a_run(
    folder: Path, check: Check, model_folders: dict[str, Path]
) -> None:
    rows = write_video_row(folder)
    limits = {"min_pixels": 784, "max_pixels": 3136, "max_video_pixels": 6 * 1568}
    model = ModelConfig(path=str(model_folders["qwen2_5_vl"]), **limits)  # type: ignore[arg-type]
    recipe = Recipe(model=model, data=DataConfig(fps=1, max_frames=6), prompt=PromptConfig())
    adapter = load_adapter(model, with_weights=False)
    prompts = build_prompts(recipe, {"counting": TASKS["counting"]}, adapter, evaluation_room(recipe, adapter))
    expected = prompts.measure(load_source(str(rows)).samples[0]).num_tokens
    words = [word for name, value in limits.items() for word in (f"--{name.replace('_', '-')}", value)]
    words += ["--model", model_folders["qwen2_5_vl"], "--fps", 1]
    assert re.search(naming("prompts", f"{expected} tokens on average"), check(rows, *words, "--max-frames", 6)[1][-1])
    assert not re.search(naming(f"{expected} tokens on average"), check(rows, *words)[1][-1])
    code, lines = check(rows, *words, "--max-new-tokens", 4096)
    assert code == 1 and re.search(naming("1 | r1 | question |", "--max-frames"), lines[2])


def test_boxes_of_a_model_whose_frame_only_the_recipe_says(folder: Path, check: Check) -> None:
    boxes = row(0, task="grounding", question="Where?", answer="[1, 2, 20, 24]")
    rows = write_lines(folder / "rows.jsonl", [boxes])
    model = ["--model", write_tiny_model(folder / "model", "gemma3")]
    code, lines = check(rows, *model)
    assert code == 1 and lines_naming("\n".join(lines), "1 | r0 |", "model.frame")
    assert check(rows, *model, "--frame", "grid_1000_y_first")[0] == 0
    options = command_line.OneLineParser()
    command_line.add_model_options(options)
    for words in (["--frame", "unit"], ["--family", "generic"]):
        with pytest.raises(ValueError, match=naming(words[0], "--model")):
            command_line.read_model(options.parse_args(words))
        given = command_line.read_model(options.parse_args([*words, "--model", "folder"]))
        assert getattr(given, words[0].strip("-")) == words[1]


def test_prompts_too_long_for_the_model(folder: Path, check: Check, model_folders: dict[str, Path]) -> None:
    long = row(1, question="how many " * 4000)
    hostile = row(2, question="<|im_end|> how many?")
    markers = row(3, question="<image> and <image>?")
    rows = write_lines(folder / "rows.jsonl", [row(0), long, hostile, markers])
    code, lines = check(rows, "--model", model_folders["qwen2_vl"], "--max-new-tokens", 100)
    assert code == 1
    assert re.search(naming("2 | r1 | question |", 100, 4096, "--max-pixels", "--max-new-tokens"), lines[2])
    assert re.search(naming("3 | r2 | question |", "<|im_end|>"), lines[3])
    assert re.search(naming("4 | r3 | question |", 2, "<image>", 1), lines[4])
    assert re.search(naming("prompts", rows, "row 2"), lines[5])


def test_lengths_are_those_of_the_prompts(
    folder: Path, check: Check, model_folders: dict[str, Path], load: Callable[..., Any]
) -> None:
    """Against prompts that are really built; and one token less of room is too little."""
    from gpg_vl.config import PromptConfig
    from gpg_vl.prompts.builder import PromptBuilder
    from gpg_vl.tasks import TASKS

    rows = write_lines(folder / "rows.jsonl", [row(n, images=["0.png"] * n) for n in range(3)])
    prompts = PromptBuilder(load("qwen2_vl", max_pixels=20_000), TASKS, PromptConfig())
    lengths = [len(prompts.build(sample).encoded.token_ids) for sample in load_source(str(rows)).samples]
    model = ("--model", model_folders["qwen2_vl"], "--min-pixels", 784, "--max-pixels", 20_000, "--max-new-tokens")
    code, lines = check(rows, *model, 4096 - max(lengths))
    assert code == 0
    assert re.search(naming("prompts", f"{sum(lengths) / 3:.0f}", max(lengths), rows, "row 3"), lines[1])
    code, lines = check(rows, *model, 4097 - max(lengths))
    assert code == 1 and lines[2].startswith("3 | r2 | question | ")


def test_the_clean_copy_passes(folder: Path, check: Check, tmp_path_factory: pytest.TempPathFactory) -> None:
    (folder / "broken.png").write_bytes(encode(drawing(0))[:-40])
    train = [row(0, meta={"level": 2}), row(1, images=["broken.png"]), row(2, answer="?"), row(0), row(3), row(4)]
    train_file = write_lines(folder / "train.jsonl", train)
    test_file = write_lines(folder / "test.jsonl", [row(4), row(5, task="grounding", answer="[0, 0, 999, 9]")])
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    out = tmp_path_factory.mktemp("clean") / "deep/er"
    code, lines = check(train_file, "--test", test_file, "--fix", "drop", "--out", out)
    assert code == 0
    assert lines[-2:] == [f"{out}/train.parquet: 2 rows written", f"{out}/test.parquet: 1 rows written"]
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert sorted(path.name for path in out.iterdir()) == ["test.parquet", "train.parquet"]
    kept = list(load_source(str(out / "train.parquet")).samples)
    assert [(sample.id, sample.meta) for sample in kept] == [("r0", {"level": 2}), ("r3", {})]
    assert kept[0].images == ((folder / "0.png").read_bytes(),)
    code, lines = check(out / "train.parquet", "--test", out / "test.parquet")
    assert code == 0 and len(lines) == 2


def test_many_rows_of_parquet_in_several_workers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every row is checked once, in order, whatever the number of workers."""
    num = 3 * ROWS_AT_ONCE + 5
    images = [encode(drawing(n)) for n in range(num)]
    images[ROWS_AT_ONCE] = b"no image"
    images[num - 1] = images[0]
    samples = [Sample(f"r{n}", "counting", (image,), "How many?", "4") for n, image in enumerate(images)]
    write_parquet(samples, tmp_path / "rows.parquet")
    printed = []
    for workers in ("1", "2"):
        assert main([str(tmp_path / "rows.parquet"), "--workers", workers]) == 1
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]
    assert [line.split()[0] for line in printed[0].splitlines()[2:4]] == [str(ROWS_AT_ONCE + 1), str(num)]


def test_tasks_of_ones_own(folder: Path, check: Check) -> None:
    (folder / "own.py").write_text(
        "from gpg_vl.tasks.base import Task\n"
        "class Upper(Task):\n"
        "    name = 'upper'\n"
        "    def ask(self, sample, views): return sample.question\n"
        "    def read(self, answer, sample, views): return answer\n"
        "    def score(self, answer, sample, views): return {'correct': float(answer == sample.answer.upper())}\n"
        "    def gold(self, sample, views): return sample.answer.upper()\n"
        "class Broken(Upper):\n"
        "    def score(self, answer, sample, views): return 1 / 0\n"
        "class Dying(Upper):\n"
        "    def score(self, answer, sample, views): __import__('os')._exit(3)\n"
    )
    good = row(0, task=f"{folder}/own.py:Upper", answer="blue")
    broken = row(1, task=f"{folder}/own.py:Broken", answer="blue")
    rows = write_lines(folder / "rows.jsonl", [good, broken])
    code, lines = check(rows)
    assert code == 1 and all("--allow-task" in line and "| task |" in line for line in lines[2:4]), (
        "rows choose no code"
    )
    allowed = ["--allow-task", *(f"{folder}/own.py:{name}" for name in ("Upper", "Broken", "Dying"))]
    code, lines = check(rows, *allowed)
    assert code == 1 and len(lines) == 4
    assert lines[2].startswith("2 | r1 | task | ") and "ZeroDivisionError: division by zero" in lines[2]
    write_lines(folder / "rows.jsonl", [good, row(1, task=f"{folder}/own.py:Dying")])
    assert check(folder / "rows.jsonl", *allowed)[0] == 2


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ([], ["file"]),
        (["missing.jsonl"], ["missing.jsonl"]),
        (["rows.jsonl", "rows.jsonl"], ["rows.jsonl", "twice"]),
        (["rows.jsonl", "--test", "rows.jsonl"], ["rows.jsonl", "twice"]),
        (["rows.jsonl", "--fix", "drop"], ["--fix", "--out"]),
        (["rows.jsonl", "--out", "x"], ["--fix", "--out"]),
        (["rows.jsonl", "--max-pixels", "9999"], ["--max-pixels", "--model"]),
        (["rows.jsonl", "--max-video-pixels", "9999"], ["--max-video-pixels", "--model"]),
        (["rows.jsonl", "--fps", "0"], ["data.fps", "above 0"]),
        (["rows.jsonl", "--columns", "question"], ["--columns", "FIELD=COLUMN"]),
        (["rows.jsonl", "--workers", "0"], ["--workers", "--help"]),
        (["rows.jsonl", "--model", "./nowhere"], ["./nowhere"]),
        (["broken.jsonl"], ["broken.jsonl", "line 1", "JSON"]),
        (["bad.jsonl", "--fix", "drop", "--out", "x"], ["bad.jsonl"]),
        (["sub/rows.jsonl", "rows.jsonl", "--fix", "drop", "--out", "x"], ["rows"]),
        (["rows.parquet", "--fix", "drop", "--out", "."], ["rows.parquet", "--out"]),
    ],
)
def test_mistakes_are_one_line(
    folder: Path,
    words: list[str],
    named: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(folder)
    write_lines(folder / "rows.jsonl", [row(0)])
    write_lines(folder / "sub/rows.jsonl", [row(0, images=[])])
    write_lines(folder / "bad.jsonl", [row(0, answer="?")])
    write_parquet([Sample("r", "counting", (), "How many?", "4")], folder / "rows.parquet")
    (folder / "broken.jsonl").write_text("{\n[]\n")
    before = sorted(os.listdir(folder))
    assert main(words) == 2
    errors = capsys.readouterr().err.strip().splitlines()
    assert errors[-1].startswith("error: ") and re.search(naming(*named), errors[-1]), errors
    assert sorted(set(os.listdir(folder)) - {"x"}) == before
    assert not (folder / "x").exists() or not os.listdir(folder / "x")


def test_progress_shows(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("data_tools.file_checks.SECONDS_BETWEEN_LINES", -1.0)
    write_lines(folder / "rows.jsonl", [row(n, images=[], question=f"{n}?") for n in range(ROWS_AT_ONCE + 1)])
    assert main([str(folder / "rows.jsonl"), *WHOLE]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == [f"checked {n}/17 rows" for n in (ROWS_AT_ONCE, ROWS_AT_ONCE + 1)]


def test_markers_are_counted_without_a_model(folder: Path, check: Check) -> None:
    rows = [
        row(0, question="<image> How many?"),
        row(1, question="<image> or <image>?"),
        row(2, images=["2.png", "3.png"], question="Is <image> larger?"),
        row(3, images=[], question="In HTML, what does <image> stand for?"),
    ]
    code, lines = check(write_lines(folder / "rows.jsonl", rows))
    assert code == 1 and len(lines) == 6
    assert re.search(naming("2 | r1 | question |", 2, "<image>", 1), lines[2])
    assert re.search(naming("3 | r2 | question |", 1, "<image>", 2), lines[3])
    assert re.search(naming("note", "<image>", "row 4"), lines[4])
    code, lines = check(write_lines(folder / "rows.jsonl", [rows[0], rows[3]]))
    assert code == 0 and re.search(naming("<image>", "row 2"), lines[1])


def test_rows_of_another_shape_are_checked(folder: Path, check: Check) -> None:
    chat = {"messages": [{"role": "user", "content": "<image>How many?"}], "solution": "4"}
    rows = [chat | {"images": ["1.png"]}, chat | {"images": None}, chat | {"images": ["2.png"], "solution": "four"}]
    code, lines = check(write_lines(folder / "rows.jsonl", rows), "--task", "counting")
    assert code == 1 and re.search(naming("rows.jsonl", "ms-swift", "messages", "solution"), lines[0])
    assert re.search(naming("2 |", "images", "null"), lines[3]) and re.search(naming("3 |", "answer", "four"), lines[4])


def test_gold_answers_that_nothing_can_reach(folder: Path, check: Check) -> None:
    where = {"task": "grounding", "question": "Where?"}
    rows = [
        row(0, **where, answer=[0.1, 0.2, 0.5, 0.6]),
        row(1, **where, answer=[100, 200, 500, 900]),
        row(2, meta={"reasoning": "two </think> three"}),
        row(3, **where, answer=[[1, 2, 30, 40]]),
    ]
    code, lines = check(write_lines(folder / "rows.jsonl", rows))
    assert code == 1 and [line.split(" | ")[0] for line in lines[2:5]] == ["1", "2", "3"]
    assert re.search(naming("answer", "normalised"), lines[2]) and "reasoning" in lines[4] and len(lines) == 6


def test_a_phones_photo_is_bad_unless_it_is_scaled_down(folder: Path, check: Check) -> None:
    """Its box is in pixels of the file, of which half are decoded."""
    (folder / "photo.jpg").write_bytes(encode(Image.new("RGB", (6000, 4000), "red"), "JPEG"))
    box = row(0, images=["photo.jpg"], task="grounding", question="Where?", answer=[4000, 3000, 6000, 4000])
    path = write_lines(folder / "rows.jsonl", [box])
    code, lines = check(path)
    assert code == 1 and re.search(naming("images", 6000, 4000, "data.on_large_image", "shrink"), lines[2])
    code, lines = check(path, "--on-large-image", "shrink")
    assert (code, len(lines)) == (0, 1)

"""Rows as TRL, verl, EasyR1, ms-swift and LLaVA publish them, in small files of those formats."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from gpg_vl.data.row_formats import find_shape, image_columns
from gpg_vl.data.sources import Source, load_source
from gpg_vl.records import Sample
from tests.support.kit_rows import kit_row, png, save_png, write_lines
from tests.support.messages import naming

QUESTION = "<image>How many shapes?"


def user(content: Any, system: str = "") -> list[dict[str, Any]]:
    first = [{"role": "system", "content": system}] if system else []
    return [*first, {"role": "user", "content": content}]


PARTS = [{"type": "image"}, {"type": "text", "text": "How many shapes?"}]
ASSISTANT = {"role": "assistant", "content": "<think>one, two, three</think><answer>3</answer>"}
TURNS = [{"from": "human", "value": QUESTION}, {"from": "gpt", "value": "3"}]
MIXED = [{"role": "user", "value": QUESTION}, {"from": "gpt", "content": [{"type": "output_text", "text": "3"}]}]

SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "trl": ("TRL", {"prompt": user(PARTS), "images": ["1.png"], "solution": "<answer>3</answer>"}),
    "trl-text": ("TRL", {"prompt": user(QUESTION), "image": "1.png", "ground_truth": 3}),
    "trl-completion": ("TRL", {"prompt": user(PARTS), "images": ["1.png"], "completion": [ASSISTANT]}),
    "verl": (
        "verl",
        {"data_source": "geo", "prompt": user(QUESTION), "images": ["1.png"], "ability": "math",
         "reward_model": {"style": "rule", "ground_truth": "3"}, "extra_info": {"split": "train", "index": 0}},
    ),
    "easyr1": ("EasyR1", {"problem": QUESTION, "answer": "3", "images": ["1.png"]}),
    "easyr1-verl": ("verl", {"problem": QUESTION, "reward_model": {"ground_truth": 3}, "images": ["1.png"]}),
    "r1v": ("EasyR1", {"image": "1.png", "problem": QUESTION, "solution": "<answer> 3 </answer>"}),
    "swift": ("ms-swift", {"messages": [*user(QUESTION), ASSISTANT], "images": ["1.png"]}),
    "swift-grpo": ("ms-swift", {"messages": user(QUESTION), "images": [{"path": "1.png"}], "solution": "3"}),
    "swift-query": ("ms-swift", {"query": QUESTION, "response": "3", "images": ["1.png"]}),
    "llava": ("LLaVA", {"id": "000000033471", "image": "1.png", "conversations": TURNS}),
    "mixed-keys": ("LLaVA", {"image": "1.png", "conversations": MIXED}),
}  # fmt: skip


def read(folder: Path, row: dict[str, Any], columns: dict[str, Any] | None = None, name: str = "rows.jsonl") -> Source:
    save_png(folder / "1.png")
    path = write_lines(folder / name, row, row)
    return load_source({"path": path, **({} if columns is None else {"columns": columns})}, task="counting")


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_are_told_by_their_columns(tmp_path: Path, name: str) -> None:
    shape, row = SHAPES[name]
    source = read(tmp_path, row)
    sample = source.samples[1]
    assert (sample.question, sample.answer, sample.images) == (QUESTION, "3", (str(tmp_path / "1.png"),))
    assert sample.id == f"{tmp_path / 'rows.jsonl'}:2"
    assert shape in source.reading and "rows.jsonl" in source.reading and "\n" not in source.reading


@pytest.mark.parametrize("name", ["verl", "swift", "llava", "trl-completion"])
def test_messages_as_the_text_of_a_table(tmp_path: Path, name: str) -> None:
    """As a CSV file has them, or a column that was written as JSON."""
    _, row = SHAPES[name]
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in row.items()}
    sample = read_table(tmp_path, texts)
    assert (sample.question, sample.answer, sample.images) == (QUESTION, "3", (str(tmp_path / "1.png"),))
    row = {"prompt": str(user(QUESTION)), "solution": "3", "images": ["1.png"]}  # Python's own way to write a list
    with pytest.raises(ValueError, match=naming("row 1", "messages", "JSON")):
        _ = read(tmp_path, row).samples[0]


def test_a_table_as_pandas_writes_it(tmp_path: Path) -> None:
    """With a first column without a name, and the keys of an object as columns."""
    texts = {
        "": "0",
        "prompt": QUESTION,
        "reward_model.style": "rule",
        "reward_model.ground_truth": "3",
        "image": "1.png",
    }
    sample = read_table(tmp_path, texts)
    assert (sample.question, sample.answer, sample.images) == (QUESTION, "3", (str(tmp_path / "1.png"),))


def read_table(folder: Path, texts: dict[str, str]) -> Sample:
    save_png(folder / "1.png")
    with (folder / "rows.csv").open("w", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(texts))
        writer.writeheader()
        writer.writerow(texts)
    [sample] = load_source(str(folder / "rows.csv"), task="counting").samples
    return sample


def test_earlier_turns_are_never_left_out(tmp_path: Path) -> None:
    _, row = SHAPES["swift-query"]
    assert read(tmp_path, {**row, "history": []}).samples[0].question == QUESTION
    with pytest.raises(ValueError, match=naming("row 1", "history")):
        _ = read(tmp_path, {**row, "history": [["Hello?", "Hello."]]}).samples[0]


@pytest.mark.parametrize("name", ["trl", "verl", "swift", "swift-grpo"])
def test_shapes_in_parquet_with_the_bytes_of_pictures(tmp_path: Path, name: str) -> None:
    """A table has every key in every struct, null where a part has none."""
    row = {**SHAPES[name][1], "images": [{"bytes": png(), "path": "1.png"}]}
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), tmp_path / "train.parquet")
    sample = load_source(str(tmp_path / "train.parquet"), task="counting").samples[0]
    assert (sample.question, sample.answer, sample.images) == (QUESTION, "3", (png(),))


def test_a_json_list_as_llava_publishes_it(tmp_path: Path) -> None:
    save_png(tmp_path / "1.png")
    rows = [SHAPES["llava"][1], {**SHAPES["llava"][1], "conversations": [*TURNS[:1], {"from": "gpt", "value": "4"}]}]
    (tmp_path / "llava.json").write_text(json.dumps(rows, indent=2), encoding="utf-8")
    source = load_source(str(tmp_path / "llava.json"), task="counting")
    assert [sample.answer for sample in source.samples] == ["3", "4"]
    assert source.samples[0].meta == {"id": "000000033471"}


def test_a_system_message_becomes_the_rows(tmp_path: Path) -> None:
    row = {"prompt": user(PARTS, system="Answer in one word."), "images": ["1.png"], "solution": "3"}
    assert read(tmp_path, row).samples[0].meta == {"system": "Answer in one word."}


def test_other_columns_stay_for_reward_functions(tmp_path: Path) -> None:
    sample = read(tmp_path, SHAPES["verl"][1]).samples[0]
    assert sample.meta["reward_model"] == {"style": "rule", "ground_truth": "3"}
    assert sample.meta["extra_info"] == {"split": "train", "index": 0}
    assert read(tmp_path, SHAPES["trl"][1]).samples[0].own_columns == {"solution": "<answer>3</answer>"}


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image", "image": "1.png"},
        {"type": "image_url", "image_url": {"url": "1.png"}},
        {"image": "1.png"},
        {"type": "image", "path": "1.png"},
    ],
)
def test_images_inside_messages(tmp_path: Path, part: dict[str, Any]) -> None:
    row = {"messages": [*user([part, {"text": "How many shapes?"}]), ASSISTANT]}
    sample = read(tmp_path, row).samples[0]
    assert (sample.question, sample.images) == (QUESTION, (str(tmp_path / "1.png"),))


def test_the_kits_own_columns_go_first(tmp_path: Path) -> None:
    own = kit_row(1, prompt="x", problem="y", messages=[], reward_model={"ground_truth": "9"}, solution="z")
    source = load_source(write_lines(tmp_path / "rows.jsonl", own))
    assert source.reading == ""
    assert (source.samples[0].id, source.samples[0].question, source.samples[0].answer) == ("r1", "How many?", "4")


def test_columns_of_an_entry_go_before_the_shapes(tmp_path: Path) -> None:
    row = {**SHAPES["verl"][1], "extra_info": {"answer": "7", "choices": ["5", "6"]}}
    assert read(tmp_path, row, {"answer": "extra_info.answer"}).samples[0].answer == "7"
    assert read(tmp_path, row, {"answer": "extra_info.choices.1"}).samples[0].answer == "6"
    with pytest.raises(ValueError, match=naming("rows.jsonl", "extra.answer", "columns.answer", "extra_info")):
        read(tmp_path, row, {"answer": "extra.answer"})
    with pytest.raises(ValueError, match=naming("rows.jsonl", "row 1", "answer", "missing")):
        read(tmp_path, row, {"answer": "extra_info.nothing"}).samples[0]


def test_messages_and_reward_model_that_an_entry_names(tmp_path: Path) -> None:
    columns = {"question": "chat", "answer": "reward", "images": "pictures"}
    row = {"chat": user(PARTS), "reward": {"style": "rule", "ground_truth": "3"}, "pictures": ["1.png"]}
    sample = read(tmp_path, row, columns).samples[0]
    assert (sample.question, sample.answer) == (QUESTION, "3")


def test_an_object_as_text_of_a_table(tmp_path: Path) -> None:
    row = {**SHAPES["verl"][1], "reward_model": json.dumps({"ground_truth": "3"})}
    assert read(tmp_path, row).samples[0].answer == "3"


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"question": {"text": "How many?"}}, ["question", "object"]),
        ({"question": ["How many?"]}, ["question", "list"]),
        ({"answer": {"x": "°"}}, ["answer", "object"]),
        ({"answer": {"style": "rule", "ground_truth": {"a": 1}}}, ["answer", "object"]),
        ({"answer": ["4"]}, ["answer", "list"]),
        ({"answer": ["left", "right"]}, ["answer", "list"]),
        ({"id": [1]}, ["id", "list"]),
        ({"id": {"a": 1}}, ["id", "object"]),
        ({"task": ["counting"]}, ["task", "list"]),
        ({"system": ["Look."]}, ["system message", "list"]),
        ({"system": 5}, ["system message", "int"]),
    ],
)
def test_lists_and_objects_are_no_text(tmp_path: Path, changes: dict[str, Any], named: list[str]) -> None:
    source = load_source(write_lines(tmp_path / "rows.jsonl", kit_row(1), kit_row(2, **changes)))
    with pytest.raises(ValueError, match=naming("rows.jsonl", "row 2", *named)):
        source.samples[1]


@pytest.mark.parametrize(
    "boxes",
    [
        [1, 2.5, 30, 40],
        [[1, 2, 30, 40], [5, 6, 7, 8]],
        [{"Position": [1, 2, 30, 40], "Confidence": 1}],
        [{"bbox_2d": [1, 2, 30, 40], "label": "cat"}],
        {"bbox_2d": [1, 2, 30, 40]},
    ],
)
def test_boxes_are_the_one_list_that_is_an_answer(tmp_path: Path, boxes: Any) -> None:
    source = load_source(write_lines(tmp_path / "rows.jsonl", kit_row(answer=boxes)))
    assert json.loads(source.samples[0].answer) == boxes


@pytest.mark.parametrize(
    ("messages", "named"),
    [
        ([*user("a"), ASSISTANT, *user("b"), ASSISTANT], ["question", 4]),
        ([ASSISTANT], ["question", "assistant"]),
        ([{"role": "tool", "content": "x"}], ["question", "tool"]),
        (user([{"type": "video"}]), ["question", "video"]),
        (user([{"type": "audio"}]), ["question", "audio"]),
        (user([7]), ["question", "int"]),
        (user(""), ["question", "missing"]),
        ([], ["question", "no messages"]),
        ([*user("a"), {"role": "assistant", "content": None}], ["message 2", "content"]),
        ([*user("a"), {"role": "assistant"}], ["message 2", "content"]),
        ([{"content": "a"}, ASSISTANT], ["message 1", "role"]),
        (user("How many?"), ["answer", "missing"]),
    ],
)
def test_conversations_without_one_question(tmp_path: Path, messages: list[Any], named: list[Any]) -> None:
    with pytest.raises(ValueError, match=naming("rows.jsonl", "row 1", *named)) as caught:
        read(tmp_path, {"messages": messages, "images": ["1.png"]}).samples[0]
    assert "\n" not in str(caught.value)


def test_images_are_never_in_two_places_or_in_none(tmp_path: Path) -> None:
    inside = user([{"type": "image", "image": "1.png"}, {"type": "text", "text": "?"}])
    with pytest.raises(ValueError, match=naming("row 1", "images", "messages")):
        read(tmp_path, {"prompt": inside, "images": ["1.png"], "answer": "3"}).samples[0]
    with pytest.raises(ValueError, match=naming("row 1", "images", "missing")):
        read(tmp_path, {"prompt": user("?"), "picture": "1.png", "answer": "3"}).samples[0]
    assert read(tmp_path, {"prompt": user("?"), "answer": "3"}, {"images": None}).samples[0].images == ()


@pytest.mark.parametrize(
    ("columns", "name"),
    [
        (["question", "answer", "prompt"], None),
        (["prompt", "solution"], "TRL"),
        (["prompt", "reward_model"], "verl"),
        (["reward_model", "answer"], None),
        (["picture", "text"], None),
        (["conversations", "messages"], "LLaVA"),
    ],
)
def test_find_shape(columns: list[str], name: str | None) -> None:
    shape = find_shape(columns)
    assert (shape and shape.name) == name


@pytest.mark.parametrize(
    ("columns", "found"),
    [
        (["images", "image"], "images"),
        (["image", "x"], "image"),
        (["file_name"], "file_name"),
        (["image_2", "image_10", "image_1"], ("image_1", "image_2", "image_10")),
        (["image", "image2"], ("image", "image2")),
        (["image_1", "images"], "images"),
        (["picture", "image_root"], None),
    ],
)
def test_image_columns(columns: list[str], found: object) -> None:
    assert image_columns(columns) == found

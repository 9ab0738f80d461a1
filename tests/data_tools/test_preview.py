"""`data_tools.preview`: one page, complete and harmless, as a browser shows it."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from data_tools.preview import main
from data_tools.preview_cards import Piece, split_prompt
from data_tools.published_files import write_lines
from gpg_vl.data import media_files
from gpg_vl.data.sources import write_parquet
from gpg_vl.records import Sample
from tests.support.browsers import CONTRASTS, open_browser
from tests.support.builders import png
from tests.support.kit_rows import kit_row
from tests.support.messages import lines_naming, naming
from tests.support.pictures import encode
from tests.support.videos import Clip, mp4

HOSTILE = (
    '</pre><script>document.title="taken"</script><img src="http://127.0.0.1:9/x" onerror="document.title=1">&amp;'
)


def sample(number: int, task: str = "counting", answer: str = "4", **changes: Any) -> Sample:
    fields = {"images": (png(60, 40, number),), "question": f"How many in {number}?", "meta": {}, **changes}
    return Sample(f"r{number}", task, fields["images"], fields["question"], answer, fields["meta"])


def preview(folder: Path, samples: list[Sample], *words: object) -> str:
    write_parquet(samples, folder / "rows.parquet")
    assert main([str(folder / "rows.parquet"), "--out", str(folder / "page.html"), *map(str, words)]) == 0
    return (folder / "page.html").read_text()


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def parse(page: str) -> _Reader:
    reader = _Reader()
    reader.feed(page)
    return reader


def test_urls_of_a_named_host_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media_files, "download", lambda url, hosts, *limits: png(60, 40, 7))
    rows = write_lines(tmp_path / "rows.jsonl", [{**asdict(sample(1)), "images": ["https://pictures.test/1.png"]}])
    words = [str(rows), "--out", str(tmp_path / "page.html")]
    assert main(words) == 0
    assert "data.image_hosts" in (tmp_path / "page.html").read_text()
    assert main([*words, "--image-hosts", "pictures.test"]) == 0
    page = (tmp_path / "page.html").read_text()
    assert "image 1: 60 x 40" in page and "data.image_hosts" not in page


def test_rows_are_drawn_by_the_seed(tmp_path: Path) -> None:
    samples = [sample(n) for n in range(40)]
    pages = [preview(tmp_path, samples, "--rows", 8, "--seed", seed) for seed in (1, 1, 2)]
    numbers = [[int(n) for n in re.findall(r"<h2>Row (\d+)", page)] for page in pages]
    assert pages[0] == pages[1] and numbers[0] == numbers[1] != numbers[2]
    assert numbers[0] == sorted(set(numbers[0])) and len(numbers[0]) == 8
    assert len(re.findall("<article>", preview(tmp_path, samples, "--rows", 99))) == 40


def test_the_frames_of_a_video_are_those_of_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "v.mp4").write_bytes(mp4(Clip(56, 56, 20, 2)))
    row = {"id": "v", "task": "counting", "videos": ["v.mp4"], "question": "How many?", "answer": "4"}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    words = [str(tmp_path / "rows.jsonl"), "--out", str(tmp_path / "page.html"), "--max-frames", "3"]
    assert main(words) == 0
    assert "video 1 at 9.5 s, of 3 frames" in parse((tmp_path / "page.html").read_text()).text


def test_boxes_lie_in_original_pixels(tmp_path: Path) -> None:
    large = encode(Image.new("RGB", (1600, 1200), "white"))
    rows = [
        sample(0, "grounding", "[10, 20, 300.5, 400]", images=(large,)),
        sample(1, "detection", "[{'Position': [1, 2, 30, 20], 'Confidence': 1}, [5, 6, 7, 8]]"),
        sample(2),
    ]
    tags = parse(preview(tmp_path, rows)).tags
    assert [attributes["viewbox"] for tag, attributes in tags if tag == "svg"] == ["0 0 1600 1200", "0 0 60 40"]
    boxes = [
        tuple(attributes[key] for key in ("x", "y", "width", "height")) for tag, attributes in tags if tag == "rect"
    ]
    assert boxes[::2] == boxes[1::2], "each once dark and once bright"
    assert boxes[::2] == [
        ("10.0", "20.0", "290.5", "380.0"),
        ("1.0", "2.0", "29.0", "18.0"),
        ("5.0", "6.0", "2.0", "2.0"),
    ]


def test_the_prompt_is_the_model_s(tmp_path: Path, model_folders: dict[str, Path], load: Any) -> None:
    """Text, tokens and sizes are those of the prompt that is really built, image tokens counted in place of written."""
    from gpg_vl.config import PromptConfig
    from gpg_vl.prompts.builder import PromptBuilder
    from gpg_vl.tasks import TASKS

    row = sample(0, "grounding", "[10, 20, 300, 400]", images=(png(640, 480), png(100, 200)), question="Where?")
    words = "--model", model_folders["qwen2_5_vl"], "--min-pixels", 784, "--max-pixels", 50176
    reader = parse(preview(tmp_path, [row], *words))
    prompt = PromptBuilder(load("qwen2_5_vl"), TASKS, PromptConfig()).build(row)
    for number, view in enumerate(prompt.views, start=1):
        num_tokens = view.model_width * view.model_height // 28**2
        written = f"image {number}: {num_tokens} tokens"
        reader.text = reader.text.replace(written, "<|vision_start|><|image_pad|><|vision_end|>", 1)
        assert f"seen as {view.model_width} x {view.model_height}" in reader.text
    assert prompt.text in reader.text
    assert f"{len(prompt.encoded.token_ids)} tokens" in reader.text


def test_pieces_of_a_prompt() -> None:
    text = "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>a < b |> <|im_end|>"
    image = "<|vision_start|><|image_pad|><|vision_end|>"
    tokens = ["<|im_start|>", "<|im_end|>", "<|image_pad|>", "<|vision_start|>"]
    assert split_prompt(text, image, tokens, [12]) == [
        Piece("token", "<|im_start|>"),
        Piece("text", "user\n"),
        Piece("image", "image 1: 12 tokens"),
        Piece("text", "a < b |> "),
        Piece("token", "<|im_end|>"),
    ]


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    row = Sample(HOSTILE, "counting", (png(60, 40),), HOSTILE, HOSTILE, {HOSTILE: HOSTILE})
    page = preview(tmp_path, [row, sample(1)])
    reader = parse(page)
    assert reader.text.count(HOSTILE) >= 3
    assert not [tag for tag, _ in reader.tags if tag in ("script", "iframe", "object", "link", "base")]
    assert not [key for _, attributes in reader.tags for key in attributes if key.startswith("on")]
    addresses = [attributes[key] or "" for _, attributes in reader.tags for key in ("src", "href") if key in attributes]
    assert addresses and all(address.startswith("data:image/") for address in addresses)
    assert "url(" not in page.split("</style>")[0] and "@import" not in page


def test_bad_rows_are_shown_as_such(tmp_path: Path) -> None:
    rows = [
        sample(0, images=(b"GIF89",)),
        sample(1, "grounding", "[0, 0, 999, 999]"),
        sample(2, "no_such_task"),
        sample(3, question="x" * 70_000),
        sample(4, images=()),
    ]
    text = parse(preview(tmp_path, rows)).text
    assert re.search(naming("PNG", "JPEG", "WEBP", "How many in 0?", "box", "no_such_task", 70000), text)
    assert "No image" in text and len(re.findall(r"Row \d", text)) == 5


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["missing.parquet", "--out", "page.html"], ["missing.parquet"]),
        (["rows.parquet"], ["--out"]),
        (["rows.parquet", "--out", "page.html", "--rows", "0"], ["--rows"]),
        (["rows.parquet", "--out", "page.html", "--model", "./nowhere"], ["./nowhere"]),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: Path,
    words: list[str],
    named: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write_parquet([sample(0)], "rows.parquet")
    assert main(words) == 2
    assert lines_naming(capsys.readouterr().err, *named)
    assert [path.name for path in tmp_path.iterdir()] == ["rows.parquet"]


browser = pytest.fixture(scope="module")(open_browser)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 360])
def test_a_browser_shows_it(tmp_path: Path, browser: Any, width: int, scheme: str) -> None:
    """Loads nothing, runs nothing, logs nothing; nothing is cut off; text and ground differ enough to be read."""
    rows = [
        sample(0, "detection", "[[10, 5, 40, 30], [20, 10, 60, 40]]", images=(png(60, 40), png(1200, 300))),
        Sample(HOSTILE, "counting", (png(60, 40),), HOSTILE, "4", {"long": "x" * 500}),
        sample(2, images=(b"GIF89",)),
    ]
    preview(tmp_path, rows)
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    requests: list[str] = []
    messages: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: messages.append(message.text))
    page.goto((tmp_path / "page.html").as_uri())
    assert page.title() == f"3 rows of {tmp_path}/rows.parquet"
    assert [url for url in requests if not url.startswith("data:image/")] == [(tmp_path / "page.html").as_uri()]
    assert messages == []
    assert page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert min(page.evaluate(CONTRASTS)) >= 4.5
    # the first box, as drawn: a sixth of the picture's width to the right of its edge
    picture, box = (page.locator(name).first.bounding_box() for name in (".picture img", "rect.over"))
    assert (box["x"] - picture["x"]) / picture["width"] == pytest.approx(10 / 60, abs=0.02)
    assert box["height"] / picture["height"] == pytest.approx(25 / 40, abs=0.05)
    page.close()


@pytest.mark.parametrize("name", ["rows.jsonl", "./sub/../rows.jsonl", "link.html", "page.png", "page", "page.jsonl"])
def test_the_page_replaces_nothing_that_is_read(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    write_lines(tmp_path / "rows.jsonl", [kit_row()])
    (tmp_path / "link.html").symlink_to(tmp_path / "rows.jsonl")
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    assert main(["rows.jsonl", "--out", name]) == 2
    assert lines_naming(capsys.readouterr().err, "--out")
    assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


def test_the_page_is_not_written_through_a_link(tmp_path: Path) -> None:
    write_lines(tmp_path / "rows.jsonl", [kit_row()])
    victim = tmp_path / "victim"
    victim.write_text("precious")
    for name in (".page.html.partial", "page.html"):
        (tmp_path / name).symlink_to(victim)
    assert main([str(tmp_path / "rows.jsonl"), "--out", str(tmp_path / "page.html")]) == 0
    assert victim.read_text() == "precious"
    assert (tmp_path / "page.html").read_text().startswith("<!DOCTYPE html>")

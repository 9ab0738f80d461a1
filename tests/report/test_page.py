"""The report in a real browser: it loads nothing, what models wrote is text in it, and its parts work."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gpg_vl.records import FrameList
from gpg_vl.report.page import MAX_TEXT, render_page
from gpg_vl.report.run_data import RunData, read_run
from tests.support.browsers import CONTRASTS, open_browser, read_axe
from tests.support.builders import png
from tests.support.recorded_runs import scored_group, write_run

browser = pytest.fixture(scope="module")(open_browser)
Open = Callable[..., Any]

RIGHT, WRONG = "<think>two and two</think><answer>4</answer>", "<think></think><answer>5</answer>"
GROUPS = [
    scored_group([RIGHT, WRONG, WRONG], [1, 0, 0], "mixed-1"),
    scored_group([RIGHT] * 3, [1, 1, 1], "easy-1", question="How many red shapes?"),
    scored_group(["no answer"] * 3, [0, 0, 0], "hard-1", task="geometry"),
    scored_group(
        ["<answer>[0, 0, 500, 500]</answer>", "<answer>[500, 250, 1000, 1000]</answer>"],
        [0.1, 0.9], "box-1", answer="[30, 10, 60, 40]", task="grounding", question="Where is it?",
    ),
]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunData:
    return read_run(write_run(tmp_path_factory.mktemp("runs") / "mine", [0.02 * n for n in range(1, 31)], GROUPS))


@pytest.fixture
def show(tmp_path: Path, browser: Any) -> Iterator[Open]:
    """Opens a page of runs; at the end nothing was loaded and nothing complained."""
    requests: list[str] = []
    messages: list[str] = []
    pages = []

    def open_page(*runs: RunData, width: int = 1200, scheme: str = "light") -> Any:
        path = tmp_path / "report.html"
        path.write_text(render_page(runs, "GPG-VL: " + ", ".join(run.name for run in runs)), encoding="utf-8")
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page.set_default_timeout(60_000)  # other work on the machine slows a browser down
        pages.append(page)
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda message: messages.append(message.text))
        page.on("pageerror", lambda error: messages.append(str(error)))
        page.goto(path.as_uri())
        return page

    yield open_page
    for page in pages:
        page.close()
    assert messages == []
    assert {url for url in requests if not url.startswith("data:image/")} <= {(tmp_path / "report.html").as_uri()}


def counted(page: Any) -> tuple[int, int]:
    shown, of_all = re.findall(r"\d+", page.locator("#count").inner_text())[:2]
    return int(shown), int(of_all)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 380])
def test_all_of_it_can_be_read(show: Open, run: RunData, width: int, scheme: str) -> None:
    page = show(run, width=width, scheme=scheme)
    assert page.title() == "GPG-VL: mine"
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert min(page.evaluate(CONTRASTS)) >= 4.5
    assert page.locator("#charts figure").count() == len(run.charts)
    assert "counting from 0.02 to 0.6" in page.locator("#charts svg").first.get_attribute("aria-label")
    assert page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    page.locator("#theme").click()
    assert page.evaluate("document.documentElement.dataset.theme") == ("dark" if scheme == "light" else "light")
    assert min(page.evaluate(CONTRASTS)) >= 4.5


def test_filters(show: Open, run: RunData) -> None:
    """Steps 1, 10, 20 and 30 are recorded, with four groups each."""
    page = show(run)
    assert counted(page) == (16, 16)
    for name, value, expected in (
        ("kind", "mixed", 8),
        ("kind", "easy", 4),
        ("kind", "hard", 4),
        ("task", "geometry", 4),
        ("step", "10", 4),
        ("gold", "some", 8),
        ("gold", "every", 4),
        ("gold", "none", 0),
    ):
        page.locator(f"select[name={name}]").select_option(value)
        assert counted(page)[0] == expected == page.locator(".item").count()
        page.locator("#all").click()
    page.locator("input[type=search]").fill("RED shapes")
    assert counted(page)[0] == 4 and "easy-1" in page.locator("#group h3").inner_text()
    page.locator("input[type=search]").fill("nothing has this")
    assert counted(page)[0] == 0 and "No group fits" in page.locator("#group").inner_text()


def test_a_group_shows_what_was_answered_and_earned(show: Open, run: RunData) -> None:
    page = show(run)
    cards = page.locator(".answer-card")
    assert cards.count() == 3
    first = cards.first.inner_text()
    assert (
        "reward 1.000" in first
        and "advantage +0.667" in first
        and "log-prob -1.0" in first
        and "two and two" not in first
    )
    cards.first.locator("summary").click()
    assert "two and two" in cards.first.inner_text(), "the reasoning is folded"


def test_what_was_learnt_and_what_is_wrong_is_said(show: Open, run: RunData) -> None:
    """The button of a mistake opens a group of the last steps that has it."""
    page = show(run)
    said = page.locator(".verdict").all_inner_texts()
    assert [line.split(":")[0] for line in said] == ["counting", "grounding"]
    assert "67% to 67%" in said[0], "four of six answers"
    page.locator("select[name=task]").select_option("geometry")
    page.get_by_role("button", name="step 30: 5 instead of 4").click()
    assert "mixed-1 · step 30" in page.locator("#group h3").inner_text() and counted(page) == (16, 16)
    assert ["✓ as gold" in each for each in page.locator(".answer-card").all_inner_texts()] == [True, False, False]
    assert page.evaluate("document.activeElement.id") == "list", "the arrow keys go on from there"


AXE = """async () => (await axe.run()).violations.filter(each => ["serious", "critical"].includes(each.impact))
    .map(each => `${each.help}: ${each.nodes.map(node => node.html).slice(0, 3).join(" ")}`)"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(show: Open, run: RunData, tmp_path: Path, scheme: str) -> None:
    other = read_run(write_run(tmp_path / "other", [0.5, 0.4], GROUPS[:1]))
    page = show(run, other, scheme=scheme)
    page.locator("select[name=task]").select_option("grounding")
    page.locator("#group summary").first.click()
    page.evaluate(read_axe())
    assert page.evaluate(AXE) == []


def test_boxes_are_drawn_where_they_are(show: Open, run: RunData) -> None:
    page = show(run)
    page.locator("select[name=task]").select_option("grounding")
    picture, gold, second = (
        page.locator(name).first.bounding_box() for name in (".picture img", "rect.gold2", "rect.a1")
    )
    for box in (gold, second):
        assert (box["x"] - picture["x"]) / picture["width"] == pytest.approx(0.5, abs=0.02)
        assert (box["y"] - picture["y"]) / picture["height"] == pytest.approx(0.25, abs=0.03)
        assert box["width"] / picture["width"] == pytest.approx(0.5, abs=0.03)
    page.locator(".answer-card").nth(1).hover()
    assert page.locator("rect.lit").count() == 1


def test_frames_of_a_video_are_shown_with_their_times(show: Open, tmp_path: Path) -> None:
    film = FrameList((png(20, 10), png(20, 10, 1)), fps=2)
    group = scored_group(["a", "b"], [1, 0], images=(), videos=(film, str(tmp_path / "gone.mp4")))
    page = show(read_run(write_run(tmp_path / "run", [0.5], [group])))
    assert page.locator(".still figcaption").all_text_contents() == ["0.00 s", "0.50 s"]
    assert page.locator(".still img").evaluate_all("images => images.map(i => i.naturalWidth)") == [20, 20]
    assert "2 of the 2 frames" in page.locator(".video > figcaption").inner_text()
    assert "video 2 is not in the record" in page.locator("#group").inner_text()


def test_keys_move_through_the_list(show: Open, run: RunData) -> None:
    page = show(run)
    page.locator("#list").focus()
    for key, expected in (("ArrowDown", 1), ("j", 2), ("k", 1), ("ArrowUp", 0), ("ArrowUp", 0)):
        page.keyboard.press(key)
        assert page.locator("#list").get_attribute("aria-activedescendant") == f"item-{expected}"
        assert page.locator(".item[aria-selected=true]").count() == 1
    page.keyboard.press("/")
    page.keyboard.type("jk/")
    assert page.locator("input[type=search]").input_value() == "jk/"


def test_a_sample_is_followed_over_the_steps(show: Open, run: RunData) -> None:
    page = show(run)
    assert page.locator(".steps button").all_inner_texts() == [f"step {step}: 0.33" for step in (1, 10, 20, 30)]
    page.locator(".steps button").nth(2).click()
    assert "mixed-1 · step 20" in page.locator("#group h3").inner_text() and counted(page) == (4, 16)
    assert page.locator(".steps button[aria-current=true]").inner_text() == "step 20: 0.33"


def test_runs_are_compared(show: Open, run: RunData, tmp_path: Path) -> None:
    other = read_run(write_run(tmp_path / "other", [0.5, 0.4], GROUPS[:1]))
    page = show(run, other)
    assert "mine" in page.locator("#charts svg").first.get_attribute("aria-label")
    assert "other from 0.5 to 0.4" in page.locator("#charts svg").first.get_attribute("aria-label")
    page.locator("select[name=run]").select_option(label="other")
    assert counted(page) == (1, 17)
    assert page.locator("#overview th").first.inner_text() == "run"


HOSTILE = (
    '</script><script>document.title="taken"</script><img src="http://127.0.0.1:9/x" onerror="document.title=1">',
    "<!-- <script>",
    "\x1b[31mred\x1b]0;title\x07",
    "nul \x00, bidi \u202e and \u2066, half \ud83d a pair, \u2028 line",
    "]]></pre></details></body>",
)


def test_what_models_write_is_text(show: Open, tmp_path: Path) -> None:
    groups = [
        scored_group([*HOSTILE, "x" * 10_000_000], [1, 0, 0, 0, 0, 0], HOSTILE[0], HOSTILE[0], question=HOSTILE[0]),
    ]
    hostile = read_run(write_run(tmp_path / "<b>run", [0.5], groups))
    assert max(map(len, re.findall("x+", render_page([hostile], "t")))) <= MAX_TEXT
    page = show(hostile)
    assert page.title() == "GPG-VL: <b>run"
    text = page.locator("#group").inner_text()
    assert '<script>document.title="taken"</script>' in text and "<!-- <script>" in text
    assert not any(mark in page.locator("body").inner_text() for mark in "\x00\x1b\u202e\u2066\u2028")
    assert page.evaluate("document.scripts.length") == 2 and page.locator("#group script").count() == 0


def test_no_script_runs_but_its_own(show: Open, run: RunData) -> None:
    page = show(run)
    policy = page.locator("meta[http-equiv=Content-Security-Policy]").get_attribute("content")
    assert "default-src 'none'" in policy and "unsafe" not in policy


SEARCH = """() => {
    const field = document.querySelector("input[type=search]"), start = performance.now();
    field.value = "s1";
    field.dispatchEvent(new Event("input"));
    return performance.now() - start;
}"""


def test_a_long_run_with_many_completions_opens_fast(show: Open, tmp_path: Path) -> None:
    """10,000 steps and 5,000 completions: open within three seconds, searched within a quarter of one."""
    groups = [scored_group([RIGHT, *[WRONG] * 7], [1.0, *[0.0] * 7], f"s{n}") for n in range(625)]
    folder = write_run(tmp_path / "long", [0.5], groups)
    row = json.loads((folder / "metrics.jsonl").read_text())
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps({**row, 'step': n + 1})}\n" for n in range(10_000)))
    long = read_run(folder)
    assert sum(len(group["completions"]) for group in long.groups) == 5000
    pages = [show(long) for _ in range(3)]  # the best of three: other work on the machine slows all of them down
    opened = "(performance.timing.domContentLoadedEventEnd - performance.timing.responseEnd) / 1000"
    assert min(page.evaluate(opened) for page in pages) < 3
    assert min(page.evaluate(SEARCH) for page in pages) < 250

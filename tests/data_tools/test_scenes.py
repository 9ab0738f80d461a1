"""The answer of a scene is what its pixels say."""

from __future__ import annotations

import json
from collections.abc import Iterator
from random import Random

import pytest
from PIL import Image

from data_tools.scenes import COLOURS, DRAWERS, Scene


def draw_scenes(task: str, num: int, size: int = 84) -> Iterator[Scene]:
    rng = Random(0)
    return (DRAWERS[task](rng, size) for _ in range(num))


def count_regions(image: Image.Image) -> int:
    """Number of 4-connected regions of pixels that are not white or nearly so."""
    dark = {(x, y) for x in range(image.width) for y in range(image.height) if min(image.getpixel((x, y))) < 200}
    regions = 0
    while dark:
        regions += 1
        front = [dark.pop()]
        while front:
            x, y = front.pop()
            near = {(x + 1, y), (x - 1, y), (x, y + 1), (x, y - 1)} & dark
            dark -= near
            front.extend(near)
    return regions


def is_colour(pixel: tuple[int, ...], name: str) -> bool:
    """Whether a pixel is one of the shades of a colour: the same amount, up to 40, added to all channels."""
    extra = [value - base for value, base in zip(pixel, COLOURS[name], strict=True)]
    return len(set(extra)) == 1 and 0 <= extra[0] <= 40


def find_box(image: Image.Image, name: str) -> tuple[int, int, int, int]:
    mask = Image.new("1", image.size)
    mask.putdata([is_colour(pixel, name) for pixel in image.get_flattened_data()])
    box = mask.getbbox()
    assert box is not None
    return box


def asked_colour(scene: Scene) -> str:
    return scene.question.removeprefix("Where is the ").removesuffix(" shape?")


@pytest.mark.parametrize("task", DRAWERS)
@pytest.mark.parametrize("size", [56, 84, 300])
def test_picture_is_rgb_of_the_size(task: str, size: int) -> None:
    for scene in draw_scenes(task, 3, size):
        assert (scene.image.mode, scene.image.size) == ("RGB", (size, size))


def test_counting_answer_is_number_of_regions() -> None:
    scenes = list(draw_scenes("counting", 60))
    assert [scene.answer for scene in scenes] == [str(count_regions(scene.image)) for scene in scenes]
    assert {scene.answer for scene in scenes} == set("123456")
    assert {(scene.question, scene.reasoning) for scene in scenes} == {("How many shapes?", None)}


@pytest.mark.parametrize("size", [84, 168])
def test_geometry_answer_is_perimeter_in_cells(size: int) -> None:
    for scene in draw_scenes("geometry", 40, size):
        centres = [round((number + 0.5) * size / 6) for number in range(6)]
        filled = [(x, y) for x in centres for y in centres if scene.image.getpixel((x, y)) != (255, 255, 255)]
        width, height = len({x for x, _ in filled}), len({y for _, y in filled})
        assert len(filled) == width * height
        assert scene.question == "What is the perimeter?"
        assert scene.answer == str(2 * (width + height))
        assert scene.reasoning == f"{width} by {height}"


@pytest.mark.parametrize("size", [84, 140])
def test_grounding_answer_is_box_of_asked_colour(size: int) -> None:
    for scene in draw_scenes("grounding", 60, size):
        measured, answer = find_box(scene.image, asked_colour(scene)), json.loads(scene.answer)
        assert all(abs(m - a) <= 1.5 for m, a in zip(measured, answer, strict=True)), (scene, measured)
        grid = [edge * 1000 / size for edge in answer]
        assert grid == pytest.approx([round(edge, -2) for edge in grid], abs=1e-6)


def test_grounding_shapes_do_not_overlap() -> None:
    for scene in draw_scenes("grounding", 60):
        x1, y1, x2, y2 = (round(edge) for edge in json.loads(scene.answer))
        inside = scene.image.crop((x1 + 1, y1 + 1, x2 - 1, y2 - 1)).get_flattened_data()
        others = set(COLOURS) - {asked_colour(scene)}
        assert not any(is_colour(pixel, other) for pixel in inside for other in others)


def test_sizes_of_rectangles_are_drawn_alike() -> None:
    reasoning = [scene.reasoning for scene in draw_scenes("geometry", 1600, 56)]
    assert len(set(reasoning)) == 16
    assert all(60 <= reasoning.count(words) <= 140 for words in set(reasoning))

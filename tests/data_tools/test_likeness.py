"""Copies of an image are found, scaled or compressed anew; other scenes of the generators are not."""

from __future__ import annotations

import io
from collections.abc import Callable
from random import Random

import numpy
import pytest
from PIL import Image

from data_tools.levels import LEVELLED_DRAWERS, LEVELS, Knobs
from data_tools.likeness import Album, fingerprint, look_at
from gpg_vl.data.images import open_image


def scenes(task: str, level: int, num: int, seed: int = 1) -> list[Image.Image]:
    rng = Random(f"{task} {seed}")
    return [LEVELLED_DRAWERS[task](rng, 224, Knobs(level)).image.convert("RGB") for _ in range(num)]


def photo(seed: int, width: int = 640, height: int = 480) -> Image.Image:
    """Colours that change on every scale, as in a photo."""
    rng = numpy.random.default_rng(seed)
    total = numpy.zeros((height, width, 3))
    for cells in (4, 8, 16, 32, 64, 128):
        noise = (255 * rng.random((cells * 3 // 4, cells, 3))).astype(numpy.uint8)
        total += numpy.asarray(Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)) / cells**0.7
    return Image.fromarray((255 * (total - total.min()) / numpy.ptp(total)).astype(numpy.uint8))


def saved(kind: str, quality: int) -> Callable[[Image.Image], Image.Image]:
    def save(image: Image.Image) -> Image.Image:
        stream = io.BytesIO()
        image.save(stream, kind, quality=quality)
        return open_image(stream.getvalue())

    return save


def scaled(factor: float, method: Image.Resampling) -> Callable[[Image.Image], Image.Image]:
    return lambda image: image.resize((round(image.width * factor), round(image.height * factor)), method)


def halved_jpeg(image: Image.Image) -> Image.Image:
    return saved("JPEG", 75)(scaled(0.5, Image.Resampling.BILINEAR)(image))


COPIES = {
    "jpeg 90": saved("JPEG", 90),
    "jpeg 40": saved("JPEG", 40),
    "webp 60": saved("WEBP", 60),
    "half": scaled(0.5, Image.Resampling.BICUBIC),
    "three quarters": scaled(0.75, Image.Resampling.LANCZOS),
    "larger": scaled(1.37, Image.Resampling.BILINEAR),
    "double": scaled(2, Image.Resampling.BICUBIC),
    "half, jpeg 75": halved_jpeg,
}


def find(queries: list[Image.Image], known: list[Image.Image]) -> dict[int, int]:
    with Album() as album:
        numbers = [[(album.add(look_at(image)),) for image in images] for images in (known, queries)]
        return dict(album.find_first(numbers[1], numbers[0]))


def find_repeats(images: list[Image.Image]) -> dict[int, int]:
    with Album() as album:
        numbers = [(album.add(look_at(image)),) for image in images]
        return dict(album.find_first(numbers, numbers, earlier_alone=True))


@pytest.mark.parametrize("name", list(COPIES))
def test_copies_are_found(name: str) -> None:
    images = [photo(seed) for seed in range(3)]
    for task in LEVELLED_DRAWERS:
        images += scenes(task, 1, 3) + scenes(task, 4, 3)
    copies = [COPIES[name](image) for image in images]
    assert find(copies, images) == {place: place for place in range(len(images))}


@pytest.mark.parametrize("task", list(LEVELLED_DRAWERS))
def test_other_scenes_are_not(task: str) -> None:
    assert find_repeats([image for level in LEVELS for image in scenes(task, level, 100)]) == {}


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("task", list(LEVELLED_DRAWERS))
def test_other_scenes_are_not_among_many(task: str) -> None:
    images = [image for level in LEVELS for image in scenes(task, level, 2000)]
    found = find_repeats(images)
    print(f"{task}: {len(found)} of {len(images)} scenes taken for another")
    assert len(found) <= len(images) / 1000


def test_the_first_like_one_is_named() -> None:
    one, other = photo(1), photo(2)
    assert find([one, other, one], [other, one, one, other]) == {0: 1, 1: 0, 2: 1}
    assert find_repeats([one, other, one, one]) == {2: 0, 3: 0}
    assert find([one], []) == {} and find([], [one]) == {}


def test_rows_of_several_images_are_alike_where_each_is() -> None:
    with Album() as album:
        one, other, third = (album.add(look_at(photo(seed))) for seed in range(3))
        rows = [(one, other), (one, third), (one, other), (other, one)]
        assert list(album.find_first(rows, rows, earlier_alone=True)) == [(2, 0)]


def test_another_form_is_another_image() -> None:
    image = photo(1)
    assert find([image.resize((600, 480))], [image]) == {}
    assert find([image.crop((0, 0, 320, 480))], [image]) == {}


def test_another_colour_or_a_small_detail_is_another_image() -> None:
    image = Image.new("RGB", (224, 224), "white")
    image.paste((200, 30, 30), (60, 60, 120, 120))
    recoloured = image.copy()
    recoloured.paste((30, 80, 200), (60, 60, 120, 120))
    detailed = image.copy()
    detailed.paste("black", (150, 150, 156, 156))
    assert find([recoloured, detailed], [image]) == {}


def test_blocks_of_queries_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the plain comparison of all pairs, in blocks of one query and of all."""
    images = [*scenes("geometry", 1, 20), *(halved_jpeg(image) for image in scenes("geometry", 1, 10))]
    with Album() as album:
        pairs = {
            (query, other)
            for query in range(len(images))
            for other in range(query)
            if list(album.find_first([(album.add(look_at(images[query])),)], [(album.add(look_at(images[other])),)]))
        }
    plain = {query: min(other for q, other in pairs if q == query) for query, _ in pairs}
    assert plain == {20 + place: place for place in range(10)}
    for block in (1, 2**21):
        monkeypatch.setattr("data_tools.likeness._PAIRS_AT_ONCE", block)
        monkeypatch.setattr("data_tools.likeness._CANDIDATES_AT_ONCE", block)
        assert find_repeats(images) == plain


def test_fingerprints_of_copies_differ_in_few_bits() -> None:
    image = photo(5)
    assert (fingerprint(image) ^ fingerprint(halved_jpeg(image))).bit_count() <= 4
    assert (fingerprint(image) ^ fingerprint(photo(6))).bit_count() > 15

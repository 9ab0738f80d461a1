import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageChops, ImageFile, ImageOps

from gpg_vl.data import media_files
from gpg_vl.data.downloads import check_url
from gpg_vl.data.images import MAX_BYTES, BadImage, check_presence, fetch_image, open_image, original_size, read_size
from tests.support.messages import naming
from tests.support.pictures import encode, png_header, write_png

RED = (255, 0, 0)
BLUE = (0, 0, 255)
WHITE = (255, 255, 255)


def halves(width: int = 40, height: int = 20) -> Image.Image:
    """Red on the left, blue on the right."""
    image = Image.new("RGB", (width, height), RED)
    image.paste(BLUE, (width // 2, 0, width, height))
    return image


def noise() -> Image.Image:
    return Image.effect_noise((60, 40), 80).convert("RGB")


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG", "BMP", "GIF", "TIFF"])
def test_bytes_and_files_open_alike(tmp_path: Path, kind: str) -> None:
    data = encode(halves(), kind)
    path = tmp_path / "picture"
    path.write_bytes(data)
    for source in (data, str(path)):
        image = open_image(source)
        assert (image.mode, image.size) == ("RGB", (40, 20))
        assert read_size(source) == (40, 20)
    assert open_image(data).tobytes() == open_image(str(path)).tobytes()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG", "TIFF"])
def test_orientation_is_applied_once(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(halves(), kind, exif=exif)
    image = open_image(data)
    expected = ImageOps.exif_transpose(Image.open(BytesIO(data))).convert("RGB")
    assert image.tobytes() == expected.tobytes()
    assert image.size == read_size(data) == expected.size
    assert ImageOps.exif_transpose(image).size == image.size
    assert not image.getexif()


@pytest.mark.parametrize("value", [0, 9, 300])
def test_orientation_without_meaning_is_ignored(value: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = value
    assert read_size(encode(halves(), exif=exif)) == (40, 20)


@pytest.mark.parametrize(
    ("image", "pixel"),
    [
        (Image.new("L", (4, 4), 90), (90, 90, 90)),
        (Image.new("1", (4, 4), 1), WHITE),
        (Image.new("RGBA", (4, 4), (255, 0, 0, 0)), WHITE),
        (Image.new("RGBA", (4, 4), (255, 0, 0, 255)), RED),
        (Image.new("LA", (4, 4), (0, 0)), WHITE),
        (Image.new("RGB", (4, 4), RED).convert("P"), RED),
        (Image.new("I;16", (4, 4), 65535), WHITE),
        (Image.new("I;16", (4, 4), 257 * 90), (90, 90, 90)),
        (Image.new("I;16", (4, 4), 200), (1, 1, 1)),
    ],
    ids=[
        "grey",
        "bilevel",
        "transparent",
        "opaque",
        "grey-alpha",
        "palette",
        "16-bit-white",
        "16-bit-grey",
        "16-bit-dark",
    ],
)
def test_modes_become_rgb(image: Image.Image, pixel: tuple[int, int, int]) -> None:
    opened = open_image(encode(image))
    assert opened.mode == "RGB"
    assert opened.getpixel((1, 1)) == pixel


def test_transparent_palette_lies_on_white() -> None:
    assert open_image(encode(Image.new("P", (4, 4), 0), transparency=0)).getpixel((0, 0)) == WHITE


def test_transparent_grey_of_16_bits_lies_on_white() -> None:
    image = Image.new("I;16", (4, 4), 257 * 90)
    image.putpixel((1, 1), 257 * 91)
    opened = open_image(encode(image, transparency=257 * 90))
    assert (opened.getpixel((0, 0)), opened.getpixel((1, 1))) == (WHITE, (91, 91, 91))


@pytest.mark.parametrize(("alpha", "pixel"), [(65535, (90, 90, 90)), (0, WHITE)])
def test_grey_with_alpha_of_16_bits(alpha: int, pixel: tuple[int, int, int]) -> None:
    line = b"\0" + 4 * struct.pack(">HH", 257 * 90, alpha)
    assert open_image(write_png(4, 4, 16, 4, zlib.compress(4 * line))).getpixel((1, 1)) == pixel


def test_several_pictures_in_a_jpeg_file_give_the_first() -> None:
    data = encode(Image.new("RGB", (8, 8), RED), "MPO", save_all=True, append_images=[Image.new("RGB", (16, 16), BLUE)])
    opened = open_image(data)
    assert opened.size == (8, 8) and opened.getpixel((4, 4))[0] > 200


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG"])
def test_a_file_cut_anywhere_is_refused(kind: str) -> None:
    data = encode(halves(), kind)
    for size in range(len(data)):
        with pytest.raises(BadImage):
            open_image(data[:size])
    assert open_image(data + b"more").size == (40, 20)


def test_cmyk_keeps_its_colours() -> None:
    red, green, blue = open_image(encode(Image.new("RGB", (16, 16), RED).convert("CMYK"), "JPEG")).getpixel((8, 8))
    assert red > 200
    assert max(green, blue) < 60


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF", "TIFF"])
def test_animation_gives_its_first_frame(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, BLUE)]
    data = encode(
        frames[0], kind, save_all=True, append_images=frames[1:], **({"lossless": True} if kind == "WEBP" else {})
    )
    assert open_image(data).getpixel((4, 4)) == RED


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (b"", ["empty"]),
        (b"<html>not found</html>", ["PNG", "JPEG", "WEBP"]),
        (encode(halves(), "PPM"), ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF"]),
        (png_header(30_000, 1_000), [30000, 1000, 20000000]),
        (png_header(14_000, 14_000), [20000000]),
        (png_header(60_000, 60_000), [20000000]),
        (encode(Image.new("RGB", (1, 1))), [1, 2]),
        (encode(Image.new("RGB", (300, 1))), [300, 1, 2]),
        (encode(Image.new("RGB", (102, 2))), [102, 2, 50]),
        (b"\x89PNG" + bytes(MAX_BYTES), [67108864]),
        (png_header(20, 20), ["truncated"]),
    ],
    ids=["empty", "html", "ppm", "large", "bomb", "huge-bomb", "dot", "line", "strip", "heavy", "hollow"],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_refused_images(data: bytes, named: list[Any]) -> None:
    with pytest.raises(ValueError, match=naming("image", f"{len(data)} bytes", *named)):
        open_image(data)


@pytest.mark.parametrize("action", [open_image, read_size])
def test_missing_files(tmp_path: Path, action: Callable[[str], object]) -> None:
    for path in (tmp_path / "missing.png", tmp_path, tmp_path / ("x" * 300)):
        with pytest.raises(ValueError, match=naming(str(path)[:200])):
            action(str(path))


def test_a_folder_is_no_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=naming(tmp_path, "folder")):
        check_presence(str(tmp_path))


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_phones_photo_is_opened_at_a_half_of_its_size(orientation: int, progressive: bool) -> None:
    """48 megapixels, 8000 x 6000, of which no more than 12 are decoded."""
    photo = halves(8000, 6000)
    data = encode(photo, "JPEG", exif=turned(orientation), progressive=progressive)
    with pytest.raises(BadImage, match=naming(8000, 6000, 20000000, "data.on_large_image")):
        open_image(data)
    opened = open_image(data, shrink=True)
    upright = (6000, 8000) if orientation in (6, 8) else (8000, 6000)
    assert original_size(opened) == upright
    assert opened.size == (upright[0] // 2, upright[1] // 2)
    full = ImageOps.exif_transpose(Image.open(BytesIO(data))).resize((40, 40))
    gap = ImageChops.difference(opened.resize((40, 40)), full.convert("RGB"))
    assert max(high for _, high in gap.getextrema()) < 40


def test_a_large_picture_of_another_format_is_scaled_down(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(Image.new("L", (6000, 5000), 90), "PNG")
    opened = open_image(data, shrink=True)
    assert (opened.size, original_size(opened), opened.getpixel((9, 9))) == ((3000, 2500), (6000, 5000), (90, 90, 90))
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda image: pytest.fail("decoded"))
    for bomb in (png_header(9_000, 9_000), png_header(20_000, 10_000), png_header(60_000, 60_000)):
        with pytest.raises(BadImage, match=naming("pixels")):
            open_image(bomb, shrink=True)


def test_small_pictures_are_opened_as_ever() -> None:
    data = encode(noise(), "JPEG")
    assert open_image(data, shrink=True).tobytes() == open_image(data).tobytes()
    assert original_size(open_image(data, shrink=True)) == (60, 40)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG", "BMP", "GIF", "TIFF"])
def test_truncated_images(tmp_path: Path, kind: str) -> None:
    data = encode(noise(), kind)
    path = tmp_path / "cut.img"
    for kept in (4, 20, 40, len(data) // 2, len(data) - 100):
        path.write_bytes(data[:kept])
        with pytest.raises(ValueError, match=naming("cut.img")):
            open_image(str(path))


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(["PNG", "WEBP", "JPEG", "BMP", "GIF", "TIFF"]),
    st.integers(0, 10**6),
    st.binary(min_size=1, max_size=8),
)
def test_damage_is_one_line_that_echoes_nothing(kind: str, position: int, damage: bytes) -> None:
    data = bytearray(encode(noise(), kind))
    start = position % len(data)
    data[start : start + len(damage)] = damage
    try:
        assert open_image(bytes(data)).mode == "RGB"
    except ValueError as error:
        name, _, reason = str(error).partition(": ")
        assert name == f"cannot open image ({len(data)} bytes)"
        assert reason.startswith(("it is ", "it has "))
        assert "0x" not in reason
        assert "\n" not in reason


def test_url_is_fetched_from_a_named_host_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[str] = []

    def fetch(url: str, hosts: list[str], max_bytes: int, timeout_s: float) -> bytes:
        check_url(url, hosts)
        assert max_bytes == MAX_BYTES
        fetched.append(url)
        return encode(halves())

    monkeypatch.setattr(media_files, "download", fetch)
    url = "https://pictures.test/7.png"
    assert open_image(url, ["pictures.test"]).size == read_size(url, ["pictures.test"]) == (40, 20)
    assert fetched == [url, url]
    assert fetch_image(url, ["pictures.test"]) == encode(halves())
    assert fetched.pop() == url
    assert fetch_image("7.png") == "7.png" and fetch_image(b"7") == b"7"
    with pytest.raises(BadImage, match=naming("https://pictures.test/7.png", "data.image_hosts")):
        fetch_image(url, ["other.test"])
    with pytest.raises(BadImage, match=naming("https://pictures.test/7.png", "data.image_hosts")):
        open_image(url)
    assert fetched == [url, url]


def test_bomb_of_81_megapixels_is_never_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A PNG of 236 kB that holds 81 million black pixels; it would take 245 MB."""
    rows = zlib.compressobj(9)
    line = b"\0" + bytes(3 * 9000)
    data = b"".join(rows.compress(line) for _ in range(9000)) + rows.flush()
    bomb = write_png(9000, 9000, 8, 2, data)
    assert 230_000 < len(bomb) < 240_000
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda image: pytest.fail("decoded"))
    with pytest.raises(BadImage, match=naming(9000, 20000000)):
        open_image(bomb)


def test_page_named_like_a_picture(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_text("<html>404</html>")
    with pytest.raises(BadImage, match=naming("photo.jpg", "PNG", "JPEG", "WEBP")):
        open_image(str(tmp_path / "photo.jpg"))

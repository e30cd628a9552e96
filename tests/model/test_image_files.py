"""Pictures that a catalogue names: which are read, what their pixels are, and what is no picture."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from pipelines.model.image_files import MAX_MIB, LeftOut, find_image, image_pixels, read_image
from tests.toys.images import RED, write_image

WHITE_PIXEL = (np.ones(3) - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
RED_PIXEL = (np.array([1, 0, 0]) - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    target = io.BytesIO()
    image.save(target, kind, **options)
    return target.getvalue()


def png_that_claims(width: int, height: int) -> bytes:
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))


def test_a_name_is_a_path_below_the_folder(tmp_path):
    path = write_image(tmp_path / "pictures" / "a.png", RED)
    assert find_image("a.png", path.parent) == path
    assert find_image(str(path), path.parent) == path
    assert find_image(str(path), None) == path


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        pytest.param("https://shop.example/a.png", LeftOut.ADDRESS, id="address"),
        pytest.param("file:///a.png", LeftOut.ADDRESS, id="file address"),
        pytest.param("../secret.png", LeftOut.OUTSIDE, id="above the folder"),
        pytest.param("/etc/hostname", LeftOut.OUTSIDE, id="elsewhere"),
        pytest.param("link.png", LeftOut.OUTSIDE, id="a link that leads outside"),
        pytest.param("b.png", LeftOut.MISSING, id="no such file"),
        pytest.param("pipe.png", LeftOut.MISSING, id="a pipe, which would be waited for"),
        pytest.param(".", LeftOut.MISSING, id="a folder"),
        pytest.param("a\0.png", LeftOut.MISSING, id="zero byte"),
        pytest.param("a" * 5_000, LeftOut.MISSING, id="too long a name"),
        pytest.param("ring", LeftOut.MISSING, id="a ring of links"),
        pytest.param("huge.png", LeftOut.TOO_LARGE, id="too large"),
    ],
)
def test_what_is_not_opened(tmp_path, name, reason):
    folder = tmp_path / "pictures"
    write_image(tmp_path / "secret.png", RED)
    write_image(folder / "a.png", RED)
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    (folder / "ring").symlink_to(folder / "ring")
    os.mkfifo(folder / "pipe.png")
    with (folder / "huge.png").open("wb") as file:
        file.truncate(MAX_MIB * 2**20 + 1)
    assert find_image(name, folder) == reason


def test_a_relative_name_needs_a_folder():
    assert find_image("a.png", None) == LeftOut.OUTSIDE


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "CMYK"])
def test_a_wide_picture_stays_whole_on_white(mode):
    picture = Image.new("RGB", (8, 4), RED).convert(mode)
    pixels = image_pixels(encoded(picture, "JPEG" if mode == "CMYK" else "PNG"), (4, 4))
    assert pixels is not None
    assert (pixels.shape, pixels.dtype) == ((3, 4, 4), np.float32)
    for row, color in enumerate((WHITE_PIXEL, RED_PIXEL, RED_PIXEL, WHITE_PIXEL)):
        np.testing.assert_allclose(pixels[:, row].T, np.tile(color, (4, 1)), atol=0.05)


def test_what_shines_through_is_white():
    data = encoded(Image.new("RGBA", (4, 4), (0, 0, 0, 0)), "PNG")
    np.testing.assert_allclose(image_pixels(data, (2, 2))[:, 0, 0], WHITE_PIXEL, atol=1e-5)


def test_a_picture_that_lies_on_its_side_is_turned():
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90° clockwise
    picture = Image.new("RGB", (8, 8), "white")
    picture.paste(RED, (0, 4, 8, 8))  # the lower half, which becomes the left one
    pixels = image_pixels(encoded(picture, "PNG", exif=exif), (8, 8))
    np.testing.assert_allclose(pixels[:, 4, 1], RED_PIXEL, atol=1e-5)
    np.testing.assert_allclose(pixels[:, 4, 6], WHITE_PIXEL, atol=1e-5)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"not a picture", id="text"),
        pytest.param(encoded(Image.new("1", (5_001, 5_000)), "PNG"), id="25 million pixels in 3 kB"),
        pytest.param(png_that_claims(60_000, 60_000), id="3.6 billion pixels in 50 bytes"),
        pytest.param(encoded(Image.new("RGB", (4, 4)), "TIFF"), id="a format that is not read"),
        pytest.param(encoded(Image.new("RGB", (9, 9), RED), "PNG")[:45], id="cut off"),
    ],
)
def test_what_is_no_picture_is_none(data):
    assert image_pixels(data, (4, 4)) is None


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP"])
def test_no_damage_to_a_file_is_an_error(kind):
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 255, (12, 12, 3), dtype=np.uint8))
    whole = np.frombuffer(encoded(noise, kind), np.uint8)
    for _ in range(60):
        damaged = whole.copy()
        at = rng.integers(0, len(whole), 3)
        damaged[at] = rng.integers(0, 256, 3)
        pixels = image_pixels(damaged[: rng.integers(1, len(whole) + 1)].tobytes(), (4, 4))
        assert pixels is None or np.isfinite(pixels).all()


def test_a_file_that_went_away_is_no_picture(tmp_path):
    assert read_image(tmp_path / "a.png", (4, 4)) is None

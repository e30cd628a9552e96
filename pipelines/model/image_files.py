"""Pictures of items: which file a name means, and its pixels.

Names and files come from somebody else's catalogue: nothing is fetched, how large a file and a picture may be is
bounded, and what cannot be read is no picture instead of an error.
"""

import io
import struct
import warnings
from enum import StrEnum
from pathlib import Path

import numpy as np

MAX_MIB = 20
"""Largest file that is opened."""
MAX_PIXELS = 25_000_000
"""Largest picture that is decoded: a few kB of a file can claim to hold billions of pixels."""
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
_DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)
_BROKEN = (OSError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, EOFError, struct.error)
"""What Pillow's decoders raise on damaged files."""


class LeftOut(StrEnum):
    """Why an item has no picture although it names one."""

    ADDRESS = "addresses, which are not fetched"
    OUTSIDE = "outside `training.image_folder`"
    MISSING = "no files"
    TOO_LARGE = f"above {MAX_MIB} MiB"
    BROKEN = "that cannot be read as a picture"


def find_image(name: str, folder: Path | None) -> Path | LeftOut:
    """Return the file that a name means, or why there is none.

    Args:
        name: A path, absolute or relative to `folder`.
        folder: Where all pictures are; None allows absolute paths only, to anywhere.
    """
    if "://" in name:
        return LeftOut.ADDRESS
    path = Path(name)
    if folder is None and not path.is_absolute():
        return LeftOut.OUTSIDE
    try:
        if folder is not None:
            path = (folder / path).resolve()
            if not path.is_relative_to(folder.resolve()):
                return LeftOut.OUTSIDE
        if not path.is_file():
            return LeftOut.MISSING
        return path if path.stat().st_size <= MAX_MIB * 2**20 else LeftOut.TOO_LARGE
    except (OSError, ValueError, RuntimeError):  # a name too long, a zero byte, a ring of links
        return LeftOut.MISSING


def read_image(path: Path, size: tuple[int, int]) -> np.ndarray | None:
    """Return the pixels of a picture that fills `size` without being cut: see `image_pixels`; None where it is none."""
    try:
        with path.open("rb") as file:
            return image_pixels(file.read(MAX_MIB * 2**20), size)
    except OSError:
        return None


def image_pixels(data: bytes, size: tuple[int, int]) -> np.ndarray | None:
    """Decode a picture: the first frame, upright, whole, on white.

    Args:
        data: A file in one of a few common formats.
        size: Height and width wanted.

    Returns:
        float32 `(3, height, width)`, red, green and blue in [0, 1], less ImageNet's means and by its deviations; None
        where the data is no such picture, or too large a one.
    """
    from PIL import Image, ImageOps

    height, width = size
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                return None
            image.draft("RGB", (2 * width, 2 * height))
            ImageOps.exif_transpose(image, in_place=True)
            small = ImageOps.contain(image.convert("RGBA"), (width, height))
    except (*_BROKEN, Image.DecompressionBombError):
        return None
    ground = Image.new("RGBA", (width, height), "white")
    ground.alpha_composite(small, ((width - small.width) // 2, (height - small.height) // 2))
    pixels: np.ndarray = (np.asarray(ground.convert("RGB"), np.float32) / 255 - _MEAN) / _DEVIATION
    return pixels.transpose(2, 0, 1)

"""The image encoder: a picture in, a vector out, run by ONNX Runtime. It stands still; the item tower learns.

A packaged network is exported once and kept in the cache; a file of the user's own is run as it is.
"""

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.errors import BundleError, ConfigError
from pipelines.inference.sessions import open_session
from pipelines.stores.files import file_sha256, replacing_file

NONE, PACKAGED = "none", "efficientnet-lite0"
_PIXELS = 1
"""Grows when `image_pixels` gives other numbers: vectors made before are made again."""
_DEFAULT_SIZE = 224
_FORM = "one float input (n, 3, height, width) and one output (n, dim)"


@dataclass(frozen=True)
class ImageEncoder:
    """An opened encoder."""

    id: str
    """Two encoders with the same id give the same vectors."""
    size: tuple[int, int]
    """Height and width of its pictures."""
    dim: int
    session: Any

    def encode(self, pixels: np.ndarray) -> np.ndarray:
        """Embed pictures.

        Args:
            pixels: float32 `(n, 3, height, width)`, as `image_pixels` gives them.

        Returns:
            float32 `(n, dim)`, each row L2 norm 1, or 0 where the encoder gives nothing or no number.
        """
        found = self.session.run(None, {self.session.get_inputs()[0].name: pixels})[0].astype(np.float32)
        norms = np.linalg.norm(found, axis=1, keepdims=True)
        usable = np.isfinite(norms) & (norms > 0)
        return np.divide(found, norms, out=np.zeros_like(found), where=usable)


def load_image_encoder(name: str, cache: Path) -> ImageEncoder:
    """Open an image encoder.

    Args:
        name: `efficientnet-lite0`, or the path of an ONNX file.
        cache: Folder in which exported networks are kept.

    Raises:
        ConfigError: it is not installed, there is no such file, or it is no image encoder.
    """
    if importlib.util.find_spec("PIL") is None:
        raise ConfigError(f"`training.image_encoder: {name}` needs Pillow: run `pip install 'headrace[images]'`.")
    if name == PACKAGED:
        return _packaged(cache)
    path = Path(name)
    if path.suffix != ".onnx" or not path.is_file():
        raise ConfigError(
            f"`training.image_encoder` is {name}, which is no ONNX file: give {NONE}, {PACKAGED} or the path of an "
            f".onnx file with {_FORM}."
        )
    return _opened(path, f"image-{file_sha256(path)[:16]}-{_PIXELS}")


def _packaged(cache: Path) -> ImageEncoder:
    from pipelines.model.efficientnet import IMAGE_SIZE, WEIGHTS_SHA256, load_efficientnet_lite0

    encoder_id = f"{PACKAGED}-{WEIGHTS_SHA256[:16]}-{_PIXELS}"
    path = cache / encoder_id / "encoder.onnx"
    if not path.is_file():
        from pipelines.compression.onnx_export import export_image_encoder

        network = load_efficientnet_lite0()
        with replacing_file(path) as temporary:
            export_image_encoder(network, temporary, size=IMAGE_SIZE)
    return _opened(path, encoder_id)


def _opened(path: Path, encoder_id: str) -> ImageEncoder:
    try:
        session = open_session(path)
        (wanted,) = session.get_inputs()
        _, channels, height, width = wanted.shape
        if not isinstance(channels, int) or channels != 3:
            raise ValueError(f"its input has the shape {wanted.shape}")
        size = (_pixels_or_default(height), _pixels_or_default(width))
        (found,) = session.run(None, {wanted.name: np.zeros((2, 3, *size), np.float32)})
        if found.ndim != 2 or len(found) != 2:
            raise ValueError(f"two pictures give an output of the shape {found.shape}")
    except BundleError as error:
        raise ConfigError(f"The image encoder {path} is no model that ONNX Runtime can run: give another.") from error
    except Exception as error:  # ONNX Runtime has exceptions of its own for each kind of mismatch
        reason = str(error).splitlines()[0]
        raise ConfigError(f"The image encoder {path} cannot be used ({reason}): it needs {_FORM}.") from error
    return ImageEncoder(encoder_id, size, found.shape[1], session)


def _pixels_or_default(side: Any) -> int:
    return side if isinstance(side, int) else _DEFAULT_SIZE

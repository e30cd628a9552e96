"""A vector for each item that has a picture; the others have none, and are what they were without any picture."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipelines.config import TrainingConfig
from pipelines.errors import ConfigError
from pipelines.model.image_encoder import NONE, ImageEncoder, load_image_encoder
from pipelines.model.image_files import LeftOut, find_image, read_image
from pipelines.progress import Progress

if TYPE_CHECKING:
    from pipelines.training.distributed import TrainingGroup

_BATCH = 32
_STAGE = "item images encoded"


@dataclass(frozen=True)
class ImageVectors:
    """What is seen of `n` items."""

    encoder: str
    """Id of the encoder that they come from; vectors of two encoders have nothing to do with each other."""
    vectors: np.ndarray
    """float32 `(n, dim)`, each row L2 norm 1, or 0 where the item has no picture."""

    @property
    def dim(self) -> int:
        """Width of a vector."""
        return int(self.vectors.shape[1])


@dataclass(frozen=True)
class ItemImages:
    """Where the pictures of items are, and what reads them."""

    encoder: str
    """As in `training.image_encoder`."""
    folder: Path | None
    """As in `training.image_folder`."""
    cache: Path
    """Vectors by encoder and content of the file."""

    def vectors(self, names: Sequence[str | None], progress: Progress) -> ImageVectors | None:
        """Return the vectors of items; None where no picture is wanted, or none can be read.

        Args:
            names: What the catalogue calls the picture of each item.

        Raises:
            ConfigError: the encoder cannot be used, or the folder is not there.
        """
        if self.encoder == NONE or not any(names):
            return None
        if self.folder is not None and not self.folder.is_dir():
            raise ConfigError(
                f"`training.image_folder` is {self.folder}, which is no folder: give the folder that the column "
                "`image` of the items speaks of, or set `training.image_encoder: none`."
            )
        found = [find_image(name, self.folder) if name else None for name in names]
        paths = {row: path for row, path in enumerate(found) if isinstance(path, Path)}
        left_out = Counter(reason for reason in found if isinstance(reason, LeftOut))
        images = self._encoded(len(names), paths, progress) if paths else None
        seen = images.vectors.any(axis=1).sum() if images is not None else 0
        left_out[LeftOut.BROKEN] = len(paths) - int(seen)
        note = ", ".join(f"{count:,} {reason}" for reason, count in left_out.items() if count)
        total = sum(name is not None and name != "" for name in names)
        progress.update("items with an image", int(seen), total, f"left out: {note}" if note else "")
        return images if seen else None

    def vectors_together(
        self, names: Sequence[str | None], progress: Progress, group: "TrainingGroup"
    ) -> ImageVectors | None:
        """Return what `vectors` does; each process encodes its share and finds those of the others in the cache."""
        if group.size > 1:
            self.vectors(names[group.share(len(names))], progress)
            group.wait()
        return self.vectors(names, progress)

    def _encoded(self, n_items: int, paths: dict[int, Path], progress: Progress) -> ImageVectors:
        from pipelines.model.encoder import EmbeddingCache

        encoder = load_image_encoder(self.encoder, self.cache)
        digests = {row: _digest(path) for row, path in paths.items()}
        files = dict(zip(digests.values(), paths.values(), strict=True))
        vectors = np.zeros((n_items, encoder.dim), np.float32)
        vectors[list(paths)] = EmbeddingCache(self.cache).encode(
            list(digests.values()),
            encoder.id,
            encoder.dim,
            lambda missing: _encode_files([files[digest] for digest in missing], encoder, progress),
        )
        return ImageVectors(encoder.id, vectors)


def item_images(config: TrainingConfig, cache: Path) -> ItemImages:
    """Return what the settings say of pictures."""
    return ItemImages(config.image_encoder, config.image_folder, cache)


def _digest(path: Path) -> str:
    """Return the SHA-256 of a file, or something that no file has where it may not be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return f"unreadable {path}"


def _encode_files(paths: Sequence[Path], encoder: ImageEncoder, progress: Progress) -> np.ndarray:
    """Return the vectors of pictures, float32 `(n, dim)`; 0 for what is no picture."""
    vectors = np.zeros((len(paths), encoder.dim), np.float32)
    for start in range(0, len(paths), _BATCH):
        pixels = [read_image(path, encoder.size) for path in paths[start : start + _BATCH]]
        readable = [place for place, picture in enumerate(pixels) if picture is not None]
        if readable:
            rows = start + np.array(readable)
            vectors[rows] = encoder.encode(np.stack([picture for picture in pixels if picture is not None]))
        progress.update(_STAGE, start + len(pixels), len(paths))
    return vectors

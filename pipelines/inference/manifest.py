"""What a bundle says about itself: its files, the version that wrote it, and whether they are as they were written."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipelines.errors import BundleError
from pipelines.inference.preprocessing import Frozen
from pipelines.stores.files import file_sha256

FORMAT = 4
MANIFEST = "manifest.json"
HALF_ENCODER = "encoder_half.onnx"
QUERY_TOWER, ITEM_TEXT_TOWER = "query_tower", "item_text_tower"


class OtherVersionError(BundleError):
    """Another version of Headrace wrote the bundle: another format, or features that this one does not compute."""


class FileEntry(Frozen):
    """One file of a bundle."""

    sha256: str
    bytes: int


class Manifest(Frozen):
    """What a bundle says about itself."""

    format: int
    bundle_id: str
    created_at: datetime
    parent: str | None
    """Bundle that training started from."""
    dim: int
    n_items: int
    encoder: str
    files: dict[str, FileEntry]
    items_cursor: dict[str, Any] | None = None
    """Place in the item log up to which the catalogue knows it; None: it was made before there was one."""

    @property
    def size_mib(self) -> float:
        """Size of all files, MiB."""
        return sum(entry.bytes for entry in self.files.values()) / 2**20

    @property
    def has_query_tower(self) -> bool:
        """Whether a smaller tower reads queries."""
        return any(name.startswith(f"{QUERY_TOWER}/") for name in self.files)

    @property
    def has_item_text_tower(self) -> bool:
        """Whether a smaller tower is the first to read items that arrive."""
        return any(name.startswith(f"{ITEM_TEXT_TOWER}/") for name in self.files)


def read_manifest(folder: Path, *, any_format: bool = False) -> Manifest:
    """Read what a bundle says about itself.

    Args:
        any_format: Also of a bundle that this version cannot open, as far as its manifest says what is needed here.

    Raises:
        BundleError: there is no readable manifest.
        OtherVersionError: it has another format.
    """
    path = folder / MANIFEST
    if not folder.is_dir():
        raise BundleError(f"There is no bundle at {folder}: run the training pipeline, or name another bundle.")
    if not path.is_file():
        raise BundleError(f"The bundle {folder} has no {MANIFEST}: it was not written to the end. Use another bundle.")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        found = values.get("format") if isinstance(values, dict) else None
        if found != FORMAT and not any_format:
            raise OtherVersionError(
                f"The bundle {folder} has format {found}, this version reads format {FORMAT}: run "
                "`headrace loop`, which trains a new bundle, or use the version of Headrace that wrote it."
            )
        return Manifest.model_validate(values)
    except (json.JSONDecodeError, UnicodeDecodeError, ValidationError) as error:
        raise BundleError(
            f"{path} is not a manifest ({str(error).splitlines()[0]}): use another bundle, or make this one again."
        ) from None


def is_of_another_version(folder: Path) -> bool:
    """Tell whether this version cannot open a bundle that another one wrote; False of what is away or broken."""
    try:
        read_manifest(folder)
    except OtherVersionError:
        return True
    except BundleError:
        return False
    return False


def verify_files(folder: Path, manifest: Manifest) -> None:
    """Compare every file with its size and SHA-256.

    Raises:
        BundleError: a file is missing or was changed.
    """
    for name, entry in manifest.files.items():
        path = folder / name
        if not path.is_file():
            raise BundleError(f"{name} is missing from the bundle {folder}: use another bundle, or make it again.")
        size = path.stat().st_size
        if size != entry.bytes or file_sha256(path) != entry.sha256:
            raise BundleError(
                f"{name} of the bundle {folder} was changed after it was written ({size:,} bytes, {entry.bytes:,} "
                "expected, or another SHA-256): use another bundle, or make it again."
            )


def file_entries(folder: Path) -> dict[str, FileEntry]:
    """Return size and hash of every file below a folder but the manifest, by name."""
    return {
        path.relative_to(folder).as_posix(): FileEntry(sha256=file_sha256(path), bytes=path.stat().st_size)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }

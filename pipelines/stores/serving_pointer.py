"""The pointer that says which bundle the service answers from: one small JSON file, replaced in one rename."""

from datetime import datetime
from pathlib import Path

from pydantic import Field, ValidationError

from pipelines.errors import BundleError
from pipelines.schemas import Record
from pipelines.stores.files import write_text


class ServingPointer(Record):
    """Which bundle is live."""

    bundle: str
    folder: Path
    deployed_at: datetime
    previous: str | None = Field(default=None, description="Bundle that was live before.")


def read_pointer(path: Path) -> ServingPointer | None:
    """Return the pointer, or None where nothing was ever deployed.

    The bundle of this name in the same home folder is meant, wherever the home folder was when it was deployed: one
    that was moved or mounted elsewhere still works, and a copy does not serve the files of its original.

    Raises:
        BundleError: the file is not a pointer.
    """
    try:
        pointer = ServingPointer.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValidationError, UnicodeDecodeError) as error:
        raise BundleError(
            f"{path} does not say which bundle is live ({str(error).splitlines()[0]}): run `headrace deploy_bundle`."
        ) from None
    beside = path.resolve().parents[1] / "bundles" / pointer.bundle
    if beside.is_dir():
        return pointer.model_copy(update={"folder": beside})
    return pointer


def write_pointer(path: Path, pointer: ServingPointer) -> None:
    """Replace the pointer, whole or not at all."""
    write_text(path, pointer.model_dump_json(indent=2))

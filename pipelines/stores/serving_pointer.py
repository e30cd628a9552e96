"""The pointer that says which bundle the service answers from: one small JSON file, replaced in one rename."""

from datetime import datetime
from pathlib import Path

from pydantic import Field, ValidationError

from pipelines.errors import BundleError
from pipelines.schemas import Record
from pipelines.stores.files import write_text

_REMEMBERED = 20


class ServingPointer(Record):
    """Which bundle is live."""

    bundle: str
    folder: Path
    deployed_at: datetime
    previous: str | None = Field(default=None, description="Bundle that was live before.")
    before: tuple[str, ...] = Field(default=(), description="Bundles that rollbacks go back to, the newest last.")

    def followed_by(self, bundle: str, folder: Path, deployed_at: datetime) -> "ServingPointer":
        """Return the pointer to another bundle; a rollback from it comes back here."""
        before = (*self.before, self.bundle)[-_REMEMBERED:]
        return ServingPointer(
            bundle=bundle, folder=folder, deployed_at=deployed_at, previous=self.bundle, before=before
        )

    def rolled_back_to(self, bundle: str, folder: Path, deployed_at: datetime) -> "ServingPointer":
        """Return the pointer to an earlier bundle; the next rollback goes back further, not here."""
        known = bundle in self.before
        before = self.before[: len(self.before) - 1 - self.before[::-1].index(bundle)] if known else ()
        return ServingPointer(
            bundle=bundle, folder=folder, deployed_at=deployed_at, previous=self.bundle, before=before
        )


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

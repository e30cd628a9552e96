"""What each step of each run returned, as one JSON file, so that a step can find its input without Airflow."""

from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from pipelines.errors import DataError
from pipelines.schemas import Record
from pipelines.stores.files import write_text

R = TypeVar("R", bound=Record)


class StepRecords:
    """Records by run and step below one folder: `<folder>/<run>/<step>.json`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def save(self, run: str, step: str, record: Record) -> None:
        """Write the record, whole or not at all."""
        write_text(self._folder / run / f"{step}.json", record.model_dump_json(indent=2))

    def find(self, run: str, step: str, kind: type[R]) -> R | None:
        """Return the record, or None where the step has not finished."""
        path = self._folder / run / f"{step}.json"
        if not path.exists():
            return None
        try:
            return kind.model_validate_json(path.read_text(encoding="utf-8"))
        except ValidationError:
            return None  # written by another version: the step runs again

    def load(self, run: str, step: str, kind: type[R]) -> R:
        """Return the record.

        Raises:
            DataError: the step has not finished in this run.
        """
        record = self.find(run, step, kind)
        if record is None:
            raise DataError(f"Run {run} has no result of {step}: run `headrace {step} --run {run}` first.")
        return record

    def latest(self, step: str, instead: str | None = None) -> str | None:
        """Return the run in which `step` finished last.

        Args:
            instead: A step that also counts, in runs that never came to `step`.
        """
        files = list(self._folder.glob(f"*/{step}.json"))
        if instead:
            others = self._folder.glob(f"*/{instead}.json")
            files += [path for path in others if not path.with_name(f"{step}.json").exists()]
        return max(files, key=lambda path: path.stat().st_mtime).parent.name if files else None

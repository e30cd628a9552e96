"""What a bench has measured so far: one file a case and seed, so that a killed bench goes on where it was."""

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from pipelines.stores.files import replacing_file, text_sha256, write_text

CHOICES = "baseline-choices"
"""Note with what was chosen on validation for the baselines."""


class CaseStore:
    """Results below one folder, which belongs to one split and one choice of settings.

    Args:
        folder: Made when something is written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def folder(self) -> Path:
        """Where everything of this split and these settings is kept."""
        return self._folder

    def model_folder(self, seed: int) -> Path:
        """Return where the model may keep unfinished work of one seed; it exists."""
        folder = self._folder / "model" / f"seed-{seed}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def has(self, case: str, seed: int | None = None) -> bool:
        """Whether the case is measured: a baseline without a seed, a case of the model with one."""
        return self._file(case, seed).is_file()

    def save(self, case: str, seed: int | None, arrays: Mapping[str, np.ndarray]) -> None:
        """Keep what was measured, whole or not at all."""
        with replacing_file(self._file(case, seed)) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)

    def load(self, case: str, seed: int | None = None) -> dict[str, np.ndarray]:
        """Return what `save` was given."""
        with np.load(self._file(case, seed), allow_pickle=False) as data:
            return dict(data)

    def note(self, name: str) -> dict[str, object] | None:
        """Return a note, None where there is none."""
        path = self._folder / f"{name}.json"
        found: dict[str, object] | None = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
        return found

    def write_note(self, name: str, note: Mapping[str, object]) -> None:
        """Keep a small JSON object."""
        write_text(self._folder / f"{name}.json", json.dumps(note, indent=2) + "\n")

    def model_cases(self, seed: int) -> list[str] | None:
        """Return the names of the model's cases, all of which are measured; None where the seed is not finished."""
        found = self.note(f"model-seed-{seed}")
        names = [str(name) for name in found["cases"]] if found and isinstance(found["cases"], list) else None
        return names if names is not None and all(self.has(name, seed) for name in names) else None

    def finish_model(self, seed: int, cases: Sequence[str]) -> None:
        """Say that all cases of the model are measured with one seed."""
        self.write_note(f"model-seed-{seed}", {"cases": list(cases)})

    def forget(self, baselines: Sequence[str]) -> None:
        """Remove the results of these baselines, and what was chosen for them."""
        for case in baselines:
            self._file(case, None).unlink(missing_ok=True)
        (self._folder / f"{CHOICES}.json").unlink(missing_ok=True)

    def forget_model(self) -> None:
        """Remove what the model learnt and all its results."""
        for folder in ("model", "model-results"):
            shutil.rmtree(self._folder / folder, ignore_errors=True)
        for file in self._folder.glob("model-seed-*.json"):
            file.unlink()

    def _file(self, case: str, seed: int | None) -> Path:
        folder = self._folder / "results" if seed is None else self._folder / "model-results" / f"seed-{seed}"
        return folder / f"{_slug(case)}.npz"


def _slug(case: str) -> str:
    """Return a file name that says which case it is and is its own for every name."""
    return re.sub(r"[^a-z0-9]+", "_", case.lower()).strip("_")[:60] + "-" + text_sha256(case)[:6]

"""Versions of the model in MLflow's registry, and which of them is the champion.

A bundle folder stays where it is, under its id; the registry holds a copy as the version's artifact, so that another
machine can fetch it, and remembers in order which versions were champions, so that a rollback knows where to go.
"""

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipelines.errors import DataError, StoreError
from pipelines.schemas import EvaluationReport, Record
from pipelines.stores.bundle_signature import MLMODEL, bundle_signature
from pipelines.stores.mlflow_client import MlflowBackend, mlflow_errors

MODEL = "headrace"
CHAMPION = "champion"
CHALLENGER = "challenger"
_BUNDLE_TAG = "bundle"
_RUN_TAG = "run"
_TRAIL_TAG = "champions"
_REPORT = "evaluation/report.json"
_DESCRIPTION = (
    "Search and recommendation bundles, one version a training run. `champion` is what should be live, `challenger` "
    "what was trained last; `shadow` and `canary` are on trial. The tags `promotion` and `promotion_reasons` say how "
    "the gate decided; `headrace models` shows all of it in a terminal."
)


class ModelVersion(Record):
    """One registered bundle."""

    version: str
    bundle: str
    run: str
    aliases: tuple[str, ...]
    tags: dict[str, str]


class ModelRegistry:
    """The model registry on MLflow. The alias `champion` is the authority on what should be live.

    Args:
        folder: Holds the SQLite database and the artifacts where there is no server.
        uri: A tracking server or database instead of SQLite in `folder`.
    """

    def __init__(self, folder: Path, uri: str | None = None) -> None:
        self._backend = MlflowBackend(folder, uri)

    @classmethod
    def from_environment(cls, folder: Path, environment: Mapping[str, str] = os.environ) -> "ModelRegistry":
        """Read `HEADRACE_MLFLOW_URI`; without it, SQLite and files in `folder`."""
        return cls(folder, MlflowBackend.from_environment(folder, environment).uri)

    def register(self, run: str, bundle: str, folder: Path) -> str:
        """Copy the bundle to the run's artifacts and make a version of it; the same bundle stays one version."""
        if known := self.find(bundle):
            return known.version
        run_id = self._backend.open_run(run)
        with mlflow_errors(f"register bundle {bundle}"):
            artifact = f"bundles/{bundle}"
            self._backend.client.log_artifacts(run_id, str(folder), artifact)
            self._backend.client.log_text(run_id, bundle_signature(run_id, artifact), f"{artifact}/{MLMODEL}")
            self._ensure_model()
            version = self._backend.client.create_model_version(
                MODEL,
                source=f"runs:/{run_id}/{artifact}",
                run_id=run_id,
                tags={_BUNDLE_TAG: bundle, _RUN_TAG: run},
            )
        return str(version.version)

    def describe(self, version: str, text: str) -> None:
        """Give a version a description, Markdown; the last one wins."""
        with mlflow_errors(f"describe version {version}"):
            self._backend.client.update_model_version(MODEL, version, text)

    def versions(self) -> list[ModelVersion]:
        """Return every version, oldest first."""
        return sorted(self._search(f"name='{MODEL}'"), key=lambda found: int(found.version))

    def find(self, bundle: str) -> ModelVersion | None:
        """Return the version of a bundle, None where it is not registered."""
        if "'" in bundle:
            return None  # no bundle of ours, and the end of a string to MLflow
        found = self._search(f"name='{MODEL}' and tags.{_BUNDLE_TAG}='{bundle}'")
        return min(found, key=lambda version: int(version.version)) if found else None

    def champion(self) -> ModelVersion | None:
        """Return the version that holds the champion alias, None before the first promotion."""
        return self._with_alias(CHAMPION)

    def challenger(self) -> ModelVersion | None:
        """Return the version that was registered last for evaluation."""
        return self._with_alias(CHALLENGER)

    def previous_champion(self) -> ModelVersion | None:
        """Return the champion before the present one, None where there was none."""
        trail = self._trail()
        return self._version(trail[-2]) if len(trail) > 1 else None

    def set_challenger(self, version: str) -> None:
        """Give `version` the challenger alias."""
        with mlflow_errors(f"make version {version} the challenger"):
            self._backend.client.set_registered_model_alias(MODEL, CHALLENGER, version)

    def set_champion(self, version: str) -> None:
        """Give `version` the champion alias and remember the champion before it.

        The trail is written before the alias, and is read up to the alias only: a crash in between changes nothing.

        Raises:
            DataError: there is no such version.
        """
        self._version(version)
        trail = self._trail()
        if trail and trail[-1] == version:
            return
        with mlflow_errors(f"make version {version} the champion"):
            self._backend.client.set_registered_model_tag(MODEL, _TRAIL_TAG, json.dumps([*trail, version]))
            self._backend.client.set_registered_model_alias(MODEL, CHAMPION, version)

    def restore_champion(self, version: str) -> None:
        """Move the champion alias back to a version that was the champion before; one write.

        Raises:
            DataError: the version was never the champion.
        """
        wanted = self._version(version)
        held = self._champions()
        if version not in held:
            bundles = [found.bundle for found in self.versions() if found.version in held]
            raise DataError(
                f"Bundle {wanted.bundle} (version {version}) was never the champion (the champions so far: "
                f"{', '.join(bundles) or 'none'}): name one of those."
            )
        with mlflow_errors(f"make version {version} the champion"):
            self._backend.client.set_registered_model_alias(MODEL, CHAMPION, version)

    def champions(self) -> list[ModelVersion]:
        """Return every version that was ever the champion, each once, the one that became it last at the end."""
        known = {version.version: version for version in self.versions()}
        held = self._champions()
        newest_last = list(dict.fromkeys(reversed(held)))[::-1]
        return [known[version] for version in newest_last if version in known]

    def give_alias(self, alias: str, version: str) -> None:
        """Give a version an alias, such as `canary`; whoever held it loses it."""
        with mlflow_errors(f"give version {version} the alias {alias}"):
            self._backend.client.set_registered_model_alias(MODEL, alias, version)

    def take_alias(self, alias: str) -> None:
        """Take an alias from whoever holds it."""
        with mlflow_errors(f"take the alias {alias} away"):
            if alias in self._aliases():
                self._backend.client.delete_registered_model_alias(MODEL, alias)

    def holder(self, alias: str) -> ModelVersion | None:
        """Return the version that holds an alias."""
        return self._with_alias(alias)

    def tag(self, version: str, key: str, value: str) -> None:
        """Set a tag of a version; the last value wins."""
        with mlflow_errors(f"tag version {version}"):
            self._backend.client.set_model_version_tag(MODEL, version, key, value[:5_000])

    def save_report(self, version: str, report: EvaluationReport) -> None:
        """Keep the evaluation of a version beside its bundle."""
        run_id = self._backend.open_run(self._version(version).run)
        with mlflow_errors(f"save the report of version {version}"):
            self._backend.client.log_text(run_id, report.model_dump_json(indent=2), f"{version}/{_REPORT}")

    def report(self, version: str) -> EvaluationReport | None:
        """Return the evaluation of a version, None where it was not evaluated."""
        run_id = self._backend.open_run(self._version(version).run)
        path = f"{version}/{_REPORT}"
        with mlflow_errors(f"read the report of version {version}"), tempfile.TemporaryDirectory() as folder:
            listed = {entry.path for entry in self._backend.client.list_artifacts(run_id, str(Path(path).parent))}
            if path not in listed:
                return None
            file = Path(self._backend.client.download_artifacts(run_id, path, folder))
            try:
                return EvaluationReport.model_validate_json(file.read_text(encoding="utf-8"))
            except ValidationError:
                return None  # written by another release: the version counts as not evaluated

    def fetch(self, version: str, folder: Path) -> Path:
        """Copy the bundle of a version into `folder`, under its id, and return its path."""
        wanted = self._version(version)
        with mlflow_errors(f"fetch version {version}"):
            run_id = self._backend.client.get_model_version(MODEL, version).run_id
            with tempfile.TemporaryDirectory(dir=folder) as temporary:
                copy = self._backend.client.download_artifacts(run_id, f"bundles/{wanted.bundle}", temporary)
                (Path(copy) / MLMODEL).unlink(missing_ok=True)  # MLflow's own, and no file of the bundle
                target = folder / wanted.bundle
                if not target.exists():
                    Path(copy).rename(target)
        return target

    def _trail(self) -> list[str]:
        """Return the champions in order, the present one last; later ones that were rolled back are left out."""
        champion = self._aliases().get(CHAMPION)
        if champion is None:
            return []
        held = self._champions()
        if champion not in held:
            return [champion]  # somebody moved the alias by hand
        return held[: len(held) - held[::-1].index(champion)]

    def _champions(self) -> list[str]:
        """Return every version that was made the champion since the last rollback, in order."""
        model = self._model()
        return [str(version) for version in json.loads(model.tags.get(_TRAIL_TAG, "[]"))] if model else []

    def _ensure_model(self) -> None:
        if self._model() is None:
            self._backend.client.create_registered_model(MODEL, description=_DESCRIPTION)

    def _model(self) -> Any:
        with mlflow_errors("read the model registry"):
            found = self._backend.client.search_registered_models(filter_string=f"name='{MODEL}'", max_results=1)
            return found[0] if found else None

    def _aliases(self) -> dict[str, str]:
        model = self._model()
        return {alias: str(version) for alias, version in model.aliases.items()} if model else {}

    def _with_alias(self, alias: str) -> ModelVersion | None:
        version = self._aliases().get(alias)
        return self._version(version) if version else None

    def _version(self, version: str) -> ModelVersion:
        known = {found.version: found for found in self.versions()}
        if version not in known:
            raise DataError(f"There is no version {version!r} of the model: {_listed(known)}.")
        return known[version]

    def _search(self, condition: str) -> list[ModelVersion]:
        aliases = self._aliases()
        found: list[Any] = []
        token: str | None = None
        with mlflow_errors("list the model versions"):
            while True:
                page = self._backend.client.search_model_versions(condition, max_results=1_000, page_token=token)
                found += page
                token = page.token
                if not token:
                    break
        return [_as_version(version, aliases) for version in found]


def _as_version(found: Any, aliases: Mapping[str, str]) -> ModelVersion:
    version = str(found.version)
    tags = {key: value for key, value in found.tags.items() if key not in (_BUNDLE_TAG, _RUN_TAG)}
    try:
        bundle, run = found.tags[_BUNDLE_TAG], found.tags[_RUN_TAG]
    except KeyError:
        raise StoreError(
            f"Version {version} of the model {MODEL} in MLflow was not registered by Headrace (it has no tag "
            f"`{_BUNDLE_TAG}`): delete that version, or use another MLflow."
        ) from None
    held = tuple(sorted(alias for alias, holder in aliases.items() if holder == version))
    return ModelVersion(version=version, bundle=bundle, run=run, aliases=held, tags=tags)


def _listed(known: Mapping[str, ModelVersion]) -> str:
    if not known:
        return "none is registered yet; run the training pipeline first"
    return "there are " + ", ".join(f"{version} (bundle {found.bundle})" for version, found in known.items())

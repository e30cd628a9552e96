"""Joins steps to stores: what a DAG task and a command both call.

`run_step("validate_tables", run="…")` looks up the records that the step needs, opens the stores it writes to,
runs it, and saves what it returned under `records/<run>/<step>.json`. Stores are opened on first use, so that a
step pays only for what it touches.
"""

import errno
import fcntl
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, date, datetime, timedelta
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, ValidationError

from pipelines.config import HeadraceConfig, Settings, load_config
from pipelines.errors import BundleError, ConfigError, DivergenceError, HeadraceError, StoreError
from pipelines.places import Places
from pipelines.progress import PROGRESS_VARIABLE, Progress, SilentProgress, progress_from_environment
from pipelines.schemas import (
    CompressedBundle,
    EvaluationReport,
    FeatureBuild,
    IngestedWindow,
    PromotionDecision,
    Record,
    TrainedModel,
    TrainingSet,
)
from pipelines.stores.files import text_sha256
from pipelines.stores.step_records import StepRecords

if TYPE_CHECKING:
    from pipelines.pseudonyms import Pseudonymizer
    from pipelines.sources.base import Source
    from pipelines.stores.event_log import EventLogStore
    from pipelines.stores.experiment_tracker import ExperimentTracker
    from pipelines.stores.feature_store import FeatureStoreClient
    from pipelines.stores.model_registry import ModelRegistry
    from pipelines.stores.online_features import OnlineFeatures
    from pipelines.stores.table_store import TableStore

FROM_ZERO = "from-zero"
"""The text of `--force` that also trains from zero."""
PROJECT = Path(__file__).resolve().parents[1]
"""The checkout: `dags/`, `bentos/` and `feature_repo/` lie here."""

QUIET = {
    "BENTOML_DO_NOT_TRACK": "True",
    "FEAST_USAGE": "False",
    "GX_ANALYTICS_ENABLED": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "GIT_PYTHON_REFRESH": "quiet",
    "TOKENIZERS_PARALLELISM": "false",
}
"""Environment in which no library reports home and none prints advice."""


class Choices(Record):
    """What a person asked of one training run; kept with the run, so that every step of it sees the same."""

    window_days: int | None = Field(default=None, description="Days of training rows.")
    encoder_steps: int | None = Field(default=None, description="Steps that tune the encoder.")
    tower_steps: int | None = Field(default=None, description="Steps at most that tune the towers.")
    force: str = Field(default="", description="Any text: makes another run of the same inputs, and passes the gate.")
    from_scratch: bool = Field(default=False, description="Start from the pre-trained encoder, over the whole window.")
    until: date | None = Field(default=None, description="First day (UTC) whose baskets do not count any more.")


class TrainingInputs(Record):
    """What a training run depends on, besides the champion it starts from."""

    tables: str = Field(description="Fingerprint of the accepted tables.")
    settings: str = Field(description="Fingerprint of the settings that shape the model.")
    policy: str = Field(description="Fingerprint of the settings by which it is measured and promoted.")
    choices: Choices


class NothingNew(Exception):  # noqa: N818 - a result, not an error
    """A model was already trained on exactly these tables with these settings, and is champion or was refused."""


class Wiring:
    """The stores of one home folder, each opened when it is first needed."""

    def __init__(self, places: Places, config: HeadraceConfig, progress: Progress) -> None:
        self.places = places
        self.config = config
        self.progress = progress
        self.records = StepRecords(places.records)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "Wiring":
        """Read places, settings and the watcher of progress from the environment."""
        return cls(
            Places.from_environment(environment), load_config(environment), progress_from_environment(environment)
        )

    @cached_property
    def tables(self) -> "TableStore":
        """The validated tables."""
        from pipelines.stores.table_store import TableStore

        return TableStore(folder=self.places.tables, quarantine=self.places.quarantine, ingested=self.places.ingested)

    @cached_property
    def event_log(self) -> "EventLogStore":
        """The events that the service acknowledged."""
        from pipelines.stores.event_log import open_event_log

        return open_event_log(self.places.event_log, os.environ)

    @cached_property
    def pseudonymizer(self) -> "Pseudonymizer":
        """The keyed hash; its key is made only while no table was written with another one."""
        from pipelines.pseudonyms import Pseudonymizer, load_pseudonym_key

        return Pseudonymizer(load_pseudonym_key(self.places.pseudonym_key, create=not self.places.tables.exists()))

    @cached_property
    def source(self) -> "Source":
        """Where tables come from."""
        settings = self.config.source
        if settings.kind == "completejourney":
            from pipelines.sources.completejourney import CompleteJourneySource

            return CompleteJourneySource(replay_until=settings.replay_until)
        if settings.mapping is None:
            raise ConfigError(
                "`source.kind` is `tables` but `source.mapping` names no file: set it to the YAML file that maps your "
                "columns (docs/your-own-data.md shows one)."
            )
        from pipelines.sources.tables import TablesSource

        return TablesSource(settings.mapping, lookback=timedelta(hours=settings.lookback_hours))

    @cached_property
    def feature_store(self) -> "FeatureStoreClient":
        """Feast: definitions, offline and online store."""
        from pipelines.stores.feature_store import FeatureStoreClient

        return FeatureStoreClient(places=self.places, engine=self.config.feature_store)

    @cached_property
    def online_features(self) -> "OnlineFeatures":
        """The online store, as the service reads and updates it."""
        from pipelines.stores.online_features import OnlineFeatures

        return OnlineFeatures(
            self.places.feast,
            history_length=self.config.features.history_length,
            preparation=self.config.preparation,
        )

    @cached_property
    def tracker(self) -> "ExperimentTracker":
        """MLflow runs."""
        from pipelines.stores.experiment_tracker import ExperimentTracker

        return ExperimentTracker.from_environment(self.places.mlflow)

    @cached_property
    def registry(self) -> "ModelRegistry":
        """MLflow model versions and aliases."""
        from pipelines.stores.model_registry import ModelRegistry

        return ModelRegistry.from_environment(self.places.mlflow)

    def run_named(self, run: str | None, after: str) -> str:
        """Return `run`, or the run in which the step `after` finished last.

        Raises:
            ConfigError: no run was named and there is none.
        """
        found = run or self.records.latest(after)
        if found is None:
            raise ConfigError(
                f"There is no run to go on with: {after} has never finished in {self.places.home}. "
                f"Run `headrace {after}` first, or `headrace loop` for everything."
            )
        return found

    def config_for(self, choices: Choices) -> HeadraceConfig:
        """Return the settings with what a person chose for this run put in.

        Raises:
            ConfigError: a choice is out of range.
        """
        changes = {
            ("training_set", "window_days"): choices.window_days,
            ("training", "encoder_steps"): choices.encoder_steps,
            ("training", "tower_steps"): choices.tower_steps,
        }
        values = self.config.model_dump()
        for (section, name), value in changes.items():
            if value is not None:
                values[section][name] = value
        try:
            return HeadraceConfig.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise ConfigError(f"`{where}`: {first['msg']} (found {first['input']!r}).") from None

    def choices_of(self, run: str) -> Choices:
        """Return what was chosen when the run began."""
        inputs = self.records.find(run, "training_inputs", TrainingInputs)
        return inputs.choices if inputs else Choices()

    def newest_rows(self) -> datetime:
        """Return the end of the newest window that brought rows.

        Not the end of the newest window: an hour without news would give the same features another fingerprint, and
        a training run that was stopped would begin anew instead of going on.

        Raises:
            ConfigError: no window was accepted yet.
        """
        windows = self.tables.manifest().windows
        if not windows:
            raise ConfigError("There are no tables yet: run `headrace ingest_tables` and `headrace validate_tables`.")
        return windows[-1].until

    def champion_bundle(self) -> str:
        """Return the bundle that holds the champion alias.

        Raises:
            ConfigError: there is none yet.
        """
        champion = self.registry.champion()
        if champion is None:
            raise ConfigError(
                "There is no champion yet: run `headrace loop`, which trains, evaluates and promotes one."
            )
        return champion.bundle


def settings_fingerprint(*parts: Settings) -> str:
    """Return a SHA-256 over settings."""
    return text_sha256(*(part.model_dump_json() for part in parts))


def _day(text: date | str | None) -> date | None:
    try:
        return date.fromisoformat(text) if isinstance(text, str) else text
    except ValueError:
        raise ConfigError(f"`until` is {text!r}, a day such as 2026-01-31 is needed.") from None


def _ingest_tables(wiring: Wiring, *, until: datetime | None = None) -> tuple[str, Record]:
    from pipelines.steps.ingest_tables import ingest_tables
    from pipelines.stores.item_log import ItemLog

    window = ingest_tables(
        wiring.source,
        tables=wiring.tables,
        event_log=wiring.event_log,
        item_log=ItemLog(wiring.places.item_log),
        pseudonymizer=wiring.pseudonymizer,
        preparation=wiring.config.preparation,
        late_days=wiring.config.validation.late_days,
        until=until or datetime.now(UTC),
        progress=wiring.progress,
    )
    return window.window, window


def _validate_tables(wiring: Wiring, *, run: str | None = None) -> tuple[str, Record]:
    from pipelines.steps.validate_tables import validate_tables

    run = wiring.run_named(run, "ingest_tables")
    report = validate_tables(
        wiring.records.load(run, "ingest_tables", IngestedWindow),
        tables=wiring.tables,
        great_expectations_dir=wiring.places.great_expectations,
        config=wiring.config.validation,
        progress=wiring.progress,
        tracker=wiring.tracker,
    )
    return run, report


def _build_features(wiring: Wiring, *, run: str | None = None) -> tuple[str, Record]:
    from pipelines.steps.build_features import build_features

    run = wiring.run_named(run, "validate_tables")
    build = build_features(
        tables=wiring.tables,
        features_dir=wiring.places.features,
        config=wiring.config.features,
        until=wiring.newest_rows(),
        progress=wiring.progress,
    )
    return run, build


def _materialize_features(wiring: Wiring, *, run: str | None = None) -> tuple[str, Record]:
    from pipelines.steps.materialize_features import materialize_features

    run = wiring.run_named(run, "build_features")
    build = wiring.records.load(run, "build_features", FeatureBuild)
    materialization = materialize_features(
        build,
        feature_store=wiring.feature_store,
        event_log=wiring.event_log,
        online=wiring.online_features,
        clock=lambda: datetime.now(UTC),
        progress=wiring.progress,
    )
    return run, materialization


def _embed_new_items(wiring: Wiring, *, run: str | None = None) -> tuple[str, Record]:
    from pipelines.steps.embed_new_items import embed_new_items
    from pipelines.stores.serving_pointer import read_pointer
    from pipelines.training.item_images import item_images

    run = wiring.run_named(run, "validate_tables")
    live = read_pointer(wiring.places.current_bundle)
    embedded = embed_new_items(
        live.folder if live else None,
        tables=wiring.tables,
        new_items=wiring.places.new_items,
        progress=wiring.progress,
        images=item_images(wiring.config.training, wiring.places.embedding_cache),
    )
    return run, embedded


def _build_training_set(
    wiring: Wiring,
    *,
    window_days: int | None = None,
    encoder_steps: int | None = None,
    tower_steps: int | None = None,
    force: str = "",
    from_scratch: bool = False,
    until: date | str | None = None,
) -> tuple[str, Record]:
    from pipelines.inference.manifest import is_of_another_version
    from pipelines.steps.build_training_set import build_training_set
    from pipelines.training.receipt import WindowReadError, find_receipt

    choices = Choices(
        window_days=window_days,
        encoder_steps=encoder_steps,
        tower_steps=tower_steps,
        force=force,
        from_scratch=from_scratch or force == FROM_ZERO,
        until=_day(until),
    )
    config = wiring.config_for(choices)
    model = (config.features, config.training, config.compression)
    inputs = TrainingInputs(
        tables=wiring.tables.fingerprint(),
        settings=settings_fingerprint(config.training_set, *model),
        policy=settings_fingerprint(config.evaluation, config.promotion, config.serving),
        choices=choices,
    )
    champion = None if choices.from_scratch else wiring.registry.champion()
    before = wiring.records.find(champion.run, "training_inputs", TrainingInputs) if champion else None
    as_before = before is not None and before.settings == inputs.settings and choices.until is None
    can_serve = champion is not None and not is_of_another_version(wiring.places.bundles / champion.bundle)
    if champion and can_serve and before and as_before and before.tables == inputs.tables and not force:
        raise NothingNew(
            f"Nothing new: champion {champion.bundle} was trained on these tables with these settings "
            "(`--force` trains again)."
        )
    try:
        training_set = build_training_set(
            tables=wiring.tables,
            feature_store=wiring.feature_store,
            training_dir=wiring.places.training,
            config=config.training_set,
            model_fingerprint=settings_fingerprint(*model),
            champion=champion.bundle if champion else None,
            parent=find_receipt(wiring.places.training / champion.bundle / "model") if champion and can_serve else None,
            until=choices.until,
            force=force,
            progress=wiring.progress,
        )
    except WindowReadError as error:
        if error.is_twice and as_before:  # a schedule that is quicker than the shop: no failure
            raise NothingNew(f"Nothing new to train on yet. {error}") from None
        raise
    decision = wiring.records.find(training_set.run, "promote_challenger", PromotionDecision)
    if decision and not decision.promoted and not force:
        tried = wiring.records.find(training_set.run, "training_inputs", TrainingInputs)
        if tried and tried.policy == inputs.policy:
            raise NothingNew(
                f"Nothing new: run {training_set.run} was trained on these tables with these settings, and the gate "
                f"refused it: {'; '.join(decision.reasons)} (`--force` trains again)."
            )
    wiring.records.save(training_set.run, "training_inputs", inputs)
    return training_set.run, training_set


def _check_leaks(wiring: Wiring, *, run: str | None = None) -> tuple[str, Record]:
    from pipelines.steps.check_leaks import check_leaks

    run = wiring.run_named(run, "build_training_set")
    report = check_leaks(
        wiring.records.load(run, "build_training_set", TrainingSet),
        tables=wiring.tables,
        feature_store=wiring.feature_store,
        tracker=wiring.tracker,
        config=wiring.config.leaks,
        progress=wiring.progress,
    )
    return run, report


def _finetune_model(wiring: Wiring, *, run: str | None = None) -> tuple[str, Record]:
    from pipelines.steps.finetune_model import finetune_model
    from pipelines.steps.promote_challenger import refuse_diverged_training
    from pipelines.training.distributed import training_group

    run = wiring.run_named(run, "build_training_set")
    with training_group() as group:
        try:
            trained = finetune_model(
                wiring.records.load(run, "build_training_set", TrainingSet),
                tables=wiring.tables,
                training_dir=wiring.places.training,
                tracker=wiring.tracker,
                config=wiring.config_for(wiring.choices_of(run)).training,
                cache_dir=wiring.places.embedding_cache,
                progress=wiring.progress if group.is_main else SilentProgress(),
                group=group,
            )
        except DivergenceError as error:
            if group.is_main:
                decision = refuse_diverged_training(run, str(error), registry=wiring.registry, tracker=wiring.tracker)
                wiring.records.save(run, "promote_challenger", decision)
            raise
    return run, trained


def _compress_model(wiring: Wiring, *, run: str | None = None) -> tuple[str, Record]:
    from pipelines.steps.compress_model import compress_model

    run = wiring.run_named(run, "finetune_model")
    compressed = compress_model(
        wiring.records.load(run, "build_training_set", TrainingSet),
        wiring.records.load(run, "finetune_model", TrainedModel),
        tables=wiring.tables,
        bundles_dir=wiring.places.bundles,
        registry=wiring.registry,
        tracker=wiring.tracker,
        config=wiring.config_for(wiring.choices_of(run)),
        cache_dir=wiring.places.embedding_cache,
        progress=wiring.progress,
        now=datetime.now(UTC),
    )
    return run, compressed


def _evaluate_model(wiring: Wiring, *, run: str | None = None) -> tuple[str, Record]:
    from pipelines.steps.evaluate_model import evaluate_model

    run = wiring.run_named(run, "compress_model")
    report = evaluate_model(
        wiring.records.load(run, "build_training_set", TrainingSet),
        wiring.records.load(run, "compress_model", CompressedBundle),
        tables=wiring.tables,
        bundles_dir=wiring.places.bundles,
        registry=wiring.registry,
        tracker=wiring.tracker,
        config=wiring.config.evaluation,
        serving=wiring.config.serving,
        shadow_answers=wiring.places.shadow_answers,
        cache_dir=wiring.places.embedding_cache,
        progress=wiring.progress,
    )
    return run, report


def _promote_challenger(wiring: Wiring, *, run: str | None = None, force: bool | None = None) -> tuple[str, Record]:
    from pipelines.steps.promote_challenger import promote_challenger

    # The newest run may be one whose training diverged: it was decided without an evaluation.
    newest = wiring.records.latest("evaluate_model", instead="promote_challenger")
    run = wiring.run_named(run or newest, "evaluate_model")
    stopped = wiring.records.find(run, "promote_challenger", PromotionDecision)
    if stopped and wiring.records.find(run, "evaluate_model", EvaluationReport) is None:
        return run, stopped  # the training diverged, so there is nothing to measure
    decision = promote_challenger(
        wiring.records.load(run, "evaluate_model", EvaluationReport),
        wiring.records.load(run, "compress_model", CompressedBundle),
        registry=wiring.registry,
        tracker=wiring.tracker,
        policy=wiring.config.promotion,
        force=bool(wiring.choices_of(run).force) if force is None else force,
    )
    return run, decision


def _build_bento(wiring: Wiring, *, bundle: str | None = None) -> tuple[str, Record]:
    from pipelines.steps.build_bento import build_bento

    bundle = bundle or wiring.champion_bundle()
    bento = build_bento(
        bundle, bundles_dir=wiring.places.bundles, bentoml_home=wiring.places.bentoml, project_dir=PROJECT
    )
    return bundle, bento


def _deploy_bundle(
    wiring: Wiring, *, bundle: str | None = None, known: bool = False, at_once: bool = False
) -> tuple[str, Record]:
    """Deploy; a bundle that is `known`, because it was live before, does not rehearse and goes live first of all.

    With `at_once`, what can wait is left to the caller: `after_rollback`.
    """
    from pipelines.steps.deploy_bundle import deploy_bundle, rehearse_beside
    from pipelines.steps.rollback_champion import withdraw_champion
    from pipelines.stores.planned_trials import follow_registry

    bundle = bundle or wiring.champion_bundle()
    places, config = wiring.places, wiring.config.deployment
    if not (places.bundles / bundle).is_dir() and (version := wiring.registry.find(bundle)):
        wiring.registry.fetch(version.version, places.bundles)  # removed from this disk
    if not known:  # what arrived while it was trained is to be found from its first answer on
        embed_beside(wiring, bundle)
    try:
        deployment = deploy_bundle(
            bundle,
            places=places,
            config=config,
            now=datetime.now(UTC),
            rehearse=None
            if known
            else partial(
                rehearse_beside,
                requests=places.served_requests,
                limit=config.replayed_requests,
                timeout_s=config.trial_timeout_s,
                project_dir=PROJECT,
                environment=os.environ,
            ),
        )
    except BundleError as error:
        if not at_once and ((places.mlflow / "mlflow.db").is_file() or os.environ.get("HEADRACE_MLFLOW_URI")):
            withdraw_champion(bundle, str(error), registry=wiring.registry)
        raise
    if known and not at_once:
        after_rollback(wiring, bundle)
    elif places.rollout.is_file() and not at_once:  # what is live now is not tried any more
        follow_registry(wiring.registry, places)
    return bundle, deployment


def after_rollback(wiring: Wiring, bundle: str) -> None:
    """Do what a rollback need not wait for: new items beside the bundle, and nothing tried that is live."""
    from pipelines.stores.planned_trials import follow_registry

    embed_beside(wiring, bundle)
    if wiring.places.rollout.is_file():
        follow_registry(wiring.registry, wiring.places)


def embed_beside(wiring: Wiring, bundle: str) -> None:
    """Embed the items that arrived since the bundle was made."""
    from pipelines.steps.embed_new_items import embed_new_items
    from pipelines.training.item_images import item_images

    if wiring.tables.accepted_until():
        embed_new_items(
            wiring.places.bundles / bundle,
            tables=wiring.tables,
            new_items=wiring.places.new_items,
            progress=wiring.progress,
            images=item_images(wiring.config.training, wiring.places.embedding_cache),
        )


def _prune_bundles(wiring: Wiring) -> tuple[str, Record]:
    from pipelines.steps.prune_bundles import prune_bundles

    now = datetime.now(UTC)
    pruned = prune_bundles(registry=wiring.registry, places=wiring.places, config=wiring.config.deployment, now=now)
    return f"prune-{now:%Y%m%dT%H%M%S}", pruned


def _rollback_champion(wiring: Wiring, *, to: str | None = None) -> tuple[str, Record]:
    from pipelines.steps.rollback_champion import rollback_champion

    decision: PromotionDecision = rollback_champion(registry=wiring.registry, to=to or None)
    return decision.bundle, decision


def _audit_skew(wiring: Wiring) -> tuple[str, Record]:
    from pipelines.steps.audit_skew import audit_skew

    run = f"audit-{datetime.now(UTC):%Y%m%dT%H%M%S}"
    audit = audit_skew(
        run,
        served_dir=wiring.places.served_features,
        audits_dir=wiring.places.skew_audits,
        feature_store=wiring.feature_store,
        tracker=wiring.tracker,
        config=wiring.config.skew,
        progress=wiring.progress,
    )
    return run, audit


STEPS: dict[str, Callable[..., tuple[str, Record]]] = {
    "ingest_tables": _ingest_tables,
    "validate_tables": _validate_tables,
    "build_features": _build_features,
    "materialize_features": _materialize_features,
    "embed_new_items": _embed_new_items,
    "build_training_set": _build_training_set,
    "check_leaks": _check_leaks,
    "finetune_model": _finetune_model,
    "compress_model": _compress_model,
    "evaluate_model": _evaluate_model,
    "promote_challenger": _promote_challenger,
    "build_bento": _build_bento,
    "deploy_bundle": _deploy_bundle,
    "prune_bundles": _prune_bundles,
    "rollback_champion": _rollback_champion,
    "audit_skew": _audit_skew,
}
"""Every step, in the order of the loop; each returns its run and its record."""
FEATURE_STEPS = ("ingest_tables", "validate_tables", "build_features", "materialize_features", "embed_new_items")
"""The steps that write tables, features and new items."""


def run_step(name: str, *, wiring: Wiring | None = None, **parameters: Any) -> dict[str, Any]:
    """Run one step and save what it returned.

    Args:
        wiring: The stores to use; without it, those of the environment.
        parameters: `run` (or `bundle`, `to`) names what to go on with; the step's own choices besides.

    Returns:
        The record as plain JSON values, with the run's id under `run`.

    Raises:
        NothingNew: there is nothing to train on that the champion does not know.
        HeadraceError: the step failed; the message says what to do.
    """
    for variable, value in QUIET.items():
        os.environ.setdefault(variable, value)
    wiring = wiring or Wiring.from_environment()
    started = time.monotonic()
    _announce(name, "started")
    try:
        with _turn(wiring, name):
            run, record = STEPS[name](wiring, **parameters)
    except NothingNew as reason:
        _announce(name, "skipped", seconds=time.monotonic() - started, reason=str(reason))
        raise
    except HeadraceError as error:
        _announce(name, "failed", seconds=time.monotonic() - started, error=str(error), kind=type(error).__name__)
        raise
    except Exception as error:
        if _is_full_disk(error):
            full = StoreError(
                f"{name} found no room on the disk below {wiring.places.home}: nothing half-written is in use. "
                "Make room, then run it again."
            )
            _announce(name, "failed", seconds=time.monotonic() - started, error=str(full), kind="StoreError")
            raise full from error
        _announce(name, "failed", seconds=time.monotonic() - started, error=repr(error), kind="bug")
        raise
    wiring.records.save(run, name, record)
    values = record.model_dump(mode="json")
    _announce(name, "finished", seconds=time.monotonic() - started, record=values, peak_mib=_peak_mib())
    return {**values, "run": run}


@contextmanager
def _turn(wiring: Wiring, step: str) -> Iterator[None]:
    """Let one process at a time run a step of the feature pipeline in a home, by hand or from a DAG; others wait.

    The system lets go of the lock when its process dies.
    """
    if step not in FEATURE_STEPS:
        yield
        return
    wiring.places.home.mkdir(parents=True, exist_ok=True)
    with wiring.places.feature_pipeline_lock.open("a", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            wiring.progress.update("waiting", 0, 1, "another step of the feature pipeline runs in this home")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _is_full_disk(error: Exception) -> bool:
    """Whether the system, or a library that only passes on what it said, had no room to write."""
    return getattr(error, "errno", None) == errno.ENOSPC or os.strerror(errno.ENOSPC) in str(error)


def _announce(step: str, state: str, **more: Any) -> None:
    """Append one line about the step to the file that `headrace loop` watches, where there is one."""
    path = os.environ.get(PROGRESS_VARIABLE)
    if not path:
        return
    line = json.dumps({"step": step, "state": state, **more})
    with suppress(OSError), Path(path).open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def _peak_mib() -> int:
    """Return the largest memory that this process has held so far, in MiB."""
    with suppress(OSError, StopIteration, ValueError):
        # Unlike the system's accounting, this leaves out the process that started us.
        status = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return int(next(line for line in status if line.startswith("VmHWM:")).split()[1]) // 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // (1024 * 1024 if sys.platform == "darwin" else 1024)

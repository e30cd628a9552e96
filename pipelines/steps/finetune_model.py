"""Step: tune the encoder and the towers on what users did, starting from the champion where there is one."""

import time
from dataclasses import replace
from pathlib import Path

from pipelines.config import TrainingConfig
from pipelines.errors import DivergenceError
from pipelines.experiments.plots import loss_curve
from pipelines.features.activity import ACTIVITY_FEATURES
from pipelines.progress import Progress
from pipelines.schemas import Record, TrainedModel, TrainingSet
from pipelines.stores.experiment_tracker import ExperimentTracker, StepLog
from pipelines.stores.table_store import TableStore
from pipelines.training.catalog import image_names, load_catalog
from pipelines.training.distributed import ALONE, TrainingGroup
from pipelines.training.finetuning import finetune
from pipelines.training.increment import incremental_config
from pipelines.training.item_images import item_images
from pipelines.training.judged_queries import judged_queries
from pipelines.training.processes import run_processes
from pipelines.training.receipt import Receipt, find_receipt
from pipelines.training.schedule import training_device
from pipelines.training.search_pairs import logged_pairs, pair_source, rival_source
from pipelines.training.trained_model import TrainedFolder

STEP = "finetune_model"
DIVERGED = "training_diverged"
"""Tag of a run that was stopped because its loss got worse; the value says how."""


class FinetuningJob(Record):
    """What each process of a training has to know; texts and paths, so that any process can read it."""

    training_set: TrainingSet
    champion: Path | None
    """Folder of the weights to start from."""
    tables: Path
    quarantine: Path
    ingested: Path
    config: TrainingConfig
    cache_dir: Path


def finetune_model(
    training_set: TrainingSet,
    *,
    tables: TableStore,
    training_dir: Path,
    tracker: ExperimentTracker,
    config: TrainingConfig,
    cache_dir: Path,
    progress: Progress,
    group: TrainingGroup = ALONE,
) -> TrainedModel:
    """Write `model/` below the training set's folder.

    A run that was killed goes on from its checkpoints and ends with the same weights; a finished one returns at once.
    The receipt beside the weights says what was read, and where the next run begins.

    Args:
        training_dir: Folder of all training runs; the champion's weights lie in `<champion>/model`.
        cache_dir: Text embeddings by encoder and text.
        group: The processes that torchrun started, of which the main one logs. Alone, and with `config.processes`
            above 1, it starts them itself.

    Raises:
        DivergenceError: the training made the model worse; nothing was written, and the run is tagged with it.
    """
    started = time.monotonic()
    target = TrainedFolder(training_set.folder / "model")
    champion = TrainedFolder(training_dir / (training_set.champion or "none") / "model")
    from_champion = training_set.champion is not None and champion.exists()
    origin = training_set.champion if from_champion and training_set.champion else config.encoder
    if from_champion and training_set.incremental:
        config = incremental_config(config, training_set.rows["train"], training_set.window_rows)
    job = FinetuningJob(
        training_set=training_set,
        champion=champion.folder if from_champion else None,
        tables=tables.folder,
        quarantine=tables.quarantine,
        ingested=tables.ingested,
        config=config,
        cache_dir=cache_dir,
    )
    if not group.is_main:
        work_off(job.model_dump_json(), group=group, progress=progress)
        return _record(training_set, origin, time.monotonic() - started)
    with tracker.step(training_set.run, STEP) as log:
        if from_champion and champion.preprocessing().activity_features != ACTIVITY_FEATURES:
            log.tags({"other_activity": f"{origin} read other activity features: that layer of it starts anew."})
        log.params({**config.model_dump(), "started_from": origin, "device": training_device().type})
        log.dataset(
            "training_set", training_set.fingerprint, training_set.rows.get("train", 0), str(training_set.folder)
        )
        try:
            if config.processes > 1 and group.size == 1 and not target.exists():
                run_processes(config.processes, f"{__name__}:{work_off.__name__}", job.model_dump_json())
            else:
                work_off(job.model_dump_json(), group=group, progress=progress)
        except DivergenceError as error:
            log.tags({DIVERGED: str(error)})
            tracker.parent(training_set.run).tags({DIVERGED: str(error)})
            raise
        for name, values in target.history().items():
            log.points(name, values)
        log.figure(loss_curve(target.history()), "loss_curve.png")
        if receipt := find_receipt(target.folder):
            _log_receipt(receipt, target, log)
        trained = _record(training_set, origin, time.monotonic() - started)
        log.metrics({**trained.metrics, "seconds": trained.seconds})
    return trained


def work_off(job: str, *, group: TrainingGroup, progress: Progress) -> None:
    """Be one of the processes of a training: read the tables and train, unless the model is there already.

    Args:
        job: A `FinetuningJob` as JSON.
    """
    todo = FinetuningJob.model_validate_json(job)
    training_set, target = todo.training_set, TrainedFolder(todo.training_set.folder / "model")
    if target.exists():
        return
    with TableStore(todo.tables, quarantine=todo.quarantine, ingested=todo.ingested).connect() as connection:
        catalog = load_catalog(connection, training_set.validation_start)
        logged = logged_pairs(connection, catalog, training_set.validation_start)
        judged, held_out = judged_queries(connection, catalog).divided(todo.config.judged_holdout_share)
        names = image_names(connection)
    images = item_images(todo.config, todo.cache_dir).vectors_together(names, progress, group)
    finetune(
        training_set,
        target,
        TrainedFolder(todo.champion) if todo.champion else None,
        replace(catalog, images=images),
        pair_source(catalog, *logged, judged),
        rivals=rival_source(catalog, judged, todo.config.hard_negatives, progress),
        held_out=held_out,
        config=todo.config,
        cache_dir=todo.cache_dir,
        progress=progress,
        group=group,
    )


def _record(training_set: TrainingSet, origin: str, seconds: float) -> TrainedModel:
    target = TrainedFolder(training_set.folder / "model")
    history, receipt = target.history(), find_receipt(target.folder)
    recall = history["validation_recall@10"]
    metrics = {
        "validation_recall@10": max(recall.values(), default=0.0),
        "validation_recall@10_before": recall.get(0, 0.0),
        **(receipt.flat_metrics() if receipt else {}),
    }
    return TrainedModel(
        run=training_set.run,
        folder=target.folder,
        started_from=origin,
        steps=max(history["tower_loss"], default=0),
        metrics=metrics,
        seconds=seconds,
    )


def _log_receipt(receipt: Receipt, target: TrainedFolder, log: StepLog) -> None:
    log.tags(
        {
            "receipt.fingerprint": receipt.read.fingerprint,
            "receipt.since": receipt.since.isoformat(),
            "receipt.until": receipt.until.isoformat(),
            "receipt.replay_share": f"{receipt.replay_share:.3f}",
            "receipt.generation": receipt.generation,
            "receipt.parent": receipt.parent.run if receipt.parent else "none",
        }
    )
    log.artifact(target.receipt)

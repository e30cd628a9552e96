"""`headrace compress`: query towers for the last trained model, measured, drawn and compared in MLflow."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import click

from pipelines.config import DistillationConfig
from pipelines.schemas import MeasuredVariant, TrainedModel, TrainingSet
from pipelines.wiring import Wiring

if TYPE_CHECKING:
    from pipelines.stores.experiment_tracker import ExperimentTracker

_COLUMNS = ("ndcg_kept", "recall", "encode_ms", "speedup", "cpu_ms", "size_mib")


def compress(*, variants: Sequence[str] | None = None, run: str | None = None, wiring: Wiring | None = None) -> str:
    """Build, measure, print and log; return the name of the variant that the policy picks.

    Args:
        variants: Names of query towers; None takes `compression.variants`.
        run: Training run; None takes the newest.
    """
    wiring = wiring or Wiring.from_environment()
    run = wiring.run_named(run, "finetune_model")
    config = wiring.config_for(wiring.choices_of(run))
    names = tuple(variants or config.compression.variants)
    measured = _measure(wiring, run, names)
    from pipelines.compression.policy import choose_variant

    picked = choose_variant(measured[1:], config.compression.min_ndcg_kept)
    click.echo(variants_table(measured, picked.name))
    enough = picked.ndcg_kept >= config.compression.min_ndcg_kept
    click.echo(
        f"\nThe policy picks {picked.name}: "
        + (
            f"the fastest that keeps {config.compression.min_ndcg_kept:.2f} of the full model's NDCG@10."
            if enough
            else f"none keeps {config.compression.min_ndcg_kept:.2f} of the full model's NDCG@10, it keeps most."
        )
        + " The next `headrace loop` serves it with `compression.query_tower: policy`."
    )
    log_variants(wiring.tracker, run, measured, picked.name, config.compression.distillation)
    return picked.name


def variants_table(measured: Sequence[MeasuredVariant], picked: str) -> str:
    """Return a table for a terminal: one line a variant, a star at the one that was picked."""
    rows = [["variant", "NDCG@10", "kept", "recall@10", "ms", "speed", "CPU ms", "MiB"]]
    for one in measured:
        values = (getattr(one, name) for name in _COLUMNS)
        kept, recall, encode_ms, speedup, cpu_ms, size_mib = values
        star = " *" if one.name == picked else ""
        numbers = [f"{one.ndcg:.4f}", f"{kept:.4f}", f"{recall:.3f}", f"{encode_ms:.3f}", f"{speedup:.1f} ×"]
        rows.append([one.name + star, *numbers, f"{cpu_ms:.2f}", f"{size_mib:.1f}"])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def log_variants(
    tracker: "ExperimentTracker",
    run: str,
    measured: Sequence[MeasuredVariant],
    picked: str,
    config: DistillationConfig,
) -> None:
    """Log each variant as a child run of the training run, and the Pareto front on the parent.

    Other settings of the distillation start the child afresh.
    """
    from pipelines.experiments.plots import variant_front

    settings = {f"distillation.{name}": value for name, value in config.model_dump().items()}
    for one in measured:
        with tracker.step(run, f"compress {one.name}") as log:
            log.params({"variant": one.name, **settings})
            log.metrics(one.as_metrics(), prefix="query_tower.")
            log.tags({"picked": str(one.name == picked).lower()})
    parent = tracker.parent(run)
    parent.figure(variant_front(measured, picked), "query_towers.png")
    parent.tags({"query_tower.picked": picked})


def _measure(wiring: Wiring, run: str, names: Sequence[str]) -> list[MeasuredVariant]:
    """Build and measure the variants of a run, the full model first."""
    from pipelines.compression.packaging import export_models
    from pipelines.compression.study import build_variants, measure_variants
    from pipelines.compression.variants import parse_variant
    from pipelines.steps.compress_model import kept_towers, read_trained_run, study_of_run

    variants = [parse_variant(name) for name in names]
    config = wiring.config_for(wiring.choices_of(run))
    trained = read_trained_run(
        wiring.records.load(run, "build_training_set", TrainingSet),
        wiring.records.load(run, "finetune_model", TrainedModel),
        tables=wiring.tables,
        config=config,
        cache_dir=wiring.places.embedding_cache,
        progress=wiring.progress,
    )
    with TemporaryDirectory(prefix="headrace-") as scratch:
        work = Path(scratch)
        exported = export_models(
            trained.parts, work, config=config, cache_dir=wiring.places.embedding_cache, progress=wiring.progress
        )
        study = study_of_run(trained, exported, config, wiring.progress)
        return measure_variants(study, build_variants(study, variants, kept_towers(trained, config)), work / "index")

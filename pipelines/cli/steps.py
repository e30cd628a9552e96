"""One command a step, in the order of the loop."""

import json
import os
import sys
from typing import Any

import click

from pipelines.cli.group import cli
from pipelines.cli.options import (
    encoder_steps_option,
    from_scratch_option,
    tower_steps_option,
    until_option,
    window_days_option,
)

_run = click.option("--run", metavar="ID", help="Run to go on with (default: the newest).")


_bundle = click.option("--bundle", metavar="ID", help="Bundle id (default: the champion).")


def _perform(name: str, **parameters: Any) -> dict[str, Any]:
    """Run a step and print its record as JSON on stdout."""
    from pipelines.wiring import NothingNew, run_step

    try:
        record = run_step(name, **parameters)
    except NothingNew as reason:
        click.echo(str(reason), err=True)
        sys.exit(0)
    if os.environ.get("RANK", "0") == "0":  # of the processes that torchrun starts, one speaks
        click.echo(json.dumps(record, indent=2))
    return record


@cli.command("ingest_tables")
@click.option("--until", type=click.DateTime(), help="Read what arrived up to this moment, UTC (default: now).")
def ingest_tables(until: Any) -> None:
    """Read what arrived since the last window from the source and the event log.

    \b
    Example: headrace ingest_tables --until 2026-01-31T00:00:00
    """
    from datetime import UTC

    _perform("ingest_tables", until=until.replace(tzinfo=UTC) if until else None)


@cli.command("validate_tables")
@_run
def validate_tables(run: str | None) -> None:
    """Check a window with Great Expectations; accept its good rows, quarantine the others.

    \b
    Example: headrace validate_tables
    """
    _perform("validate_tables", run=run)


@cli.command("build_features")
@_run
def build_features(run: str | None) -> None:
    """Compute the features of users and items for the days on which something arrived, as Parquet files.

    \b
    Example: headrace build_features
    """
    _perform("build_features", run=run)


@cli.command("materialize_features")
@_run
def materialize_features(run: str | None) -> None:
    """Load the newest features into Feast's online store.

    \b
    Example: headrace materialize_features
    """
    _perform("materialize_features", run=run)


@cli.command("embed_new_items")
@_run
def embed_new_items(run: str | None) -> None:
    """Give items that arrived since the live bundle was made a vector, for the running service.

    \b
    Example: headrace embed_new_items
    """
    _perform("embed_new_items", run=run)


@cli.command("build_training_set")
@window_days_option
@encoder_steps_option
@tower_steps_option
@from_scratch_option
@until_option
@click.option("--force", metavar="TEXT", default="", help="Train although nothing is new; TEXT names the attempt.")
def build_training_set(**choices: Any) -> None:
    """Join baskets with what was known just before each of them; split by time.

    Where the champion left a receipt: the baskets since its end, and a sample of older ones. A window that the champion
    has read already is refused.

    \b
    Example: headrace build_training_set --window-days 60
    """
    _perform("build_training_set", **choices)


@cli.command("check_leaks")
@_run
def check_leaks(run: str | None) -> None:
    """Stop the run where a feature knows what it is to predict.

    Copies of the label from the future are planted and must not come through the join; then each feature column alone
    is held against the label, before and after the basket.

    \b
    Example: headrace check_leaks
    """
    _perform("check_leaks", run=run)


@cli.command("finetune_model")
@_run
def finetune_model(run: str | None) -> None:
    """Fine-tune encoder and towers, from the champion where there is one.

    Killed and started again, it goes on from the last checkpoint. `training.processes` shares the work among processes
    of this machine, torchrun among machines as well.

    \b
    Example: headrace finetune_model
    Example: torchrun --nproc-per-node 4 -m pipelines finetune_model
    """
    _perform("finetune_model", run=run)


@cli.command("compress_model")
@_run
def compress_model(run: str | None) -> None:
    """Export to ONNX, quantize to int8, write the bundle and register it as challenger.

    \b
    Example: headrace compress_model
    """
    _perform("compress_model", run=run)


@cli.command("evaluate_model")
@_run
def evaluate_model(run: str | None) -> None:
    """Measure the bundle, the champion and the baselines on the same test window.

    \b
    Example: headrace evaluate_model
    """
    _perform("evaluate_model", run=run)


@cli.command("promote_challenger")
@_run
@click.option("--force", is_flag=True, default=None, help="Promote although the gate says no.")
def promote_challenger(run: str | None, force: bool | None) -> None:
    """Make the challenger champion if it passes the gate; exit code 1 if it does not.

    \b
    Example: headrace promote_challenger
    """
    record = _perform("promote_challenger", run=run, force=force)
    if not record["promoted"]:
        click.echo("The champion stays: " + "; ".join(record["reasons"]), err=True)
        sys.exit(1)


@cli.command("build_bento")
@_bundle
def build_bento(bundle: str | None) -> None:
    """Build a Bento that contains the bundle.

    \b
    Example: headrace build_bento
    """
    _perform("build_bento", bundle=bundle)


@cli.command("deploy_bundle")
@_bundle
def deploy_bundle(bundle: str | None) -> None:
    """Check a bundle and make the running service answer from it.

    \b
    Example: headrace deploy_bundle
    """
    _perform("deploy_bundle", bundle=bundle)


@cli.command("prune_bundles")
def prune_bundles() -> None:
    """Remove old bundles from this disk, as `deployment.keep_champions` and `keep_days` say; the registry keeps copies.

    \b
    Example: headrace prune_bundles
    """
    _perform("prune_bundles")


@cli.command("rollback_champion")
@click.option("--to", metavar="ID", help="Bundle id (default: the previous champion); `headrace models` lists them.")
@click.option("--deploy/--no-deploy", default=True, show_default=True, help="Deploy it at once.")
def rollback_champion(to: str | None, deploy: bool) -> None:
    """Give the champion alias back to an earlier bundle and deploy that one.

    \b
    Example: headrace rollback_champion
    Example: headrace rollback_champion --to 20260131T020000-1a2b3c
    """
    record = _perform("rollback_champion", to=to)
    if deploy:
        _perform("deploy_bundle", bundle=record["champion"], known=True)


@cli.command("audit_skew")
@click.option("--json", "as_json", is_flag=True, help="The whole record as JSON instead of a table.")
def audit_skew(as_json: bool) -> None:
    """Compare a sample of the features that were served with the offline store; exit code 1 if any differ.

    The service keeps the sample (`serving.audit_share`). Requests newer than what was ingested are left for the next
    audit.

    \b
    Example: headrace audit_skew --json
    """
    from pipelines.wiring import run_step

    audit = run_step("audit_skew")
    if as_json:
        click.echo(json.dumps(audit, indent=2))
    else:
        _print_skew(audit)
    if any(audit["mismatch"].values()):
        sys.exit(1)


def _print_skew(audit: dict[str, Any]) -> None:
    for name, share in audit["mismatch"].items():
        click.echo(f"{name:<24} {share:>9.4%}")
    click.echo(
        f"{audit['compared']:,} requests compared, {audit['strangers']:,} of strangers, {audit['pending']:,} left for "
        f"the next audit; {audit['behind']:.2%} were answered before newer events of their user had arrived online."
    )
    for one in audit["examples"]:
        click.echo(
            f"{one['feature']} of {one['user_id']} at {one['requested_at']}: {one['served']} served, "
            f"{one['offline']} offline"
        )
    click.echo(f"Report: {audit['report']}")

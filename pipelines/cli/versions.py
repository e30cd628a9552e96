"""Versions of the model: which there are, which answers, which are tried, smaller ones."""

from typing import Any

import click

from pipelines.cli.group import cli
from pipelines.cli.options import names_of


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def models(as_json: bool) -> None:
    """List the model versions: who is live, shadow or canary, metrics, what training read, how the gate decided.

    \b
    Example: headrace models --json
    """
    from pipelines.commands.models import as_text, model_rows
    from pipelines.wiring import Wiring

    wiring = Wiring.from_environment()
    _follow_registry(wiring)
    rows = model_rows(wiring.registry, wiring.places)
    if not rows:
        click.echo("There is no model version yet: run `headrace loop`.", err=True)
    for row in rows:
        click.echo(row.model_dump_json() if as_json else as_text(row))


@cli.command()
@click.option("--to", metavar="ID", help="Bundle id (default: the previous champion); `headrace models` lists them.")
def rollback(to: str | None) -> None:
    """Go back to the previous champion at once: pointer, alias, and wait until the running service answers from it.

    No request fails, and a registry that does not answer delays nothing: the pointer moves first. A bundle that was
    removed from this disk is fetched from the registry. Each call without --to goes one champion further back.

    \b
    Example: headrace rollback
    Example: headrace rollback --to 20260131T020000-1a2b3c
    """
    from pipelines.commands.rollback import roll_back

    click.echo(roll_back(to))


_share = click.option("--share", type=click.FloatRange(0, 1, min_open=True), default=0.05, show_default=True)


_off = click.option("--off", is_flag=True, help="Try nothing any more.")


@cli.command()
@click.argument("bundle", required=False)
@_share
@_off
def shadow(bundle: str | None, share: float, off: bool) -> None:
    """Ask BUNDLE a share of the live requests without answering from it; without BUNDLE, show what came of it.

    Both lists go to files in the home, for a person and for the next gate. The running service follows within a
    second; what it has no time for is left out.

    \b
    Example: headrace shadow 20260131T020000-1a2b3c --share 0.1
    Example: headrace shadow
    Example: headrace shadow --off
    """
    from pipelines.rollout.shadow_summary import summarize_shadow
    from pipelines.stores.shadow_answers import read_shadow_answers
    from pipelines.wiring import Wiring

    wiring = Wiring.from_environment()
    if bundle or off:
        _try_bundle("shadow", None if off else bundle, share, wiring)
        return
    plan = _follow_registry(wiring)
    click.echo(f"shadow: {plan.shadow.bundle}, {plan.shadow.share:.1%} of requests" if plan.shadow else "no shadow")
    for summary in summarize_shadow(read_shadow_answers(wiring.places.shadow_answers)):
        click.echo(summary.model_dump_json())


@cli.command()
@click.argument("bundle", required=False)
@_share
@_off
def canary(bundle: str | None, share: float, off: bool) -> None:
    """Answer a share of the users from BUNDLE; without BUNDLE, show the canary there is.

    The same users for as long as it lasts. A guard in the service stops it on failures, empty or slow answers, or a
    click rate that drops; why is kept with the version.

    \b
    Example: headrace canary 20260131T020000-1a2b3c --share 0.05
    Example: headrace canary --off
    """
    from pipelines.wiring import Wiring

    wiring = Wiring.from_environment()
    if bundle or off:
        _try_bundle("canary", None if off else bundle, share, wiring)
        return
    plan = _follow_registry(wiring)
    click.echo(f"canary: {plan.canary.bundle}, {plan.canary.share:.1%} of users" if plan.canary else "no canary")
    for version in wiring.registry.versions():
        if version.tags.get("canary_stopped"):
            click.echo(f"{version.bundle} was stopped {version.tags['canary_stopped']}")


def _try_bundle(kind: Any, bundle: str | None, share: float, wiring: Any) -> None:
    from datetime import UTC, datetime

    from pipelines.stores.planned_trials import end_trial, start_trial
    from pipelines.wiring import embed_beside

    if bundle is None:
        end_trial(kind, registry=wiring.registry, places=wiring.places)
        click.echo(f"There is no {kind} any more.")
        return
    now = datetime.now(UTC)
    trial = start_trial(
        kind,
        bundle,
        share,
        registry=wiring.registry,
        places=wiring.places,
        now=now,
        prepare=lambda known: embed_beside(wiring, known),
    )
    whose = "users are answered from" if kind == "canary" else "requests are also asked of"
    click.echo(f"{trial.share:.1%} of the {whose} {trial.bundle} (`headrace {kind} --off` ends it).")


def _follow_registry(wiring: Any) -> Any:
    from pipelines.stores.planned_trials import follow_registry

    return follow_registry(wiring.registry, wiring.places)


@cli.command()
@click.option("--variants", metavar="A,B", help="Query towers, such as `2-layer int8,static` (default: settings).")
@click.option("--run", metavar="ID", help="Training run (default: the newest).")
def compress(variants: str | None, run: str | None) -> None:
    """Build smaller query towers for the last trained model, measure each, and say which one the policy picks.

    A variant is `static` or `N-layer PRECISION` (int8, float32, float16), with ` domain vocabulary` behind it where
    only the domain's tokens stay. Prints NDCG@10 and recall@10 against the full model on held-out queries, times on
    one thread and sizes; every variant becomes a run in MLflow. `compression.query_tower` makes the next loop serve
    one, or `policy`, which picks the fastest that keeps `compression.min_ndcg_kept`.

    \b
    Example: headrace compress
    Example: headrace compress --variants "3-layer int8,2-layer int8 domain vocabulary"
    """
    from pipelines.commands.compress import compress as run_compress

    run_compress(variants=names_of(variants), run=run)

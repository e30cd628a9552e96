"""How fast it is, and what it survives."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from pipelines.cli.benches import bench
from pipelines.cli.options import json_file_option

_work_dir = click.option(
    "--work-dir",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Where the shop is made and removed again (default: the system's temporary folder).",
)


@bench.command("serving")
@json_file_option
def bench_serving(json_file: Path | None) -> None:
    """Time the service's answers, and print each figure beside its bar; takes about three minutes.

    One worker on one core, load from another core: processor time per request and median with one client, answers a
    second when there are many, 99th percentile at half of that. Needs a deployed bundle, which it serves from a home
    of its own. docs/benchmarks.md says how each figure is measured.

    \b
    Example: headrace bench serving --json serving.json
    """
    from pipelines.benchmarks.serving import bench_serving as run_bench

    run_bench(json_file=json_file)


@bench.command("event-effect")
@click.option(
    "--rate", type=click.FloatRange(min=1), default=200, show_default=True, help="Events/s; as many requests."
)
@click.option("--seconds", type=click.FloatRange(min=1), default=20, show_default=True, help="How long.")
@click.option("--workers", type=click.IntRange(min=1), default=1, show_default=True, help="Processes of the service.")
@json_file_option
def bench_event_effect(rate: float, seconds: float, workers: int, json_file: Path | None) -> None:
    """Measure the time from an event to the first answer that shows it, under load; exit code 1 if a bar is missed.

    Needs a deployed bundle, which it serves from a home of its own.

    \b
    Example: headrace bench event-effect --json event-effect.json
    """
    from pipelines.benchmarks.event_effect import bench_event_effect as run_bench

    _exit_with(run_bench(rate=rate, seconds=seconds, workers=workers, json_file=json_file))


@bench.command("chaos")
@click.option("--rate", type=click.FloatRange(min=1), default=60, show_default=True, help="Requests a second.")
@click.option("--scale", type=click.FloatRange(min=0.1), default=1, show_default=True, help="Times as long each phase.")
@_work_dir
@json_file_option
def bench_chaos(rate: float, scale: float, work_dir: Path | None, json_file: Path | None) -> None:
    """Break what the service stands on, under load; exit code 1 if a request fails or an event is lost.

    Redis is stopped and hangs, bundles are swapped and corrupted, the worker and the whole service are killed, the
    disk is full, the clock jumps. Makes a shop and a Redis server of its own; takes about three minutes.

    \b
    Example: headrace bench chaos --json chaos.json
    """
    from pipelines.benchmarks.chaos import chaos

    _exit_with(chaos(rate=rate, scale=scale, json_file=json_file, work_dir=work_dir).problems)


@bench.command("stress-serving")
@click.option("--idle", type=click.IntRange(min=0), default=10_000, show_default=True, help="Idle connections.")
@click.option("--scale", type=click.FloatRange(min=0.1), default=1, show_default=True, help="Times as long each part.")
@_work_dir
@json_file_option
def bench_stress_serving(idle: int, scale: float, work_dir: Path | None, json_file: Path | None) -> None:
    """Send a tenfold burst, and behave badly; exit code 1 if others are not served.

    Slow, silent, vanished and idle clients and huge bodies, while normal requests go on. Makes a shop of its own;
    takes about two minutes.

    \b
    Example: headrace bench stress-serving --json stress-serving.json
    """
    from pipelines.benchmarks.stress_serving import stress_serving

    _exit_with(stress_serving(idle=idle, scale=scale, json_file=json_file, work_dir=work_dir).problems)


@bench.command("soak")
@click.option("--minutes", type=click.FloatRange(min=0.1), default=10, show_default=True, help="How long.")
@_work_dir
@json_file_option
def bench_soak(minutes: float, work_dir: Path | None, json_file: Path | None) -> None:
    """Send mixed load and odd bodies for minutes; exit code 1 on a 5xx, a crash or memory that grows.

    Makes a shop of its own.

    \b
    Example: headrace bench soak --minutes 10 --json soak.json
    """
    from pipelines.benchmarks.soak import soak

    _exit_with(soak(minutes=minutes, json_file=json_file, work_dir=work_dir).problems)


def _exit_with(problems: Sequence[str]) -> None:
    """End with exit code 1 where there are problems, which are told one a line."""
    if problems:
        click.echo("\n".join(problems), err=True)
        sys.exit(1)


@bench.command("items")
@click.option("--seconds", type=click.FloatRange(min=3), default=30, show_default=True, help="Time of each part.")
@click.option("--rate", type=click.FloatRange(min=1), default=100, show_default=True, help="Requests a second.")
@click.option("--workers", type=click.IntRange(min=1), default=1, show_default=True, help="Processes of the service.")
@json_file_option
def bench_items(**options: Any) -> None:
    """Time from an accepted item to the answers that show it, and what other requests notice; exit code 1 above 1 s.

    Needs a deployed bundle. Starts its own service on a free port, over a copy.

    Example: headrace bench items --json .benchmarks/items.json
    """
    from pipelines.benchmarks.item_effect import bench_item_effect

    if bench_item_effect(**options):
        raise SystemExit(1)


@bench.command("ranking")
@json_file_option
@click.option(
    "--bundle",
    "bundle_folder",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of a bundle (default: the deployed one).",
)
@click.option("--calls", type=click.IntRange(min=10), default=200, show_default=True, help="Calls a case and round.")
def bench_ranking(json_file: Path | None, bundle_folder: Path | None, calls: int) -> None:
    """Time what is behind the answers, without HTTP: processor time a call, and what the index gives up.

    \b
    Example: headrace bench ranking --json ranking.json
    """
    from pipelines.benchmarks.ranking import bench_ranking as run_bench

    run_bench(json_file=json_file, bundle_folder=bundle_folder, calls=calls)


@bench.command("data")
@click.option("--events", type=click.IntRange(min=1_000), default=10_000_000, show_default=True, help="About so many.")
@json_file_option
@_work_dir
@click.option("--increments/--no-increments", default=True, show_default=True, help="Also measure single days.")
def bench_data(events: int, json_file: Path | None, work_dir: Path | None, increments: bool) -> None:
    """Measure ingestion, validation and features on multiplied default data.

    Events per second, peak memory and bytes written of each step, and what one more day costs on top of 30 and of 300.
    Needs some 40 bytes of disk an event. Touches no home but its own.

    \b
    Example: headrace bench data --events 10000000 --json data.json
    """
    from pipelines.benchmarks.data import bench_data as run_bench

    run_bench(events=events, json_file=json_file, work_dir=work_dir, increments=increments)


@bench.command("stress-data")
@click.option(
    "--kills", type=click.IntRange(min=1), default=100, show_default=True, help="Processes killed, each case."
)
@click.option("--seed", type=int, default=13, show_default=True, help="Of the moments and the sizes.")
@json_file_option
@click.option(
    "--work-dir",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Where logs and tables are made and removed again (default: the system's temporary folder).",
)
def bench_stress_data(kills: int, seed: int, json_file: Path | None, work_dir: Path | None) -> None:
    """Kill the event log's writers and ingestion at random moments, and count; exit code 1 if an event is missing.

    Every acknowledged event must be found exactly once: in the log by its reader, and in the tables or in quarantine.
    Touches no home but its own.

    \b
    Example: headrace bench stress-data --kills 100 --json stress-data.json
    """
    from pipelines.benchmarks.stress_data import stress_data

    tallies = stress_data(kills=kills, seed=seed, json_file=json_file, work_dir=work_dir)
    if bad := [tally.case for tally in tallies if not tally.is_clean]:
        click.echo(f"Events were lost or doubled, or none was acknowledged: {', '.join(bad)}.", err=True)
        sys.exit(1)


@bench.command("stress-promotion")
@click.option("--rounds", type=click.IntRange(min=1), default=20, show_default=True, help="Promotions, and rollbacks.")
@click.option("--rate", type=click.FloatRange(min=1), default=60, show_default=True, help="Requests a second.")
@json_file_option
@_work_dir
def bench_stress_promotion(rounds: int, rate: float, json_file: Path | None, work_dir: Path | None) -> None:
    """Promote and roll back under load; exit code 1 if a request fails or memory grows by a bundle or more.

    Makes a shop of some thousand items and bundles of it, serves it, and sends requests from another process all the
    time. At the end a bad canary has to be stopped by its guard. Touches no home but its own.

    \b
    Example: headrace bench stress-promotion --rounds 20 --json stress-promotion.json
    """
    from pipelines.benchmarks.stress_promotion import stress_promotion

    outcome = stress_promotion(rounds=rounds, rate=rate, json_file=json_file, work_dir=work_dir)
    if problems := outcome.problems:
        click.echo("; ".join(problems), err=True)
        sys.exit(1)

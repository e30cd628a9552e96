"""`headrace`: one command a step, plus the commands a person needs.

Nothing heavy is imported here: `headrace --help` must answer at once.
"""

import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from pipelines.errors import HeadraceError

EPILOG = """
\b
Places and secrets come from the environment:
  HEADRACE_HOME           folder of everything it writes (default: .headrace)
  HEADRACE_CONFIG         settings: a YAML file, or `demo`
  HEADRACE_PSEUDONYM_KEY  secret behind the user pseudonyms (default: made once)
  HEADRACE_EVENT_LOG      kafka://host:9092/topic (default: below the home)
  HEADRACE_API_KEY        key that may serve and write (or see `headrace keys`; none: loopback only)
"""

STEP_ORDER = (
    "ingest_tables",
    "validate_tables",
    "build_features",
    "materialize_features",
    "embed_new_items",
    "build_training_set",
    "check_leaks",
    "finetune_model",
    "compress_model",
    "evaluate_model",
    "promote_challenger",
    "build_bento",
    "deploy_bundle",
    "prune_bundles",
    "rollback_champion",
    "audit_skew",
)


class LoopOrder(click.Group):
    """Lists what a person starts with first, then the steps in the order of the loop."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Return the names of all commands."""
        return [*(name for name in self.commands if name not in STEP_ORDER), *STEP_ORDER]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the two lists of commands."""
        names = self.list_commands(ctx)
        for title, wanted in (("Commands", False), ("Steps, in the order of the loop", True)):
            rows = [
                (name, self.commands[name].get_short_help_str(limit=200))
                for name in names
                if (name in STEP_ORDER) is wanted
            ]
            with formatter.section(title):
                formatter.write_dl(rows)


@click.group(
    cls=LoopOrder, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120}
)
@click.version_option(package_name="headrace")
def cli() -> None:
    """Headrace: search and recommendations that keep themselves fresh.

    \b
    Start here:
      headrace demo               run the loop on the default data once, then serve
      headrace loop               refresh, train, evaluate, promote and deploy, through Airflow
      headrace serve              answer on http://127.0.0.1:3000
      headrace STEP --help        what one step does
    """


def main() -> None:
    """Run the command line: an error of ours or of a file is one line and exit code 1, a bug shows its traceback."""
    # As with Ctrl-C, what was started is stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        cli.main(standalone_mode=False)
    except click.exceptions.Abort:
        click.echo("Stopped.", err=True)
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except HeadraceError as error:
        click.echo(f"Error: {' '.join(str(error).split())}", err=True)
        sys.exit(1)
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115 - the reader is gone; nothing may be flushed to it
        sys.exit(141)
    except OSError as error:
        if error.filename is None:
            raise
        home = os.environ.get("HEADRACE_HOME") or ".headrace"
        click.echo(
            f"Error: {error.filename} cannot be used ({error.strerror}): HEADRACE_HOME ({home}) must be a folder that "
            "this user may write to, on a disk with room. Mend that or name another folder, then run this again.",
            err=True,
        )
        sys.exit(1)


# --- what a person starts with ---------------------------------------------------------------------------------------

_window_days = click.option(
    "--window-days", type=click.IntRange(min=1), help="Days of baskets to train on, such as 90 (default: settings)."
)
_encoder_steps = click.option(
    "--encoder-steps", type=click.IntRange(min=0), help="Steps that tune the text encoder, such as 300; 0 skips it."
)
_tower_steps = click.option(
    "--tower-steps", type=click.IntRange(min=1), help="Steps at most that tune the towers, such as 1500."
)
_from_scratch = click.option(
    "--from-scratch",
    is_flag=True,
    help="Train from the pre-trained encoder on the whole window, not from the champion on what is new.",
)
_until = click.option("--until", metavar="DAY", help="Take baskets before this day (UTC), such as 2026-01-31.")
_port = click.option(
    "--port", type=click.IntRange(1, 65535), default=3000, show_default=True, help="Port to listen on."
)


@cli.command()
@_window_days
@_encoder_steps
@_tower_steps
@_from_scratch
@_until
@click.option("--force", is_flag=True, help="Train although nothing is new, and promote although the gate says no.")
def loop(**choices: Any) -> None:
    """Run the whole loop through Airflow, then exit.

    feature_pipeline, training_pipeline and, where there is a new champion, deployment_pipeline. Training starts from
    the champion and reads what is new since its receipt, and a sample of older rows. Safe to stop with
    Ctrl-C and to run again: steps go on where they were, and a loop without anything new is over in under a minute.

    \b
    Example: headrace loop --window-days 60 --tower-steps 500
    """
    from rich.console import Console

    from pipelines.loop import run_loop
    from pipelines.places import Places

    chosen = {name: value for name, value in choices.items() if value not in (None, False)}
    run_loop(Places.from_environment(), parameters=chosen, console=Console(stderr=True, highlight=False))


@cli.command()
@_port
@click.option("--exit", "exit_after", is_flag=True, help="Stop after the three requests instead of serving on.")
@click.option("--user", help="Raw user id to recommend for (default: somebody with a history).")
@click.option("--query", help="What to search for (default: something that the data knows).")
def demo(port: int, exit_after: bool, user: str | None, query: str | None) -> None:
    """Run the loop if there is no champion yet, serve, and try three requests.

    The first time takes minutes; later it serves within a minute without training again. Without HEADRACE_CONFIG it
    takes the settings `demo`, which fit two cores.

    \b
    Example: headrace demo --port 3100
    """
    from rich.console import Console

    from pipelines.demo import run_demo
    from pipelines.places import Places

    os.environ.setdefault("HEADRACE_CONFIG", "demo")
    console = Console(highlight=False)
    run_demo(Places.from_environment(), port=port, exit_after=exit_after, user=user, query=query, console=console)


@cli.command()
@_port
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Address to listen on; others need a key (`headrace keys`)."
)
@click.option("--workers", type=click.IntRange(min=1), default=1, show_default=True, help="Processes that answer.")
def serve(port: int, host: str, workers: int) -> None:
    """Serve the deployed bundle with BentoML until Ctrl-C.

    POST /search, /recommend, /similar, /explain, /events; PUT /items, DELETE /items/ID; POST /admin/reload; GET
    /openapi.json, /livez, /readyz, /metrics. A bundle that is deployed while it runs is taken over without a failed
    request.

    \b
    Example: headrace serve --port 3100 --workers 2
    """
    from pipelines.serving_command import serve as run_service

    run_service(host=host, port=port, workers=workers)


@cli.command()
@click.option("--port", type=click.IntRange(1, 65535), default=8080, show_default=True, help="Port of the web page.")
def airflow(port: int) -> None:
    """Run Airflow on 127.0.0.1 with our DAGs until Ctrl-C.

    Scheduler, DAG processor, triggerer and web page, on SQLite. Examples are off and DAGs start paused.

    \b
    Example: headrace airflow --port 8090
    """
    from pipelines.airflow_home import airflow_installed, serve_airflow
    from pipelines.places import Places

    airflow_installed()
    sys.exit(serve_airflow(Places.from_environment(), port=port))


@cli.command()
@click.option("--port", type=click.IntRange(1, 65535), default=5000, show_default=True, help="Port of the web page.")
def mlflow(port: int) -> None:
    """Show the runs, pictures and model versions in MLflow's web page until Ctrl-C.

    \b
    Example: headrace mlflow --port 5001
    """
    from pipelines.mlflow_page import serve_mlflow
    from pipelines.places import Places

    sys.exit(serve_mlflow(Places.from_environment(), port=port))


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def models(as_json: bool) -> None:
    """List the model versions: who is live, shadow or canary, metrics, what training read, how the gate decided.

    \b
    Example: headrace models --json
    """
    from pipelines.models_command import as_text, model_rows
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
    from pipelines.rollback_command import roll_back

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

    from pipelines.rollout_command import end_trial, start_trial
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
    from pipelines.rollout_command import follow_registry

    return follow_registry(wiring.registry, wiring.places)


@cli.group()
def source() -> None:
    """Look at where tables come from."""


@source.command("check")
@click.argument("mapping", required=False, type=click.Path(dir_okay=False, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Everything as one JSON object.")
def source_check(mapping: Path | None, as_json: bool) -> None:
    """Explain what a source would give: which column became what, five rows of each table, what is missing.

    MAPPING is a mapping file (default: the source that the settings name). Only reads. Exit code 1 and a sentence for
    each problem where there are some.

    \b
    Example: headrace source check shop/mapping.yaml
    """
    from pipelines.source_command import as_json as json_text
    from pipelines.source_command import as_text, run_check

    check = run_check(mapping)
    click.echo(json_text(check) if as_json else as_text(check))
    if check.problems:
        sys.exit(1)


@cli.group()
def keys() -> None:
    """Say who may call the service, and what for; running services follow within a second.

    \b
    Example: headrace keys add shop --scope serve --scope write
    """


@keys.command("add")
@click.argument("name")
@click.option(
    "--scope",
    "scopes",
    type=click.Choice(["serve", "write", "admin"]),
    multiple=True,
    default=("serve",),
    show_default=True,
    help="What it may do: serve answers, write events and items, administer; several times for several.",
)
@click.option(
    "--rate", type=click.FloatRange(min=0, min_open=True), help="Requests a second and worker (default: settings)."
)
def keys_add(name: str, scopes: tuple[Any, ...], rate: float | None) -> None:
    """Make a key and print it, once; only its hash is kept.

    \b
    Example: headrace keys add shop --scope serve --scope write
    Example: headrace keys add operations --scope admin
    """
    from pipelines.keys_command import add
    from pipelines.places import Places

    add(Places.from_environment().api_keys, name, scopes=scopes, rate=rate, echo=click.echo)


@keys.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a key.")
def keys_list(as_json: bool) -> None:
    """List the keys by name, with what they may do.

    \b
    Example: headrace keys list
    """
    from pipelines.keys_command import list_all
    from pipelines.places import Places

    list_all(Places.from_environment().api_keys, as_json=as_json, echo=click.echo)


@keys.command("remove")
@click.argument("name")
def keys_remove(name: str) -> None:
    """Take a key back.

    \b
    Example: headrace keys remove shop
    """
    from pipelines.keys_command import remove
    from pipelines.places import Places

    remove(Places.from_environment().api_keys, name, echo=click.echo)


@cli.group()
def quarantine() -> None:
    """See what was set aside, export it for mending, and feed it back in.

    \b
    Example: headrace quarantine show
    """


_window = click.option("--window", metavar="ID", help="Window in which the rows were set aside (default: all).")
_table = click.option(
    "--table", type=click.Choice(["items", "events", "users", "judgements"]), help="Table (default: all)."
)
_reason = click.option("--reason", metavar="TEXT", help="Only reasons that contain this text.")


@quarantine.command("show")
@_window
@_table
@_reason
@click.option("--rows", type=click.IntRange(min=0), default=3, show_default=True, help="Example rows of each reason.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a reason.")
def quarantine_show(rows: int, as_json: bool, **wanted: Any) -> None:
    """List windows, tables and reasons with counts, what each reason means, and some rows.

    \b
    Example: headrace quarantine show --table events --reason "not in items"
    """
    from pipelines.quarantine_command import show
    from pipelines.stores.quarantine import Wanted
    from pipelines.wiring import Wiring

    show(Wiring.from_environment().tables, Wanted(**wanted), rows=rows, as_json=as_json, echo=click.echo)


@quarantine.command("export")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@_window
@_table
@_reason
def quarantine_export(file: Path, **wanted: Any) -> None:
    """Write rows that were set aside to a .csv or .parquet FILE, for mending by hand or script.

    \b
    Example: headrace quarantine export broken.csv --table events
    """
    from pipelines.quarantine_command import export
    from pipelines.stores.quarantine import Wanted
    from pipelines.wiring import Wiring

    export(Wiring.from_environment().tables, file, Wanted(**wanted), echo=click.echo)


@quarantine.command("replay")
@click.argument("file", required=False, type=click.Path(dir_okay=False, path_type=Path))
@_window
@_table
@_reason
def quarantine_replay(file: Path | None, **wanted: Any) -> None:
    """Feed the mended rows of FILE to the next window; without FILE, rows as they are.

    The same rows twice change nothing.

    \b
    Example: headrace quarantine replay broken.csv
    Example: headrace quarantine replay --reason "item_id is not in items"
    """
    from pipelines.quarantine_command import replay
    from pipelines.stores.quarantine import Wanted
    from pipelines.wiring import Wiring

    wiring = Wiring.from_environment()
    replay(wiring.tables, file, Wanted(**wanted), pseudonymizer=lambda: wiring.pseudonymizer, echo=click.echo)


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
    from pipelines.compress_command import compress as run_compress

    run_compress(variants=_names(variants), run=run)


@cli.group()
def bench() -> None:
    """Measure; results as a table and as JSON."""


_work_dir = click.option(
    "--work-dir",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Where the shop is made and removed again (default: the system's temporary folder).",
)


@bench.command("serving")
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="File for the records.")
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
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="File for the records.")
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
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="File for the records.")
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
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="File for the records.")
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
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="File for the records.")
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
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="File for the records.")
def bench_items(**options: Any) -> None:
    """Time from an accepted item to the answers that show it, and what other requests notice; exit code 1 above 1 s.

    Needs a deployed bundle. Starts its own service on a free port, over a copy.

    Example: headrace bench items --json .benchmarks/items.json
    """
    from pipelines.benchmarks.item_effect import bench_item_effect

    if bench_item_effect(**options):
        raise SystemExit(1)


@bench.command("ranking")
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="File for the records.")
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
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="File for the records.")
@click.option(
    "--work-dir",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Where the shop is made and removed again (default: the system's temporary folder).",
)
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
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="File for the records.")
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
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="File for the records.")
@click.option(
    "--work-dir",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Where the shop is made and removed again (default: the system's temporary folder).",
)
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


@bench.command("freshness")
@click.option(
    "--data",
    required=True,
    help="`completejourney`, a folder of Parquet files (docs/benchmarks.md), one with the lines.parquet of UCI Online "
    "Retail, or a mapping file.",
)
@click.option("--windows", type=click.IntRange(min=1), default=10, show_default=True, help="Weeks to stay fresh over.")
@click.option("--base-weeks", type=click.IntRange(min=2), default=13, show_default=True, help="Weeks to begin with.")
@click.option("--replay-share", type=click.FloatRange(0, 0.99), default=None, help="Replayed rows (default: settings).")
@click.option("--users", type=click.IntRange(min=10), help="So many users, drawn at random (default: all).")
@click.option("--tower-steps", type=click.IntRange(min=1), help="Steps at most from zero (default: settings).")
@click.option("--seed", type=int, default=13, show_default=True, help="Of weights, batches and samples.")
@click.option("--quick", is_flag=True, help="A smoke run of minutes: few users, weeks and steps.")
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="File for the records.")
@click.option("--plot", "plot_file", type=click.Path(dir_okay=False, path_type=Path), help="Picture, .png or .svg.")
@click.option("--work", type=click.Path(file_okay=False, path_type=Path), help="Finished parts (default: in the home).")
def bench_freshness(quick: bool, **options: Any) -> None:
    """Compare ways to stay fresh, week by week: incremental with and without replay, from zero, frozen.

    Each week the model is trained as the loop would, and measured on the items that customers buy for the first time in
    the week after the next, and on baskets of the first weeks. Run again after a stop, it goes on where it was.

    \b
    Example: headrace bench freshness --data completejourney --users 500 --json freshness.json --plot freshness.png
    """
    from pipelines.benchmarks.freshness_command import run_freshness

    run_freshness(quick=quick, **options)


def _quality_options(command: Any) -> Any:
    """Add the options that `bench recommend` and `bench search` share."""
    file = click.Path(dir_okay=False, path_type=Path)
    folder = click.Path(file_okay=False, path_type=Path)
    for option in reversed(
        (
            click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True, help="Of the model."),
            click.option("--cases", default="", metavar="A,B", help="Only these cases (default: all)."),
            click.option("--quick", is_flag=True, help="A smoke run on a sample; says so in every output."),
            click.option("--fresh", is_flag=True, help="Measure again what is stored."),
            click.option("--json", "json_file", type=file, help="File for the records."),
            click.option("--plot", "plot_file", type=file, help="Picture (default: next to the records, .png)."),
            click.option("--work", type=folder, help="Unfinished and finished work (default: benchmarks in the home)."),
            click.option("--cache", type=folder, help="Text embeddings (default: the cache in the home)."),
            click.option("--encoder", metavar="NAME", help="Of the untouched baseline (default: that of training)."),
        )
    ):
        command = option(command)
    return command


def _bench_options(cases: str, work: Path | None, cache: Path | None, **options: Any) -> Any:
    from pipelines.benchmarks.runs import BenchOptions
    from pipelines.places import Places

    places = Places.from_environment()
    return BenchOptions(
        work=work or places.benchmarks,
        cache=cache or places.embedding_cache,
        cases=tuple(name.strip() for name in cases.split(",") if name.strip()),
        **options,
    )


@bench.command("recommend")
@click.option("--data", required=True, metavar="DIR", help="Folder of Parquet files, or completejourney.")
@click.option("--ablation", is_flag=True, help="Also without each part, with the first seed: as long again as 3 seeds.")
@click.option("--image-encoder", metavar="NAME", help="Looks at the items' pictures (default: none does).")
@_quality_options
def bench_recommend(data: str, **options: Any) -> None:
    """Measure how well held-out users' next items are found, by baselines and by the model; all items are ranked.

    The folder has items.parquet (item_id, title; optional description, category, brand, price, image) and
    interactions.parquet (user_id, item_id, timestamp; optional pos, event_type, basket_id). With `pos`, each user's
    last item is the test; without it, the newest tenth of the baskets. What is done is kept: a killed bench goes on
    where it was. docs/benchmarks.md says what the numbers mean, docs/your-own-data.md what reads pictures.

    \b
    Example: headrace bench recommend --data shop --json shop.json
    Example: headrace bench recommend --data shop --quick
    Example: headrace bench recommend --data completejourney --cases popularity,item_knn,headrace --seeds 1
    """
    from pipelines.benchmarks.recommend import bench_recommend as run_bench
    from pipelines.progress import TerminalProgress

    run_bench(data, _bench_options(**options), TerminalProgress())


@bench.command("search")
@click.option("--data", required=True, metavar="DIR", type=click.Path(path_type=Path), help="Folder of Parquet files.")
@click.option("--lowest-grade", type=float, help="The grade that says not relevant (default: the lowest there is).")
@_quality_options
def bench_search(data: Path, lowest_grade: float | None, **options: Any) -> None:
    """Measure how well the answers of held-out queries are found, by baselines and by the model; all items are ranked.

    The folder has items.parquet (item_id, title; optional description, category, brand, price, image) and
    judgements.parquet (query, item_id, grade). Queries are divided by a hash of their text. What is done is kept: a
    killed bench goes on where it was. docs/benchmarks.md says what the numbers mean.

    \b
    Example: headrace bench search --data shop --json shop.json
    Example: headrace bench search --data shop --cases bm25,headrace --seeds 1
    """
    from pipelines.benchmarks.search import bench_search as run_bench
    from pipelines.progress import TerminalProgress

    run_bench(data, _bench_options(**options), TerminalProgress(), lowest_grade=lowest_grade)


@bench.command("joint")
@click.option("--data", required=True, metavar="DIR", type=click.Path(path_type=Path), help="Folder of Parquet files.")
@click.option("--steps", type=click.IntRange(min=1), help="Steps of each task at most (default: those of the loop).")
@_quality_options
def bench_joint(data: Path, steps: int | None, **options: Any) -> None:
    """Compare one item tower for recommendation and search with two, at equal numbers of parameters.

    The folder is that of `bench recommend`. Queries come from its judgements.parquet; without it they are made from
    the catalogue, which the output says. The encoder stands still, vectors alone are measured. What is done is kept: a
    killed bench goes on where it was.

    \b
    Example: headrace bench joint --data shop --steps 600 --seeds 1 --json joint.json
    Example: headrace bench joint --data shop --quick
    """
    from pipelines.benchmarks.joint import bench_joint as run_bench
    from pipelines.progress import TerminalProgress

    run_bench(data, _bench_options(**options), TerminalProgress(), steps=steps)


@bench.command("compress")
@click.option("--data", default="completejourney", show_default=True, metavar="DIR", help="Folder, or completejourney.")
@click.option("--variants", metavar="A,B", help="Query towers (default: the four that bars are set for).")
@click.option("--item-variants", metavar="A,B", help="Towers that read items (default: 6-layer, 2-layer, static).")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of every random choice.")
@click.option("--quick", is_flag=True, help="A smoke run on a sample; says so in every output.")
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="File for the records.")
@click.option("--work", type=click.Path(file_okay=False, path_type=Path), help="Work (default: in the home).")
def bench_compress(
    data: str, variants: str | None, item_variants: str | None, work: Path | None, **options: Any
) -> None:
    """Measure query towers, towers for new items, item vectors and bundle size against the full model in torch.

    The folder is that of `bench search`; queries of the default data are made from titles and categories. What is
    measured with was held out from tuning and distillation. What is done is kept: a killed bench goes on where it was,
    but for a distillation, which begins again.

    \b
    Example: headrace bench compress --data shop --json compress.json
    Example: headrace bench compress --quick
    """
    from pipelines.benchmarks.compress import DEFAULT_ITEM_VARIANTS, DEFAULT_VARIANTS, CompressOptions
    from pipelines.benchmarks.compress import bench_compress as run_bench
    from pipelines.places import Places
    from pipelines.progress import TerminalProgress

    places = Places.from_environment()
    chosen = CompressOptions(
        data,
        work or places.benchmarks,
        places.embedding_cache,
        variants=_names(variants) or DEFAULT_VARIANTS,
        item_variants=_names(item_variants) or DEFAULT_ITEM_VARIANTS,
        **options,
    )
    run_bench(chosen, TerminalProgress())


def _names(listed: str | None) -> tuple[str, ...] | None:
    """Return the names of a list with commas, None for no list."""
    if listed is None:
        return None
    names = tuple(name.strip() for name in listed.split(",") if name.strip())
    if not names:
        raise click.BadParameter(f"{listed!r} names no tower: write `2-layer int8,static`, or leave the option out.")
    return names


# --- steps -----------------------------------------------------------------------------------------------------------

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
@_window_days
@_encoder_steps
@_tower_steps
@_from_scratch
@_until
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

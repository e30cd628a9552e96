"""What a person starts with: the loop, the demo, the service and the web pages."""

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

_port = click.option(
    "--port", type=click.IntRange(1, 65535), default=3000, show_default=True, help="Port to listen on."
)


@cli.command()
@window_days_option
@encoder_steps_option
@tower_steps_option
@from_scratch_option
@until_option
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

    from pipelines.commands.demo import run_demo
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
    from pipelines.commands.serve import serve as run_service

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
    from pipelines.commands.mlflow_page import serve_mlflow
    from pipelines.places import Places

    sys.exit(serve_mlflow(Places.from_environment(), port=port))

"""`headrace loop`: runs the DAGs through Airflow in the order of a deployment and shows how far they are."""

import fcntl
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from pipelines.airflow_home import airflow_environment, airflow_installed, prepare_airflow, stop_groups
from pipelines.errors import ConfigError, StoreError
from pipelines.places import Places
from pipelines.progress import PROGRESS_VARIABLE

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

PIPELINES = {
    "feature_pipeline": (
        "ingest_tables",
        "validate_tables",
        "build_features",
        "materialize_features",
        "embed_new_items",
    ),
    "training_pipeline": (
        "build_training_set",
        "check_leaks",
        "finetune_model",
        "compress_model",
        "evaluate_model",
        "promote_challenger",
    ),
    "deployment_pipeline": ("build_bento", "deploy_bundle", "prune_bundles"),
}
"""The DAGs of the loop and their tasks, in order."""

_POLL_S = 0.2


@dataclass
class StepView:
    """What is known about one step of this loop."""

    name: str
    state: str = "waiting"
    """waiting, started, finished, skipped or failed."""
    began: float | None = None
    """`time.monotonic()` at the start."""
    seconds: float | None = None
    """How long it took, once it has ended."""
    stage: str = ""
    done: int = 0
    total: int | None = None
    note: str = ""
    outcome: str = ""
    """What it produced, why it was skipped, or its error."""
    peak_mib: int | None = None
    """Largest memory of its process so far."""


@dataclass
class LoopView:
    """Every step of this loop, fed with the lines of the progress file."""

    steps: dict[str, StepView] = field(
        default_factory=lambda: {name: StepView(name) for names in PIPELINES.values() for name in names}
    )
    current: StepView | None = None

    def read(self, line: str) -> StepView | None:
        """Take in one line; return the step if the line says that it began or ended."""
        try:
            values = json.loads(line)
        except ValueError:
            return None
        if "stage" in values:
            if self.current:
                step = self.current
                step.stage, step.done, step.total, step.note = (
                    values["stage"],
                    values["done"],
                    values["total"],
                    values.get("note", ""),
                )
            return None
        step = self.steps.setdefault(values["step"], StepView(values["step"]))
        step.state = values["state"]
        if step.state == "started":
            step.began, step.seconds, step.stage, step.outcome = time.monotonic(), None, "", ""
            self.current = step
            return step
        step.seconds = values.get("seconds")
        step.peak_mib = values.get("peak_mib")
        if step.state == "finished":
            step.outcome = describe(step.name, values.get("record", {}))
            if values.get("record", {}).get("promoted") is False:
                step.state = "skipped"
        else:
            step.outcome = values.get("reason") or values.get("error") or ""
        self.current = None
        return step


def run_loop(
    places: Places,
    *,
    parameters: Mapping[str, Any],
    console: "Console",
    environment: Mapping[str, str] = os.environ,
) -> None:
    """Run feature, training and deployment pipeline; the last only where the champion is not live yet.

    Safe to run twice and safe to stop: each step goes on where it was, or ends at once where nothing is new.

    Args:
        parameters: Params of `training_pipeline`; those left out keep the DAG's defaults.

    Raises:
        ConfigError: another loop runs in the same home folder, or Airflow is not installed.
        StoreError: a step failed; the message names it, its error and the log.
    """
    airflow_installed()
    folder = places.home / "loop"
    folder.mkdir(parents=True, exist_ok=True)
    with _only_loop(folder / "lock") as lock:
        moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        progress_file, log_file = folder / f"{moment}.progress.jsonl", folder / f"{moment}.log"
        progress_file.touch()
        settings = {**airflow_environment(places, environment), PROGRESS_VARIABLE: str(progress_file)}
        started = time.monotonic()
        console.print(f"The loop through Airflow, in {places.home}. Log: {log_file}")
        with log_file.open("a", encoding="utf-8") as log:
            prepare_airflow(places, settings, log)
            view = LoopView()
            for dag in PIPELINES:
                if dag == "deployment_pipeline" and not _deployment_due(places):
                    _skip_rest(view, dag, "the champion is live already")
                    continue
                conf = dict(parameters) if dag == "training_pipeline" else {}
                _run_dag(dag, conf, settings, log, progress_file, view, console, lock)
        console.print(f"The loop took {_minutes(time.monotonic() - started)}.")


def live_bundle(places: Places) -> str | None:
    """Return the bundle that the service answers from, or None."""
    try:
        pointer = json.loads(places.current_bundle.read_text(encoding="utf-8"))
        return str(pointer["bundle"]) if (places.bundles / pointer["bundle"] / "manifest.json").exists() else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _deployment_due(places: Places) -> bool:
    """Tell whether the champion is not live yet: promoted just now, or before a loop that was stopped."""
    decisions = [
        (path.stat().st_mtime, path)
        for step in ("promote_challenger", "rollback_champion")
        for path in places.records.glob(f"*/{step}.json")
    ]
    if not decisions:
        return False
    champion = json.loads(max(decisions)[1].read_text(encoding="utf-8")).get("champion")
    return champion is not None and champion != live_bundle(places)


def _run_dag(
    dag: str,
    conf: Mapping[str, Any],
    environment: Mapping[str, str],
    log: IO[str],
    progress_file: Path,
    view: LoopView,
    console: "Console",
    lock: IO[str],
) -> None:
    """Run one DAG with `airflow dags test` and draw its steps until it ends.

    One process a DAG: what its libraries hold is given back before the next one starts.
    """
    log.flush()
    command = ["airflow", "dags", "test", dag, *(("--conf", json.dumps(conf)) if conf else ())]
    process = subprocess.Popen(
        command,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        pass_fds=(lock.fileno(),),
    )
    try:
        with progress_file.open(encoding="utf-8") as lines:
            lines.seek(0, os.SEEK_END)
            _draw(dag, process, _new_lines(lines), view, console)
    finally:
        # `airflow dags test` does not end on SIGTERM, and every step is safe to kill.
        stop_groups([process], timeout_s=2)
    failed = next((step for step in view.steps.values() if step.state == "failed"), None)
    if failed:
        raise StoreError(f"{failed.name} failed: {failed.outcome} (log: {log.name})")
    if process.returncode:
        raise StoreError(
            f"{dag} ended with exit code {process.returncode} outside its steps: the last lines of {log.name} say why."
        )
    if view.current is not None:
        raise StoreError(f"{dag} ended in the middle of {view.current.name}: the last lines of {log.name} say why.")
    _skip_rest(view, dag, "")


def _skip_rest(view: LoopView, dag: str, reason: str) -> None:
    for name in PIPELINES[dag]:
        step = view.steps[name]
        if step.state == "waiting":
            step.state, step.outcome = "skipped", reason


def _new_lines(file: IO[str]) -> Callable[[], Iterator[str]]:
    """Return a function that gives the whole lines appended since it was last called."""
    rest = ""

    def read() -> Iterator[str]:
        nonlocal rest
        rest += file.read()
        *whole, rest = rest.split("\n")
        yield from whole

    return read


def _draw(
    dag: str,
    process: "subprocess.Popen[bytes]",
    new_lines: Callable[[], Iterator[str]],
    view: LoopView,
    console: "Console",
) -> None:
    """Show the steps of a DAG until its process ends: a live table on a terminal, else a line a step."""
    if not console.is_terminal:
        console.print(f"{dag}")
        while True:
            ended = process.poll() is not None
            for line in new_lines():
                step = view.read(line)
                if step and step.state != "started":
                    console.print(f"  {_line(step)}", soft_wrap=True)
            if ended:
                return
            time.sleep(_POLL_S)
    from rich.live import Live

    with Live(console=console, refresh_per_second=5, get_renderable=lambda: _table(dag, view)):
        while True:
            ended = process.poll() is not None
            for line in new_lines():
                view.read(line)
            if ended:
                return
            time.sleep(_POLL_S)


def _line(step: StepView) -> str:
    took = _minutes(step.seconds) if step.seconds is not None else ""
    memory = f" [{step.peak_mib:,} MiB]" if step.peak_mib else ""
    return f"{step.state:<9}{step.name:<22}{took:>8}  {step.outcome}{memory}"


def _table(dag: str, view: LoopView) -> "RenderableType":
    """Draw the steps of one DAG: a sign, the name, a bar or the time taken, and what came out."""
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    signs = {
        "waiting": ("·", "dim"),
        "started": ("▶", "cyan"),
        "finished": ("✓", "green"),
        "skipped": ("–", "yellow"),
        "failed": ("✗", "red"),
    }
    table = Table.grid(padding=(0, 1))
    table.title, table.title_justify, table.title_style = dag, "left", "bold"
    table.add_column(width=1)
    table.add_column(width=20, no_wrap=True)
    table.add_column(width=8, justify="right", no_wrap=True)
    table.add_column(width=16)
    table.add_column(overflow="fold")
    for name in PIPELINES[dag]:
        step = view.steps[name]
        sign, style = signs[step.state]
        seconds = time.monotonic() - step.began if step.state == "started" and step.began else step.seconds
        bar: RenderableType = ""
        outcome = step.outcome
        if step.state == "started":
            bar = ProgressBar(total=step.total, completed=step.done, width=16, pulse=not step.total)
            amount = f"{step.done:,}/{step.total:,}" if step.total else f"{step.done:,}" if step.done else ""
            outcome = " ".join(part for part in (step.stage, amount, step.note) if part)
        table.add_row(
            Text(sign, style),
            Text(name, style if step.state != "finished" else ""),
            "" if seconds is None else _minutes(seconds),
            bar,
            Text(outcome, "dim" if step.state in ("started", "skipped") else ""),
        )
    return table


def _minutes(seconds: float) -> str:
    """Write a duration the way a person reads it: `8.2 s`, `3:07 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d} min"


def _amounts(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{value:,} {name}" for name, value in values.items())


def _share(metric: Mapping[str, Any]) -> str:
    if metric.get("low") is None:
        return f"{metric['value']:.4f}"
    return f"{metric['value']:.4f} [{metric['low']:.4f}, {metric['high']:.4f}]"


def describe(step: str, record: Mapping[str, Any]) -> str:
    """Say in one line what a step produced.

    Args:
        record: The step's record as plain JSON values.
    """
    with suppress(KeyError, TypeError, ValueError):
        return _DESCRIPTIONS[step](record)
    return ""


def _describe_validation(record: Mapping[str, Any]) -> str:
    accepted = _amounts(record["accepted"]) or "nothing new"
    quarantined = sum(record["quarantined"].values())
    return f"accepted {accepted}" + (f"; quarantined {quarantined:,}" if quarantined else "")


def _describe_evaluation(record: Mapping[str, Any]) -> str:
    cases = record["metrics"]
    return "recall@10 " + ", ".join(
        f"{case} {_share(metrics['recall@10'])}"
        for case, metrics in cases.items()
        if "recall@10" in metrics and not case.startswith("gain over ")
    )


def _describe_embedding(record: Mapping[str, Any]) -> str:
    if record["bundle"] is None:
        return "no bundle is live yet"
    return record["left_out"] or f"{record['items']:,} items beside bundle {record['bundle']}"


_DESCRIPTIONS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "ingest_tables": lambda record: f"read {_amounts(record['rows']) or 'nothing new'}",
    "validate_tables": _describe_validation,
    "build_features": lambda record: _amounts(record["rows"]),
    "materialize_features": lambda record: "online: " + _amounts(record["rows"]),
    "embed_new_items": _describe_embedding,
    "build_training_set": lambda record: f"run {record['run']}: rows {_amounts(record['rows'])}",
    "check_leaks": lambda record: (
        f"the canary was caught; {len(record['columns'])} columns do not know the label ({record['rows']:,} rows)"
    ),
    "finetune_model": lambda record: f"{record['steps']:,} steps from {record['started_from']}",
    "compress_model": lambda record: (
        f"bundle {record['bundle']}, {record['size_mib']:.0f} MiB, cosine to float {record['cosine_to_float']:.3f}"
    ),
    "evaluate_model": _describe_evaluation,
    "promote_challenger": lambda record: (
        ("champion: " if record["promoted"] else "the champion stays: ")
        + (f"{record['bundle']}; " if record["promoted"] else "")
        + "; ".join(record["reasons"])
    ),
    "build_bento": lambda record: f"Bento {record['tag']}",
    "deploy_bundle": lambda record: f"live: {record['bundle']}",
    "prune_bundles": lambda record: (
        f"removed {', '.join(record['removed'])} ({record['freed_mib']:.0f} MiB)"
        if record["removed"]
        else f"all {len(record['kept'])} bundles stay"
    ),
    "rollback_champion": lambda record: f"champion: {record['champion']}",
}


@contextmanager
def _only_loop(path: Path) -> Iterator[IO[str]]:
    """Hold the lock of this home folder; the DAG processes hold it too, should this process be killed."""
    with path.open("a", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigError(
                f"Another loop runs in {path.parent.parent}: wait until it has ended, "
                "or set HEADRACE_HOME to another folder."
            ) from None
        yield lock

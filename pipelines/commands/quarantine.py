"""`headrace quarantine`: show what was set aside and why, export it for mending, and feed it back in."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from pipelines.pseudonyms import Pseudonymizer
from pipelines.stores.quarantine import Quarantine, ReasonCount, Replayed, Wanted
from pipelines.stores.table_store import TableStore
from pipelines.validation.rules import ADVICE, DEFAULT_ADVICE

Echo = Callable[[str], None]
_NEXT = "They arrive with the next window: `headrace ingest_tables`, then `headrace validate_tables`."


def show(tables: TableStore, wanted: Wanted, *, rows: int, as_json: bool, echo: Echo) -> None:
    """List windows, tables and reasons with counts, what each reason means, and some rows.

    Args:
        rows: Example rows of each reason.
    """
    quarantine, done = _open(tables)
    counts = quarantine.counts(wanted)
    if as_json:
        for count in counts:
            examples = quarantine.examples(count, rows) if rows else []
            line = {**asdict(count), "advice": advice(count.rule), "examples": examples}
            echo(json.dumps(line, default=str))
        return
    if not counts:
        echo("Nothing is set aside that fits.")
    before = None
    for count in counts:
        if (count.window, count.table) != before:
            echo(f"Window {count.window}, table {count.table}")
            before = (count.window, count.table)
        _show_reason(quarantine, count, rows, echo)
    if waiting := quarantine.waiting(done):
        echo(f"{waiting:,} replayed rows wait. {_NEXT}")


def export(tables: TableStore, file: Path, wanted: Wanted, *, echo: Echo) -> None:
    """Write open rows to a CSV or Parquet file.

    Raises:
        DataError: there is no such row, or the file can be neither.
    """
    rows = _open(tables)[0].export(file, wanted)
    echo(
        f"{rows:,} rows are in {file}. Mend them there, empty the cell `unreadable` of what you mended, keep the other "
        f"columns, then run `headrace quarantine replay {file}`."
    )


def replay(
    tables: TableStore, file: Path | None, wanted: Wanted, *, pseudonymizer: Callable[[], Pseudonymizer], echo: Echo
) -> None:
    """Feed mended rows, or rows as they are, to the next window.

    Args:
        file: Mended rows; None sends the wanted rows unchanged.
        pseudonymizer: Opened only for a file, in which somebody may have written a raw user id.

    Raises:
        DataError: the file is not what `export` wrote, or a value in it cannot be read.
    """
    quarantine = _open(tables)[0]
    done = [quarantine.replay_file(file, wanted, pseudonymizer())] if file else quarantine.replay(wanted)
    for one in done:
        _tell(one, echo)
    if any(one.rows and not one.before for one in done):
        echo(_NEXT)
    elif not any(one.rows or one.skipped for one in done):
        echo("No open row is set aside that fits: `headrace quarantine show` lists what there is.")


def advice(rule: str) -> str:
    """Return what a person can do about rows that break the rule."""
    return ADVICE.get(rule, DEFAULT_ADVICE)


def _open(tables: TableStore) -> tuple[Quarantine, set[str]]:
    windows = tables.manifest().windows
    done = {replay for window in windows for replay in window.replays}
    return Quarantine(tables.quarantine, [window.window for window in windows]), done


def _show_reason(quarantine: Quarantine, count: ReasonCount, rows: int, echo: Echo) -> None:
    replayed = f", {count.rows - count.open:,} of them replayed" if count.open < count.rows else ""
    echo(f"  {count.rows:>9,}  {count.reason} (rule {count.rule}{replayed})")
    if count.open:
        echo(f"             {advice(count.rule)}")
    for row in quarantine.examples(count, rows) if rows else []:
        origin = f"row {row.pop('row_number', '?')} of {row.pop('source', '?')}"
        row.pop("quarantine_window", None)
        echo(f"             {origin}: {_short(json.dumps(row, default=str, ensure_ascii=False))}")


def _tell(one: Replayed, echo: Echo) -> None:
    if one.before:
        echo(f"{one.rows:,} rows of {one.table} were replayed before (replay {one.id}): nothing changes.")
    elif one.rows:
        echo(f"{one.rows:,} rows of {one.table} are replayed (replay {one.id}).")
    if one.skipped:
        echo(
            f"{one.skipped:,} rows of {one.table} stay: a value could not be read, or the mapping refuses them. Mend "
            "them with `headrace quarantine export`, or change the mapping."
        )


def _short(text: str, characters: int = 400) -> str:
    return text if len(text) <= characters else f"{text[: characters - 1]}…"

"""Step: check a window with Great Expectations, set broken rows aside, and add the rest to the tables."""

from collections.abc import Iterator
from pathlib import Path

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.config import ValidationConfig
from pipelines.errors import DataError
from pipelines.progress import Progress
from pipelines.schemas import TABLES, IngestedWindow, ValidationReport
from pipelines.stores.files import write_text
from pipelines.stores.sql import quoted
from pipelines.stores.table_store import REJECTIONS, TableStore
from pipelines.validation.data_docs import index_page
from pipelines.validation.judge import Judge, Verdict
from pipelines.validation.rules import Rule, facts_query, rules_for

ORDER = ("items", "users", "events", "judgements")
"""Items first: events refer to them."""
_PIECE_ROWS = 500_000
"""Rows checked at once; bounds the memory of the step."""
_FEW_VALUES = ("user_id", "session_id", "event_type", "category", "brand", "currency", "source", "unreadable")
"""Text columns that repeat themselves, kept as categories."""
_ROWS_NAMED = 5
_CHECKS_LISTED = 300
"""Rows of the index page: 100 windows of three tables."""


def validate_tables(
    window: IngestedWindow,
    *,
    tables: TableStore,
    great_expectations_dir: Path,
    config: ValidationConfig,
    progress: Progress,
) -> ValidationReport:
    """Accept the window's good rows and quarantine the others with their reasons.

    Safe to run twice: an accepted window gives its report again.

    Raises:
        DataError: a column is missing, no row is left, or more rows are broken than the policy allows. Nothing of
            the window is accepted then.
    """
    judge = Judge(great_expectations_dir)
    rejections: dict[str, pa.Table] = {}
    if tables.accepted_window(window.window) is None and window.rows:
        tables.ingested_manifest(window)
        with tables.writing_connection() as connection:
            connection.execute("CREATE TEMP TABLE known_items AS SELECT item_id FROM items")
            for table in (name for name in ORDER if name in window.rows):
                file = window.folder / f"{table}.parquet"
                _require_columns(table, file)
                rules = rules_for(table, config, until=window.until)
                columns = _columns_needed(rules)
                facts = facts_query(table, f"(SELECT *, file_row_number AS row_id FROM {_parquet(file)})")
                connection.execute(f"CREATE OR REPLACE TEMP TABLE judged AS SELECT row_id, {columns} FROM ({facts})")
                frames = _pieces(connection, table, window.rows[table], progress)
                verdict = judge.judge(table, rules, frames, run=window.window)
                _write_index(judge)
                rejected = _rejections(verdict, rules)
                _check_policy(table, file, verdict, rejected, rules, window, config, judge.data_docs)
                if table == "items":
                    connection.register("rejected", rejected)
                    connection.execute(
                        f"INSERT INTO known_items SELECT item_id FROM {_parquet(file)} "
                        "WHERE file_row_number NOT IN (SELECT row_id FROM rejected)"
                    )
                    connection.unregister("rejected")
                rejections[table] = rejected
    accepted = tables.accept(window, rejections=rejections)
    return ValidationReport(
        window=window.window,
        accepted=accepted.accepted,
        quarantined=accepted.quarantined,
        reasons=accepted.reasons,
        data_docs=judge.data_docs if judge.data_docs.exists() else None,
    )


def _write_index(judge: Judge) -> None:
    checks, older = judge.checks(_CHECKS_LISTED)
    write_text(judge.data_docs, index_page(checks, older=older))


def _parquet(file: Path) -> str:
    return f"read_parquet({quoted(file)}, file_row_number = true)"


def _columns_needed(rules: tuple[Rule, ...]) -> str:
    """Return the columns that the rules look at, timestamps in seconds since 1970.

    Great Expectations compares numbers all at once, and timestamps one by one.
    """
    names = dict.fromkeys(rule.column for rule in rules)
    return ", ".join(f"epoch({name}) AS {name}" if name.endswith(("_timestamp", "_at")) else name for name in names)


def _require_columns(table: str, file: Path) -> None:
    missing = [name for name in TABLES[table].names if name not in pq.read_schema(file).names]
    if missing:
        raise DataError(
            f"The table {table} has no column {', '.join(f'`{name}`' for name in missing)} in {file}: "
            "the file was changed after it was written. Run `headrace ingest_tables` again."
        )


def _pieces(connection: duckdb.DuckDBPyConnection, table: str, rows: int, progress: Progress) -> Iterator[pd.DataFrame]:
    """Yield the table `judged` in pieces, in order, indexed by `row_id`."""
    for start in range(0, rows, _PIECE_ROWS):
        piece = connection.sql(
            f"SELECT * FROM judged WHERE row_id >= {start} AND row_id < {start + _PIECE_ROWS} ORDER BY row_id"
        ).to_arrow_table()
        categories = [name for name in _FEW_VALUES if name in piece.column_names]
        # Great Expectations names rows by the index, as plain numbers only where it has no name.
        yield piece.to_pandas(categories=categories).set_index("row_id").rename_axis(None)
        progress.update(f"checking {table}", min(start + _PIECE_ROWS, rows), rows)


def _rejections(verdict: Verdict, rules: tuple[Rule, ...]) -> pa.Table:
    reasons = {rule.name: rule.reason for rule in rules}
    pieces = [
        pa.table(
            {"row_id": pa.array(rows, pa.int64()), "rule": [name] * len(rows), "reason": [reasons[name]] * len(rows)},
            schema=REJECTIONS,
        )
        for name, rows in verdict.broken.items()
    ]
    return pa.concat_tables(pieces) if pieces else REJECTIONS.empty_table()


def _check_policy(
    table: str,
    file: Path,
    verdict: Verdict,
    rejected: pa.Table,
    rules: tuple[Rule, ...],
    window: IngestedWindow,
    config: ValidationConfig,
    data_docs: Path,
) -> None:
    """Stop where too much of a table is broken.

    Raises:
        DataError: names the rule that most rows break, their number and the first of them.
    """
    broken = len(rejected["row_id"].unique())
    nothing_left = broken == verdict.rows and window.since is None
    too_many = broken >= config.min_quarantined_rows and broken > config.max_quarantined_share * verdict.rows
    if not (nothing_left or too_many):
        return
    name, rows = max(verdict.broken.items(), key=lambda entry: len(entry[1]))
    reason = next(rule.reason for rule in rules if rule.name == name)
    origin = duckdb.sql(
        f"SELECT row_number, source FROM {_parquet(file)} "
        f"WHERE file_row_number IN ({', '.join(map(str, sorted(rows)[:_ROWS_NAMED]))}) ORDER BY file_row_number"
    ).fetchall()
    named = ", ".join(str(number) for number, _ in origin)
    raise DataError(
        f"The table {table} of window {window.window} is not accepted: {broken:,} of {verdict.rows:,} rows are broken "
        f"({broken / verdict.rows:.1%}, allowed: {config.max_quarantined_share:.1%}). Most often {reason}: "
        f"{len(rows):,} rows, first at {named} of {origin[0][1]}. Mend the source, or raise "
        f"validation.max_quarantined_share, then run the feature pipeline again. Details: {data_docs}"
    )

"""Step: check a window with Great Expectations, set broken rows aside, and add the rest to the tables.

Rows that break a rule go to quarantine with the reason; too many of them stop the run, and so does a window that
differs too much from the windows before it. Data Docs and a page of pictures show what was found.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.config import ValidationConfig
from pipelines.errors import DataError
from pipelines.progress import Progress
from pipelines.schemas import TABLES, IngestedWindow, ValidationReport
from pipelines.stores.data_log import log_window
from pipelines.stores.experiment_tracker import ExperimentTracker
from pipelines.stores.files import replacing_file, write_text
from pipelines.stores.sql import quoted, scalar
from pipelines.stores.table_store import AcceptedWindow, TableStore
from pipelines.validation.comparison import Difference, EarlierWindow, compare
from pipelines.validation.data_docs import index_page
from pipelines.validation.judge import Judge, Limit, Verdict
from pipelines.validation.overview import Drift, Glance, overview_figure, overview_page
from pipelines.validation.profile import Profile, measure
from pipelines.validation.repeats import find_repeats
from pipelines.validation.rules import ORIGIN, RULES_VERSION, Rule, judged_query, rules_for, types_of

ORDER = ("items", "users", "events", "judgements")
"""Items first: events refer to them."""
COMPARED = "compared"
"""Page of the Data Docs that shows how the window differs from those before."""
PICTURE, PAGE = "overview.png", "overview.html"
_ROWS_NAMED = 5
_CHECKS_LISTED = 300
"""Rows of the index page."""
_WINDOWS_PICTURED = 60
_WARNINGS_KEPT = 20


def validate_tables(
    window: IngestedWindow,
    *,
    tables: TableStore,
    great_expectations_dir: Path,
    config: ValidationConfig,
    progress: Progress,
    tracker: ExperimentTracker | None = None,
) -> ValidationReport:
    """Accept the window's good rows and quarantine the others with their reasons.

    Safe to run twice: an accepted window gives its report again.

    Args:
        tracker: Gets the numbers and the picture of the window; what it cannot take is a warning.

    Raises:
        DataError: the columns are not the contract's, no row is left, more rows are broken than the policy allows, or
            the window differs too much from those before. Nothing of the window is accepted then.
    """
    judge = Judge(great_expectations_dir)
    accepted = tables.accepted_window(window.window)
    failed_log = None
    if accepted is None:
        found = _Findings()
        if window.rows:
            tables.ingested_manifest(window)
            with _pages(judge, tables, window, found, config):
                _judge_window(window, tables, judge, found, config, progress)
        profile = _profile_json(found) if window.rows else None
        accepted = tables.accept(window, rejections=found.rejections, profile=profile)
        if window.rows:
            _write_overview(judge, tables)
            failed_log = _log(tracker, tables, accepted, judge)
    kept = accepted.profile or {}
    warnings = tuple(kept.get("warnings", ())) + ((failed_log,) if failed_log else ())
    return ValidationReport(
        window=window.window,
        rules_version=kept.get("rules_version", RULES_VERSION),
        accepted=accepted.accepted,
        quarantined=accepted.quarantined,
        reasons=accepted.reasons,
        prepared={**accepted.mended, **accepted.removed},
        warnings=warnings,
        data_docs=judge.data_docs if judge.data_docs.exists() else None,
        overview=judge.data_docs.with_name(PAGE) if judge.data_docs.with_name(PAGE).exists() else None,
    )


@dataclass
class _Findings:
    """What is known of a window so far; a refused one shows it as well."""

    rejections: dict[str, pa.Table] = field(default_factory=dict)
    """Table -> rows to set aside."""
    broken: dict[str, int] = field(default_factory=dict)
    """'<table>: <rule>' -> rows."""
    groups: dict[str, Profile] = field(default_factory=dict)
    differences: list[Difference] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def drift(self) -> dict[str, tuple[float, float, float]]:
        """Group and column -> distance, and the distances that warn and stop."""
        return {
            f"{one.group}.{one.column}": (round(one.found, 4), one.high_warn, one.high_stop)
            for one in self.differences
            if one.kind == "drift"
        }


def _judge_window(
    window: IngestedWindow,
    tables: TableStore,
    judge: Judge,
    found: _Findings,
    config: ValidationConfig,
    progress: Progress,
) -> None:
    """Find the rows to set aside, and how the others differ from the windows before.

    Raises:
        DataError: the window is not accepted.
    """
    with tables.writing_connection() as connection:
        connection.execute("CREATE TEMP TABLE known_items AS SELECT item_id FROM items")
        names = [name for name in ORDER if name in window.rows]
        for done, table in enumerate(names):
            progress.update("checking tables", done, len(names), f"{table}: {window.rows[table]:,} rows")
            file = window.folder / f"{table}.parquet"
            rules = rules_for(table, config, since=window.since, until=window.until)
            verdict = _judge_table(connection, table, file, rules, window, judge, config)
            found.broken |= {f"{table}: {rule.reason}": verdict.broken.get(rule.name, 0) for rule in rules}
            _check_policy(connection, table, verdict, rules, window, config, judge.data_docs)
            if table == "items":
                connection.execute(f"INSERT INTO known_items SELECT item_id FROM {_kept(verdict)}")
            if verdict.broken:
                found.rejections[table] = connection.sql("FROM rejected ORDER BY row_id, rule").to_arrow_table()
            found.groups |= measure(connection, table, _kept(verdict))
        found.differences = compare(found.groups, _earlier(tables), config, since=window.since, until=window.until)
        found.warnings = _check_differences(connection, found.differences, window, judge)
    progress.update("checking tables", len(names), len(names))


def _judge_table(
    connection: duckdb.DuckDBPyConnection,
    table: str,
    file: Path,
    rules: Sequence[Rule],
    window: IngestedWindow,
    judge: Judge,
    config: ValidationConfig,
) -> Verdict:
    """Check a table; the relations `judged` and `rejected` hold it and the rows that break a rule.

    Raises:
        DataError: its columns are not the contract's, or the file cannot be read.
    """
    _require_columns(table, file)
    types = types_of(table, config)
    relation = (
        f"(SELECT * EXCLUDE (file_row_number), file_row_number AS row_id "
        f"FROM read_parquet({quoted(file)}, file_row_number = true))"
    )
    try:
        find_repeats(connection, table, relation, window.rows[table])
        query = judged_query(table, relation, config, since=window.since, until=window.until)
        connection.execute(f"CREATE OR REPLACE TEMP VIEW judged AS {query}")
        verdict = judge.judge(connection, table, rules, types=types, run=window.window)
    except duckdb.Error as error:
        raise DataError(
            f"The table {table} in {file} cannot be checked: {' '.join(str(error).split())} The file was changed "
            "after it was written. Run `headrace ingest_tables` again."
        ) from None
    if verdict.columns:
        raise DataError(
            f"The table {table} in {file} has not the contract's columns: {'; '.join(verdict.columns)}. The file was "
            f"changed after it was written. Run `headrace ingest_tables` again. Details: {judge.data_docs}"
        )
    return verdict


def _kept(verdict: Verdict) -> str:
    """Return the relation of the rows that break no rule."""
    if not verdict.broken:
        return "judged"
    return "(SELECT * FROM judged WHERE row_id NOT IN (SELECT row_id FROM rejected))"


def _require_columns(table: str, file: Path) -> None:
    names = pq.read_schema(file).names
    missing = [name for name in (*TABLES[table].names, *ORIGIN) if name not in names]
    if missing:
        raise DataError(
            f"The table {table} has no column {', '.join(f'`{name}`' for name in missing)} in {file}: "
            "the file was changed after it was written. Run `headrace ingest_tables` again."
        )


def _check_policy(
    connection: duckdb.DuckDBPyConnection,
    table: str,
    verdict: Verdict,
    rules: Sequence[Rule],
    window: IngestedWindow,
    config: ValidationConfig,
    data_docs: Path,
) -> None:
    """Stop where too much of a table is broken.

    Raises:
        DataError: names the rule that most rows break, their number and the first of them.
    """
    if not verdict.broken:
        return
    broken = int(scalar(connection, "SELECT count(DISTINCT row_id) FROM rejected"))
    nothing_left = broken == verdict.rows and window.since is None
    too_many = broken >= config.min_quarantined_rows and broken > config.max_quarantined_share * verdict.rows
    if not (nothing_left or too_many):
        return
    name, rows = max(verdict.broken.items(), key=lambda entry: entry[1])
    reason = next(rule.reason for rule in rules if rule.name == name)
    origin = connection.execute(
        "SELECT row_number, source FROM judged WHERE row_id IN "
        f"(SELECT row_id FROM rejected WHERE rule = {quoted(name)} ORDER BY row_id LIMIT {_ROWS_NAMED}) ORDER BY row_id"
    ).fetchall()
    named = ", ".join(str(number) for number, _ in origin)
    raise DataError(
        f"The table {table} of window {window.window} is not accepted: {broken:,} of {verdict.rows:,} rows are broken "
        f"({broken / verdict.rows:.1%}, allowed: {config.max_quarantined_share:.1%}). Most often {reason}: "
        f"{rows:,} rows, first at {named} of {origin[0][1]}. Mend the source, or raise "
        f"validation.max_quarantined_share, then run the feature pipeline again. Details: {data_docs}"
    )


def _earlier(tables: TableStore) -> list[EarlierWindow]:
    found = []
    for window in tables.manifest().windows:
        groups = (window.profile or {}).get("groups", {})
        profiles = {name: Profile.from_json(values) for name, values in groups.items()}
        found.append(EarlierWindow(window.since, window.until, profiles))
    return found


def _check_differences(
    connection: duckdb.DuckDBPyConnection,
    differences: Sequence[Difference],
    window: IngestedWindow,
    judge: Judge,
) -> list[str]:
    """Let Great Expectations hold the differences against their limits; return the warnings.

    Raises:
        DataError: a number is further out than the policy allows.
    """
    if not differences:
        return []
    by_column = {difference.name: difference for difference in differences}
    numbers = ", ".join(f"CAST({one.found!r} AS DOUBLE) AS {name}" for name, one in by_column.items())
    connection.execute(f"CREATE OR REPLACE TEMP VIEW {COMPARED} AS SELECT {numbers}")
    limits = [
        Limit(
            column=name,
            notes=f"{one.sentence}; {'accepted' if stops else 'without a warning'}: {one.allowed(stops=stops)}",
            low=one.low_stop if stops else one.low_warn,
            high=one.high_stop if stops else one.high_warn,
            stops=stops,
        )
        for name, one in by_column.items()
        for stops in (False, True)
    ]
    broken = judge.limits(connection, COMPARED, COMPARED, limits, run=window.window)
    stopping = [by_column[limit.column] for limit in broken if limit.stops]
    if stopping:
        worst = stopping[0]
        rest = f" ({len(stopping) - 1} more numbers are out of range.)" if len(stopping) > 1 else ""
        raise DataError(
            f"Window {window.window} is not accepted: {worst.sentence}; allowed: {worst.allowed(stops=True)}.{rest} "
            f"Mend the source; or, if the change is real, raise validation.{worst.setting}_stop for this run. Then run "
            f"the feature pipeline again. Details: {judge.data_docs}"
        )
    warned = [by_column[limit.column] for limit in broken]
    return [f"{one.sentence}; expected: {one.allowed(stops=False)}" for one in warned][:_WARNINGS_KEPT]


def _profile_json(found: _Findings) -> dict[str, Any]:
    return {
        "rules_version": RULES_VERSION,
        "groups": {name: profile.to_json() for name, profile in found.groups.items()},
        "drift": {name: list(numbers) for name, numbers in found.drift.items()},
        "warnings": found.warnings,
    }


@contextmanager
def _pages(
    judge: Judge, tables: TableStore, window: IngestedWindow, found: _Findings, config: ValidationConfig
) -> Iterator[None]:
    """Write the index of the Data Docs when the block ends, and the pictures where the window is refused."""
    try:
        yield
    except DataError as error:
        _write_overview(judge, tables, _refused(window, found, str(error)))
        raise
    finally:
        judge.prune(config.docs_windows)
        checks, older = judge.checks(_CHECKS_LISTED)
        write_text(judge.data_docs, index_page(checks, older=older, overview=PAGE))


def _write_overview(judge: Judge, tables: TableStore, refused: Glance | None = None) -> None:
    windows = [_glance(window) for window in tables.manifest().windows[-_WINDOWS_PICTURED:]]
    if refused:
        windows.append(refused)
    if not windows:
        return
    with replacing_file(judge.data_docs.with_name(PICTURE)) as temporary:
        overview_figure(windows).savefig(temporary, format="png")
    page = overview_page(windows, picture=PICTURE, rules_version=RULES_VERSION)
    write_text(judge.data_docs.with_name(PAGE), page)


def _refused(window: IngestedWindow, found: _Findings, why: str) -> Glance:
    return Glance(
        window=window.window,
        until=window.until,
        reasons={reason: rows for reason, rows in found.broken.items() if rows},
        prepared={**window.mended, **window.removed},
        groups=found.groups,
        drift=[Drift(column, *numbers) for column, numbers in found.drift.items()],
        refused=why,
    )


def _glance(window: AcceptedWindow) -> Glance:
    found = window.profile or {}
    return Glance(
        window=window.window,
        until=window.until,
        accepted=window.accepted,
        quarantined=window.quarantined,
        reasons=window.reasons,
        prepared={**window.mended, **window.removed},
        groups={name: Profile.from_json(values) for name, values in found.get("groups", {}).items()},
        drift=[Drift(column, *numbers) for column, numbers in found.get("drift", {}).items()],
        warnings=found.get("warnings", ()),
    )


def _log(tracker: ExperimentTracker | None, tables: TableStore, accepted: AcceptedWindow, judge: Judge) -> str | None:
    if tracker is None:
        return None
    drift = [found for found, _, _ in (accepted.profile or {}).get("drift", {}).values()]
    metrics = {f"accepted.{table}": float(rows) for table, rows in accepted.accepted.items()}
    metrics["quarantined"] = float(sum(accepted.quarantined.values()))
    metrics["warnings"] = float(len((accepted.profile or {}).get("warnings", ())))
    if drift:
        metrics["largest_drift"] = max(drift)
    files = tuple(judge.data_docs.with_name(name) for name in (PICTURE, PAGE))
    return log_window(tracker, number=len(tables.manifest().windows), metrics=metrics, files=files)

"""Great Expectations as the judge of rows: suites from our rules, a checkpoint a table, Data Docs for people.

It works on DuckDB through SQLAlchemy: all expectations of a table become a few passes over its columns, and no row
becomes a Python object.
"""

import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb

from pipelines.stores.sql import quoted, scalar
from pipelines.validation.data_docs import Check
from pipelines.validation.rules import RULES_VERSION, Rule

if TYPE_CHECKING:
    from great_expectations.data_context import AbstractDataContext

_DATA_SOURCE = "duckdb"
"""Not `headrace`: earlier versions left a source of that name, and checks of it, that read pandas frames."""
_EXAMPLES = 5
"""Broken values that a page shows of each rule."""


@dataclass(frozen=True)
class Limit:
    """What a table as a whole must keep to: a column of a table with one row, and its bounds."""

    column: str
    notes: str
    low: float | None
    high: float | None
    stops: bool
    """Whether the window is refused, not only warned about."""


@dataclass(frozen=True)
class Verdict:
    """What the judge found in a table."""

    rows: int
    broken: Mapping[str, int] = field(default_factory=dict)
    """Rule -> rows that break it. Which rows these are is in the relation `rejected`."""
    columns: Sequence[str] = ()
    """Columns that are missing, strange or of another type."""


class Judge:
    """Great Expectations with its files below one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._context: AbstractDataContext | None = None

    @property
    def data_docs(self) -> Path:
        """The index page of the Data Docs; `validate_tables` writes it."""
        return self._folder / "index.html"

    def checks(self, limit: int) -> tuple[list[Check], int]:
        """Return what was checked, newest window first and at most `limit` of them, and how many are older."""
        results, pages = self._results, self._pages.relative_to(self._folder)
        # <table>/<window>/<time of the run>/<batch>.json
        found = sorted(file.relative_to(results) for file in results.glob("*/*/*/*.json"))
        found.sort(key=lambda file: file.parts[1:3], reverse=True)
        checks = []
        for file in found[:limit]:
            result = json.loads((results / file).read_text(encoding="utf-8"))
            run, numbers = result["meta"]["run_id"], result["statistics"]
            checks.append(
                Check(
                    window=run["run_name"],
                    table=file.parts[0],
                    until=datetime.fromisoformat(run["run_time"]),
                    met=numbers["successful_expectations"],
                    expectations=numbers["evaluated_expectations"],
                    page=(pages / file.with_suffix(".html")).as_posix(),
                )
            )
        return checks, len(found) - len(checks)

    def prune(self, windows: int) -> None:
        """Remove results and pages of all but the newest windows."""
        old = sorted({folder.name for folder in self._results.glob("*/*")}, reverse=True)[windows:]
        for name in old:
            for root in (self._results, self._pages):
                for folder in root.glob(f"*/{name}"):
                    shutil.rmtree(folder, ignore_errors=True)

    def judge(
        self,
        connection: duckdb.DuckDBPyConnection,
        table: str,
        rules: Sequence[Rule],
        *,
        types: Mapping[str, str],
        run: str,
    ) -> Verdict:
        """Check the relation `judged`, show it as a page of the Data Docs, and fill the relation `rejected`.

        Args:
            connection: Has the view `judged` with the table's columns, facts and `row_id`; gets the temporary table
                `rejected` (`row_id`, `rule`, `reason`), a row once for each rule that it breaks.
            types: All columns that the table has, facts included, with the type that each must have.
            run: Shown as the name of the run.
        """
        import great_expectations as gx

        expected = [
            gx.expectations.ExpectTableRowCountToBeBetween(min_value=1),
            gx.expectations.ExpectTableColumnsToMatchSet(column_set=[*types, "row_id"], exact_match=True),
            *(_type_expectation(column, kind) for column, kind in types.items()),
            *(_expectation(rule) for rule in rules),
        ]
        connection.execute("CREATE OR REPLACE TEMP TABLE rejected (row_id BIGINT, rule VARCHAR, reason VARCHAR)")
        with self._asked(connection, table, "judged") as batches:
            results = self._run(table, batches, expected, run)
            columns = [_column_at_fault(one) for one in results if _rule_name(one) is None and not one.success]
            failed = {_rule_name(one): one for one in results if _rule_name(one) and not one.success}
            if failed:
                # The pages get a summary; which rows they are is asked of the broken rules only.
                broken = self._set_aside(connection, batches, [rule for rule in rules if rule.name in failed])
            else:
                broken = {}
        return Verdict(int(scalar(connection, "SELECT count(*) FROM judged")), broken, [one for one in columns if one])

    def limits(
        self, connection: duckdb.DuckDBPyConnection, table: str, relation: str, limits: Sequence[Limit], *, run: str
    ) -> list[Limit]:
        """Check a relation of one row against limits, show it as a page, and return the limits that it breaks."""
        import great_expectations as gx

        def expectation(number: int, limit: Limit) -> Any:
            return gx.expectations.ExpectColumnValuesToBeBetween(
                column=limit.column,
                min_value=limit.low,
                max_value=limit.high,
                severity="critical" if limit.stops else "warning",
                notes=limit.notes,
                meta={"rule": str(number)},
            )

        with self._asked(connection, table, relation) as batches:
            results = self._run(table, batches, [expectation(*entry) for entry in enumerate(limits)], run)
        return [limits[int(_rule_name(one) or 0)] for one in results if not one.success]

    @property
    def _results(self) -> Path:
        return self._folder / "gx" / "uncommitted" / "validations"

    @property
    def _pages(self) -> Path:
        return self._folder / "gx" / "uncommitted" / "data_docs" / "local_site" / "validations"

    @contextmanager
    def _asked(self, connection: duckdb.DuckDBPyConnection, table: str, relation: str) -> Iterator[Any]:
        """Give Great Expectations' view of a relation of this connection."""
        from pipelines.validation.duckdb_dialect import URL_OF_LENT, lending

        context = self._open()
        with lending(connection):
            source = context.data_sources.add_or_update_sql(_DATA_SOURCE, connection_string=URL_OF_LENT)
            yield source.add_table_asset(table, table_name=relation).add_batch_definition_whole_table("window")

    def _run(self, table: str, batches: Any, expectations: list[Any], run: str) -> list[Any]:
        import great_expectations as gx

        context = self._open()
        suite = context.suites.add_or_update(
            gx.ExpectationSuite(name=table, expectations=expectations, meta={"rules_version": RULES_VERSION})
        )
        validation = context.validation_definitions.add_or_update(
            gx.ValidationDefinition(name=f"{_DATA_SOURCE}_{table}", data=batches, suite=suite)
        )
        checkpoint = context.checkpoints.add_or_update(
            gx.Checkpoint(
                name=f"{_DATA_SOURCE}_{table}",
                validation_definitions=[validation],
                actions=[gx.checkpoint.UpdateDataDocsAction(name="data_docs")],
                result_format={"result_format": "SUMMARY", "partial_unexpected_count": _EXAMPLES},
            )
        )
        result = checkpoint.run(run_id=gx.core.RunIdentifier(run_name=run))
        (summary,) = result.run_results.values()
        return list(summary.results)

    def _set_aside(self, connection: duckdb.DuckDBPyConnection, batches: Any, rules: Sequence[Rule]) -> dict[str, int]:
        """Insert the rows that break these rules into `rejected`, by Great Expectations' own queries."""
        import great_expectations as gx

        suite = gx.ExpectationSuite(name="rows", expectations=[_expectation(rule) for rule in rules])
        asked = {
            "result_format": "BASIC",
            "partial_unexpected_count": 1,
            "unexpected_index_column_names": ["row_id"],
            "return_unexpected_index_query": True,
        }
        broken = {}
        by_name = {rule.name: rule for rule in rules}
        for one in batches.get_batch().validate(suite, result_format=asked).results:
            rule = by_name[str(_rule_name(one))]
            if "unexpected_index_query" not in one.result:
                raise RuntimeError(f"Great Expectations could not check `{rule.name}`: {one.exception_info}")
            query = str(one.result["unexpected_index_query"]).rstrip().rstrip(";")
            count = _insert(connection, rule, query)
            if count != one.result["unexpected_count"]:
                raise RuntimeError(
                    f"Great Expectations counts {one.result['unexpected_count']:,} rows that break `{rule.name}`, its "
                    f"query selects {count:,}."
                )
            broken[rule.name] = count
        return broken

    def _open(self) -> "AbstractDataContext":
        if self._context is None:
            # Read when the package is imported: nobody here asked to be tracked.
            os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
            import great_expectations as gx
            from great_expectations.data_context.types.base import ProgressBarsConfig

            logging.getLogger("great_expectations").setLevel(logging.WARNING)
            self._folder.mkdir(parents=True, exist_ok=True)
            self._context = gx.get_context(mode="file", project_root_dir=str(self._folder))
            self._context.variables.progress_bars = ProgressBarsConfig(globally=False)
        return self._context


def _insert(connection: duckdb.DuckDBPyConnection, rule: Rule, query: str) -> int:
    """Add the rows of the query to `rejected` and return their number."""
    if rule.reason_column is None:
        rows = f"SELECT row_id, {quoted(rule.name)}, {quoted(rule.reason)} FROM ({query})"
    else:
        rows = (
            f"SELECT row_id, {quoted(rule.name)}, judged.{rule.reason_column} FROM judged "
            f"WHERE row_id IN (SELECT row_id FROM ({query}))"
        )
    return int(scalar(connection, f"INSERT INTO rejected {rows}"))


def _expectation(rule: Rule) -> Any:
    import great_expectations as gx

    kind = getattr(gx.expectations, rule.expectation)
    return kind(column=rule.column, notes=rule.reason, meta={"rule": rule.name}, **rule.arguments)


def _type_expectation(column: str, kind: str) -> Any:
    import great_expectations as gx

    return gx.expectations.ExpectColumnValuesToBeOfType(column=column, type_=kind, notes=f"{column} is {kind}")


def _rule_name(result: Any) -> str | None:
    meta = result.expectation_config.meta or {}
    return meta.get("rule")


def _column_at_fault(result: Any) -> str:
    """Return what is wrong with the columns, in words; nothing where the table is only empty."""
    arguments, found = result.expectation_config.kwargs, result.result
    if "column_set" in arguments:
        mismatched = found.get("details", {}).get("mismatched", {})
        words = {"missing": "is missing", "unexpected": "is none of the contract's"}
        return ", ".join(f"`{name}` {words[kind]}" for kind, names in mismatched.items() for name in names)
    if "type_" in arguments:
        return f"`{arguments['column']}` is {found.get('observed_value')} and must be {arguments['type_']}"
    return ""

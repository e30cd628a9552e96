"""Great Expectations as the judge of rows: suites from our rules, a checkpoint a table, Data Docs for people."""

import json
import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from pipelines.validation.data_docs import Check
from pipelines.validation.rules import Rule

if TYPE_CHECKING:
    from great_expectations.data_context import AbstractDataContext

_DATA_SOURCE = "headrace"


@dataclass
class Verdict:
    """What the judge found in a table."""

    rows: int = 0
    broken: dict[str, list[int]] = field(default_factory=dict)
    """Rule -> `row_id` of the rows that break it, ascending."""


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
        uncommitted = self._folder / "gx" / "uncommitted"
        results = uncommitted / "validations"
        pages = (uncommitted / "data_docs" / "local_site" / "validations").relative_to(self._folder)
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

    def judge(self, table: str, rules: tuple[Rule, ...], frames: Iterable[pd.DataFrame], *, run: str) -> Verdict:
        """Check the table piece by piece; each piece becomes a page of the Data Docs.

        Args:
            frames: Pieces of the table, indexed by `row_id`.
            run: Shown as the name of the run; from the second piece on with its number, such as `<run>-2`.
        """
        import great_expectations as gx

        context = self._open()
        definition = (
            context.data_sources.add_or_update_pandas(_DATA_SOURCE)
            .add_dataframe_asset(table)
            .add_batch_definition_whole_dataframe("window")
        )
        suite = context.suites.add_or_update(
            gx.ExpectationSuite(
                name=table,
                expectations=[
                    gx.expectations.ExpectTableRowCountToBeBetween(min_value=1),
                    *(_expectation(rule) for rule in rules),
                ],
            )
        )
        validation = context.validation_definitions.add_or_update(
            gx.ValidationDefinition(name=table, data=definition, suite=suite)
        )
        checkpoint = context.checkpoints.add_or_update(
            gx.Checkpoint(
                name=table,
                validation_definitions=[validation],
                actions=[gx.checkpoint.UpdateDataDocsAction(name="data_docs")],
                result_format="SUMMARY",
            )
        )
        verdict = Verdict()
        first = gx.core.RunIdentifier(run_name=run)
        for piece, frame in enumerate(frames, start=1):
            verdict.rows += len(frame)
            # With one name for all, the page of a piece would replace that of the piece before.
            shown = run if piece == 1 else f"{run}-{piece}"
            run_id = gx.core.RunIdentifier(run_name=shown, run_time=first.run_time)
            result = checkpoint.run(batch_parameters={"dataframe": frame}, run_id=run_id)
            (summary,) = result.run_results.values()
            failed = {name for name in map(_rule_name, summary.results) if name} & {
                _rule_name(one) for one in summary.results if not one.success
            }
            if not failed:
                continue
            # The pages get a summary; the rows are asked for once more, of the broken rules only.
            again = gx.ExpectationSuite(
                name=f"{table}_rows", expectations=[_expectation(rule) for rule in rules if rule.name in failed]
            )
            batch = definition.get_batch(batch_parameters={"dataframe": frame})
            for one in batch.validate(again, result_format="COMPLETE").results:
                name = _rule_name(one)
                if name is None or "unexpected_index_list" not in one.result:
                    raise RuntimeError(f"Great Expectations could not check `{name}` of {table}: {one.exception_info}")
                verdict.broken.setdefault(name, []).extend(int(row) for row in one.result["unexpected_index_list"])
        return verdict

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


def _expectation(rule: Rule) -> Any:
    import great_expectations as gx

    kind = getattr(gx.expectations, rule.expectation)
    return kind(column=rule.column, notes=rule.reason, meta={"rule": rule.name}, **rule.arguments)


def _rule_name(result: Any) -> str | None:
    meta = result.expectation_config.meta or {}
    return meta.get("rule")

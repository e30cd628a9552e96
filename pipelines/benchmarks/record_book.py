"""From values of rows to records with intervals: the same arithmetic for `bench recommend` and `bench search`."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from pipelines.benchmarks.records import BenchmarkRecord, records_table
from pipelines.evaluation.bootstrap import UserBootstrap
from pipelines.evaluation.cases import gain_over
from pipelines.schemas import Metric

MODEL_CASE = "headrace"
OVER_SEEDS = " over seeds"
RowValues = Mapping[str, np.ndarray]
"""metric -> float64 `(n,)`, NaN for a row that does not count."""


class RecordBook:
    """Collects the records of one bench.

    Args:
        data: Name of the data, as it stands in the records.
        bootstrap: Resamples of the rows, the same for every case.
    """

    def __init__(self, bench: str, data: str, bootstrap: UserBootstrap) -> None:
        self._bench = bench
        self._data = data
        self._bootstrap = bootstrap
        self._means: dict[str, RowValues] = {}
        self._seeds: dict[str, int] = {}
        self.records: list[BenchmarkRecord] = []

    def add(self, case: str, metric: str, found: Metric, *, seeds: int, unit: str = "") -> None:
        """Add one number."""
        self.records.append(
            BenchmarkRecord(
                bench=self._bench,
                data=self._data,
                case=case,
                metric=metric,
                unit=unit,
                seeds=seeds,
                **found.model_dump(),
            )
        )

    def add_rows(self, case: str, per_seed: Sequence[RowValues], over_seeds: Sequence[str]) -> None:
        """Add the mean over rows of every metric; with several seeds a row counts with its mean over them.

        Args:
            over_seeds: Metrics whose lowest and highest seed are added too.
        """
        means = {name: np.mean([found[name] for found in per_seed], axis=0) for name in per_seed[0]}
        self._means[case], self._seeds[case] = means, len(per_seed)
        for name, values in means.items():
            if (found := self._bootstrap.mean(values)) is not None:
                self.add(case, name, found, seeds=len(per_seed))
        counted = [name for name in over_seeds if np.isfinite(means[name]).any()]
        for name in counted if len(per_seed) > 1 else ():
            of_seeds = [float(np.nanmean(one[name])) for one in per_seed]
            spread = Metric(value=float(np.mean(of_seeds)), low=min(of_seeds), high=max(of_seeds))
            self.add(case, name + OVER_SEEDS, spread, seeds=len(per_seed))

    def add_list_value(self, case: str, metric: str, per_seed: Sequence[np.ndarray], unit: str = "") -> None:
        """Add what lists are like: float64 one value a row `(n,)`, or one value for all of them `()`."""
        values = np.mean(per_seed, axis=0)
        found = self._bootstrap.mean(values) if values.ndim else Metric(value=float(values))
        if found is not None:
            self.add(case, metric, found, seeds=len(per_seed), unit=unit)

    def add_gains(self, baselines: Sequence[str], metrics: Iterable[str], best_by: str) -> None:
        """Add what the model gains, row by row, over the best baseline and over its own ablations.

        Args:
            metrics: Those of one table.
            best_by: The metric that says which baseline is the best in that table.
        """
        if MODEL_CASE not in self._means:
            return
        measured = [case for case in baselines if np.isfinite(self._means.get(case, {}).get(best_by, np.nan)).any()]
        best = [max(measured, key=lambda case: float(np.nanmean(self._means[case][best_by])))] if measured else []
        own = self._means[MODEL_CASE]
        for other in (*best, *(case for case in self._means if case not in (*baselines, MODEL_CASE))):
            for name in metrics:
                if (gain := self._bootstrap.mean(own[name] - self._means[other][name])) is not None:
                    self.add(f"{MODEL_CASE}: {gain_over(other)}", name, gain, seeds=self._seeds[MODEL_CASE])


def section(
    title: str, records: Sequence[BenchmarkRecord], metrics: Sequence[str], *, gains: bool = False, without: str = ""
) -> str:
    """Return a titled table of these metrics in this order, "" where there is none of them.

    Args:
        gains: Take the paired gains instead of the cases themselves.
        without: What the columns' names leave out, because the title says it.
    """
    kept = [record for record in records if record.metric in metrics and (gain_over("") in record.case) == gains]
    if not kept:
        return ""
    order = list(dict.fromkeys(record.case for record in kept))
    kept.sort(key=lambda record: (order.index(record.case), metrics.index(record.metric)))
    named = [record.model_copy(update={"metric": record.metric.replace(without, "")}) for record in kept]
    return f"{title}\n{records_table(named, decimals=4, signed=gains)}"

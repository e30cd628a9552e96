"""What benchmarks write."""

import json

from pipelines.benchmarks.records import BenchmarkRecord, records_table, write_records


def record(
    case: str, metric: str, value: float, low: float | None = None, high: float | None = None
) -> BenchmarkRecord:
    return BenchmarkRecord(
        bench="serving", data="toy", case=case, metric=metric, value=value, low=low, high=high, unit="ms", seeds=3
    )


RECORDS = [record("fast", "p50_ms", 1.5, 1.0, 2.0), record("fast", "p99_ms", 9.0), record("naive", "p50_ms", 80.0)]


def test_the_file_is_a_list_with_the_agreed_fields(tmp_path):
    write_records(RECORDS, tmp_path / "bench.json")
    written = json.loads((tmp_path / "bench.json").read_text())
    assert written[0] == {
        "bench": "serving",
        "data": "toy",
        "case": "fast",
        "metric": "p50_ms",
        "value": 1.5,
        "low": 1.0,
        "high": 2.0,
        "unit": "ms",
        "seeds": 3,
    }
    assert len(written) == 3


def test_the_table_has_a_line_a_case_and_intervals_behind_values():
    assert records_table(RECORDS).splitlines() == [
        "case   p50_ms             p99_ms",
        "fast   1.50 [1.00, 2.00]  9.00",
        "naive  80.00",
    ]

"""Odd bodies, and what a soak counts; the whole of it is slow."""

import itertools
from collections import Counter

import pytest

from pipelines.benchmarks.mixed_load import Entry, Ledger
from pipelines.benchmarks.odd_bodies import CALLS, RAW, odd_requests
from pipelines.benchmarks.soak import Outcome, soak

GOOD = Ledger([Entry("search", 0, 0.01, 200, "")])


def outcome(**changes) -> Outcome:
    samples = [(float(second), 300.0 if second < 120 else 400.0) for second in range(600)]
    return Outcome(
        **{"seconds": 600.0, "ledger": GOOD, "odd_statuses": Counter({422: 9}), "memory_mib": samples, **changes}
    )


def grown(mib: float) -> list[tuple[float, float]]:
    return [(float(second), 400.0 + mib * second / 600) for second in range(600)]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        pytest.param({}, None, id="what grows in the warm-up does not count"),
        pytest.param({"memory_mib": grown(20)}, None, id="grows a little"),
        pytest.param({"memory_mib": grown(60)}, "memory grew by 40.8 MiB, 24 are allowed", id="grows"),
        pytest.param({"memory_mib": grown(0)[:100]}, "memory grew by nan MiB, 24 are allowed", id="not measured"),
        pytest.param(
            {"odd_statuses": Counter({422: 9, 500: 2, 0: 1}), "odd_problems": ["/search b'{': status 500"]},
            "3 odd bodies got a 5xx or no answer (/search b'{': status 500)",
            id="5xx",
        ),
        pytest.param({"odd_statuses": Counter()}, "no odd body was sent", id="nothing sent"),
        pytest.param({"restarts": 1}, "the worker ended and was started again 1 times", id="crash"),
        pytest.param(
            {"ledger": Ledger([Entry("search", 0, 1, 500, "status 500")])},
            "1 of 1 requests failed (1 x /search: status 500)",
            id="failed",
        ),
    ],
)
def test_what_must_not_be(changes, problem):
    assert outcome(**changes).problems == ([] if problem is None else [problem])


def test_odd_bodies_are_many_and_the_same_again():
    first = list(itertools.islice(odd_requests("item", 1), 1_200))
    assert all(a == b for a, b in zip(first, odd_requests("item", 1), strict=False))
    assert {call for call, _ in first} == set(CALLS)
    assert len(set(first)) > 1_000
    assert {raw for _, raw in first} >= set(RAW)


@pytest.mark.slow
def test_a_short_soak_from_end_to_end(tmp_path):
    found = soak(minutes=0.2, rate=10, odd_rate=20, work_dir=tmp_path)
    assert found.restarts == 0
    assert sum(found.odd_statuses.values()) > 100
    assert not [status for status in found.odd_statuses if status == 0 or status == 500]
    assert not found.ledger.failures

"""What the gate hears of a challenger that was a shadow."""

import pytest

from pipelines.promotion.shadow_findings import shadow_findings
from pipelines.rollout.shadow_summary import ShadowSummary
from pipelines.schemas import Metric


def summary(requests, *, errors=0, empty=0, overlap=None):
    found = Metric(value=overlap) if overlap else None
    return ShadowSummary(
        live="b1",
        shadow="b2",
        requests=requests,
        errors=errors,
        empty=empty,
        overlap=found,
        live_ms={},
        shadow_ms={},
    )


@pytest.mark.parametrize(
    ("requests", "errors", "empty", "passed"),
    [
        pytest.param(100, 0, 0, True, id="nothing went wrong"),
        pytest.param(100, 1, 2, True, id="3 or more of 100 happen by chance at 1 %: 7.9 %"),
        pytest.param(100, 2, 2, False, id="4 or more of 100 do not: 1.8 %"),
        pytest.param(5, 1, 0, False, id="1 of 5 does not: 4.9 %"),
        pytest.param(6, 1, 0, True, id="1 of 6 does: 5.9 %"),
    ],
)
def test_more_bad_answers_than_chance_gives_are_refused(requests, errors, empty, passed):
    [found] = shadow_findings([summary(requests, errors=errors, empty=empty)], 0.01)
    assert found.passed == passed


def test_the_finding_says_what_was_seen():
    found = shadow_findings([summary(1_200, errors=30, empty=10, overlap=0.71)], 0.01)
    assert [one.words for one in found] == [
        "as a shadow of b1 it was asked 1,200 live requests: 30 failed, 10 were empty where b1 found something; 71% of "
        "the live answers' first ten are among its own; 1% are allowed"
    ]


def test_who_was_no_shadow_has_no_finding():
    assert shadow_findings([], 0.01) == []

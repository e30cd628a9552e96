"""Who becomes the champion, and in which words the gate says no."""

from datetime import UTC, datetime

import pytest

from pipelines.config import PromotionConfig
from pipelines.promotion.gate import decide_promotion
from pipelines.schemas import EvaluationReport, Metric

POLICY = PromotionConfig(min_gain=0.0, max_regression=0.0, floor_cases=("popularity", "untouched_encoder"))


def report(gains, *, own=0.30, finite=1.0, recommend_ms=5.0):
    """A report in which the challenger reaches `own`, with a gain (value, low, high) over each case."""
    metrics = {"headrace": {"recall@10": Metric(value=own), "finite_share": Metric(value=finite)}}
    for case, (value, low, high) in gains.items():
        metrics[case] = {"recall@10": Metric(value=own - value)}
        metrics[f"gain over {case}"] = {"recall@10": Metric(value=value, low=low, high=high)}
    return EvaluationReport(
        run="r",
        bundle="b2",
        test_start=datetime(2017, 12, 24, tzinfo=UTC),
        test_end=datetime(2017, 12, 31, tzinfo=UTC),
        users=100,
        metrics=metrics,
        latency_ms={"recommend_p50": recommend_ms, "recommend_p99": 99.0},
        report=None,
    )


FLOOR = {"popularity": (0.10, 0.08, 0.12), "untouched_encoder": (0.20, 0.18, 0.22)}


@pytest.mark.parametrize(
    ("gains", "changes", "size_mib", "passed", "reason"),
    [
        pytest.param(
            FLOOR,
            {},
            100,
            True,
            "recall@10 0.3000 against 0.2000 of popularity, gain +0.1000 (95 % interval +0.0800 to +0.1200)",
            id="first run above the floor",
        ),
        pytest.param(
            FLOOR | {"popularity": (0.01, -0.001, 0.02)},
            {},
            100,
            False,
            "recall@10 0.3000 against 0.2900 of popularity, gain +0.0100 (95 % interval -0.0010 to +0.0200): "
            "not above zero with 95 % confidence",
            id="first run not surely above the floor",
        ),
        pytest.param(
            {"popularity": FLOOR["popularity"]},
            {},
            100,
            False,
            "the report has no recall@10 gain over untouched_encoder: evaluate again with that case",
            id="floor case was not measured",
        ),
        pytest.param(
            {"champion": (0.02, 0.005, 0.035)},
            {},
            100,
            True,
            "recall@10 0.3000 against 0.2800 of champion, gain +0.0200 (95 % interval +0.0050 to +0.0350)",
            id="clear gain over the champion, the floor is not asked again",
        ),
        pytest.param(
            {"champion": (-0.02, -0.035, -0.005)},
            {},
            100,
            False,
            "recall@10 0.3000 against 0.3200 of champion, gain -0.0200 (95 % interval -0.0350 to -0.0050): "
            "the gain must be above 0",
            id="worse than the champion",
        ),
        pytest.param(
            {"champion": (0.01, -0.01, 0.03)},
            {},
            100,
            False,
            "recall@10 0.3000 against 0.2900 of champion, gain +0.0100 (95 % interval -0.0100 to +0.0300): "
            "the interval may not go below 0.0000",
            id="gain that may be chance",
        ),
        pytest.param(
            {"champion": (0.1, None, None)},
            {},
            100,
            False,
            "recall@10 0.3000 against 0.2000 of champion, gain +0.1000: too few users for an interval",
            id="one user only",
        ),
        pytest.param(
            FLOOR,
            {"recommend_ms": 31.0},
            100,
            False,
            "recommend_p50 takes 31.0 ms at the median, over the budget of 30 ms",
            id="too slow",
        ),
        pytest.param(FLOOR, {}, 601, False, "the bundle has 601 MiB, over the budget of 600 MiB", id="too large"),
        pytest.param(
            FLOOR, {"finite": 0.99}, 100, False, "1.00% of the challenger's scores are not finite numbers", id="NaN"
        ),
    ],
)
def test_answer_of_the_gate(gains, changes, size_mib, passed, reason):
    answer = decide_promotion(report(gains, **changes), size_mib, POLICY)
    assert answer.passed == passed
    assert answer.reasons[0] == reason


def test_a_small_regression_can_be_allowed():
    # the champion has 0.29, so 5 % of it is 0.0145
    allowed = POLICY.model_copy(update={"max_regression": 0.05})
    assert decide_promotion(report({"champion": (0.01, -0.0144, 0.03)}), 100, allowed).passed
    assert not decide_promotion(report({"champion": (0.01, -0.0146, 0.03)}), 100, allowed).passed


def test_every_objection_is_named():
    answer = decide_promotion(report({"popularity": (0.0, -0.1, 0.1)}, finite=0.5, recommend_ms=40), 700, POLICY)
    assert len(answer.reasons) == 5


def test_a_report_without_the_deciding_metric_is_refused():
    policy = POLICY.model_copy(update={"metric": "ndcg@10"})
    answer = decide_promotion(report(FLOOR), 100, policy)
    assert answer.reasons[0] == "the report has no ndcg@10 of the challenger (it has: finite_share, recall@10)"

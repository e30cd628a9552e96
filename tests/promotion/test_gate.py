"""Who becomes the champion, and in which words the gate says no."""

from datetime import UTC, datetime

import pytest
from pydantic import ValidationError

from pipelines.config import PromotionConfig
from pipelines.promotion.gate import decide_promotion
from pipelines.schemas import EvaluationReport, Finding, Metric

POLICY = PromotionConfig(floor_cases=("popularity", "untouched_encoder"))
FLOOR = {"popularity": (0.10, 0.08, 0.12), "untouched_encoder": (0.20, 0.18, 0.22)}
CHEAP = {"recommend_p50_ms": 5.0, "recommend_p95_ms": 9.0, "memory_mib": 300.0, "size_mib": 100.0}


def report(gains, *, own=0.30, finite=1.0, costs=None, champion_costs=None, **changes):
    """A report in which the challenger reaches `own`, with a gain (value, low, high) over each case.

    Beside a champion the cases of the floor are there too, all clearly beaten.
    """
    if "champion" in gains:
        gains = FLOOR | gains
    metrics = {"headrace": {"recall@10": Metric(value=own), "finite_share": Metric(value=finite)}}
    for case, (value, low, high) in gains.items():
        metrics[case] = {"recall@10": Metric(value=own - value)}
        metrics[f"gain over {case}"] = {"recall@10": Metric(value=value, low=low, high=high)}
    found = EvaluationReport(
        run="r",
        bundle="b2",
        test_start=datetime(2017, 12, 24, tzinfo=UTC),
        test_end=datetime(2017, 12, 31, tzinfo=UTC),
        users=100,
        metrics=metrics,
        latency_ms={},
        report=None,
        costs={"headrace": {**CHEAP, **(costs or {})}, "champion": {**CHEAP, **(champion_costs or {})}},
    )
    return found.model_copy(update=changes)


def with_values(found, case, **values):
    """Return the report with further metrics of a case; `__` stands for a dot."""
    more = {name.replace("__", "."): Metric(value=value) for name, value in values.items()}
    return found.model_copy(update={"metrics": {**found.metrics, case: {**found.metrics[case], **more}}})


@pytest.mark.parametrize(
    ("gains", "changes", "passed", "reason"),
    [
        pytest.param(
            FLOOR,
            {},
            True,
            "recall@10 0.3000 against 0.2000 of popularity, gain +0.1000 (95 % interval +0.0800 to +0.1200)",
            id="first run above the floor",
        ),
        pytest.param(
            FLOOR | {"popularity": (0.01, -0.001, 0.02)},
            {},
            False,
            "recall@10 0.3000 against 0.2900 of popularity, gain +0.0100 (95 % interval -0.0010 to +0.0200): "
            "not above zero with 95 % confidence",
            id="first run not surely above the floor",
        ),
        pytest.param(
            {"popularity": FLOOR["popularity"]},
            {},
            False,
            "the report has no recall@10 gain over untouched_encoder: evaluate again with that case",
            id="floor case was not measured",
        ),
        pytest.param(
            {"champion": (0.02, 0.005, 0.035)},
            {},
            True,
            "recall@10 0.3000 against 0.2800 of champion, gain +0.0200 (95 % interval +0.0050 to +0.0350); policy "
            "gain: the challenger is neither fresher nor smaller, so it must be better",
            id="clear gain over the champion",
        ),
        pytest.param(
            {"champion": (0.02, 0.005, 0.035), "popularity": (-0.02, -0.03, -0.01)},
            {},
            False,
            "recall@10 0.3000 against 0.3200 of popularity, gain -0.0200 (95 % interval -0.0300 to -0.0100): surely "
            "worse than this baseline",
            id="champion and challenger are both below a baseline",
        ),
        pytest.param(
            {"champion": (-0.02, -0.035, -0.005)},
            {},
            False,
            "recall@10 0.3000 against 0.3200 of champion, gain -0.0200 (95 % interval -0.0350 to -0.0050); policy "
            "gain: the challenger is neither fresher nor smaller, so it must be better: the gain must be above 0",
            id="worse than the champion",
        ),
        pytest.param(
            {"champion": (0.01, -0.01, 0.03)},
            {},
            False,
            "recall@10 0.3000 against 0.2900 of champion, gain +0.0100 (95 % interval -0.0100 to +0.0300); policy "
            "gain: the challenger is neither fresher nor smaller, so it must be better: the interval may not go below "
            "0.0000",
            id="gain that may be chance",
        ),
        pytest.param(
            {"champion": (0.01, -0.01, 0.03)},
            {"is_fresher": True},
            True,
            "recall@10 0.3000 against 0.2900 of champion, gain +0.0100 (95 % interval -0.0100 to +0.0300); policy "
            "non_inferior: the challenger is fresher, so not being worse is enough",
            id="fresher, and not worse",
        ),
        pytest.param(
            {"champion": (-0.003, -0.01, 0.004)},
            {"is_smaller": True},
            True,
            "recall@10 0.3000 against 0.3030 of champion, gain -0.0030 (95 % interval -0.0100 to +0.0040); policy "
            "non_inferior: the challenger is smaller, so not being worse is enough",
            id="smaller, and 1 % below the champion",
        ),
        pytest.param(
            {"champion": (-0.01, -0.012, -0.008)},
            {"is_fresher": True, "is_smaller": True},
            False,
            "recall@10 0.3000 against 0.3100 of champion, gain -0.0100 (95 % interval -0.0120 to -0.0080); policy "
            "non_inferior: the challenger is fresher and smaller, so not being worse is enough: it surely loses more "
            "than 1% of what the champion reaches",
            id="a small step down is still one",
        ),
        pytest.param(
            {"champion": (0.0, -0.04, 0.04)},
            {"is_fresher": True},
            False,
            "recall@10 0.3000 against 0.3000 of champion, gain +0.0000 (95 % interval -0.0400 to +0.0400); policy "
            "non_inferior: the challenger is fresher, so not being worse is enough: a loss of more than 10% (-0.0300) "
            "cannot be ruled out; more test users can tell",
            id="too few users to rule out a loss",
        ),
        pytest.param(
            {"champion": (0.1, None, None)},
            {},
            False,
            "recall@10 0.3000 against 0.2000 of champion, gain +0.1000; policy gain: the challenger is neither fresher "
            "nor smaller, so it must be better: too few users for an interval",
            id="one user only",
        ),
        pytest.param(
            FLOOR,
            {"finite": 0.99},
            False,
            "1.00% of the challenger's scores are not finite numbers",
            id="NaN",
        ),
        pytest.param(
            FLOOR,
            {"findings": (Finding(name="receipt", passed=False, words="the bundle has no receipt"),)},
            False,
            "the bundle has no receipt",
            id="a finding",
        ),
    ],
)
def test_answer_of_the_gate(gains, changes, passed, reason):
    answer = decide_promotion(report(gains, **changes), POLICY)
    assert (answer.passed, answer.reasons[0]) == (passed, reason)


@pytest.mark.parametrize(
    ("costs", "champion_costs", "reasons"),
    [
        pytest.param(
            {"recommend_p50_ms": 31.0},
            {"recommend_p50_ms": 20.0},
            ["recommend at p50 is 31.0 ms, over the budget of 30 ms"],
            id="over the budget",
        ),
        pytest.param(
            {"search_p50_ms": 9.0},
            {"search_p50_ms": 4.0},
            ["search at p50 is 9.0 ms, 2.2 times the champion's 4.0 ms; 2 times is allowed"],
            id="more than twice as slow",
        ),
        pytest.param({"search_p50_ms": 1.9}, {"search_p50_ms": 0.2}, [], id="slower by what nobody notices"),
        pytest.param({"recommend_p95_ms": 18.0}, {}, [], id="one answer in twenty was interrupted"),
        pytest.param(
            {"recommend_p95_ms": 101.0},
            {"recommend_p95_ms": 99.0},
            ["recommend at p95 is 101.0 ms, over the budget of 100 ms"],
            id="the slow answers are too slow",
        ),
        pytest.param(
            {"memory_mib": 2_001.0},
            {},
            [
                "memory is 2001.0 MiB, over the budget of 2000 MiB",
                "memory is 2001.0 MiB, 6.7 times the champion's 300.0 MiB; 2 times is allowed",
            ],
            id="memory",
        ),
        pytest.param(
            {"size_mib": 601.0}, {"size_mib": 500.0}, ["size is 601.0 MiB, over the budget of 600 MiB"], id="size"
        ),
        pytest.param(
            {"size_mib": float("nan")}, {}, ["size is nan MiB, over the budget of 600 MiB"], id="a size that is none"
        ),
    ],
)
def test_what_serving_may_cost(costs, champion_costs, reasons):
    found = report({"champion": (0.02, 0.01, 0.03)}, costs=costs, champion_costs=champion_costs)
    answer = decide_promotion(found, POLICY)
    assert answer.passed == (not reasons)
    assert answer.passed or list(answer.reasons) == reasons


def with_slice(low, high, *, rows=50, name="tail items", champion=0.2):
    gain = (low + high) / 2
    found = report({"champion": (0.02, 0.01, 0.03)}, slice_rows={name: rows})
    metric = f"{name}.recall@10"
    metrics = {case: dict(values) for case, values in found.metrics.items()}
    metrics["headrace"][metric] = Metric(value=champion + gain)
    metrics["champion"][metric] = Metric(value=champion)
    metrics["gain over champion"][metric] = Metric(value=gain, low=low, high=high)
    return found.model_copy(update={"metrics": metrics})


def test_a_slice_that_surely_loses_more_than_the_bound_is_an_objection():
    # the bound is 20 % of 0.2
    answer = decide_promotion(with_slice(-0.1, -0.041), POLICY)
    assert answer.reasons == (
        "slice tail items: tail items.recall@10 0.1295 against 0.2000 of champion, gain -0.0705 (95 % interval -0.1000 "
        "to -0.0410): it surely loses more than 20% of what the champion reaches",
    )
    assert decide_promotion(with_slice(-0.1, -0.039), POLICY).passed
    assert decide_promotion(with_slice(-0.1, -0.041, rows=49), POLICY).passed
    searched = decide_promotion(with_slice(-0.1, -0.041, name="search.han script"), POLICY)
    assert searched.reasons[0].startswith("slice han script of search: search.han script.recall@10 0.1295")


def test_other_tables_may_not_be_lost_either():
    found = with_slice(-0.1, -0.05, name="search", rows=0)
    assert decide_promotion(found, POLICY).reasons[0].startswith("search: search.recall@10 0.1250 against 0.2000")


@pytest.mark.parametrize(
    ("own", "champion", "reason"),
    [
        pytest.param({"coverage": 0.3}, {"coverage": 0.5}, None, id="shows somewhat less"),
        pytest.param(
            {"coverage": 0.24},
            {"coverage": 0.5},
            "its recommendations show 24.00% of the catalogue, the champion's 50.00%: less than 50% of that, as of a "
            "model that shows everybody the same items",
            id="shows everybody the same",
        ),
        pytest.param(
            {"golden__titles": 0.79},
            {"golden__titles": 1.0},
            "79% of the golden titles find their item, 100% with the champion: at least 80% must",
            id="titles",
        ),
        pytest.param(
            {"golden__titles_by_vectors": 0.5},
            {"golden__titles_by_vectors": 0.9},
            "50% of the golden titles find their item by vectors alone, 90% with the champion: the encoder or its "
            "tokenizer does not fit the item vectors",
            id="vectors",
        ),
        pytest.param(
            {"same__case": 0.7},
            {},
            "capitals in a query leave 70% of its ten answers: at least 80% is wanted",
            id="capitals",
        ),
        pytest.param(
            {"same__blanks": 0.7},
            {},
            "more white space in a query leaves 70% of its ten answers: at least 80% is wanted",
            id="white space",
        ),
        pytest.param(
            {"same__again": 0.99},
            {},
            "99% of the users get the same answer when they ask again: at least 100% is wanted",
            id="another answer each time",
        ),
        pytest.param(
            {"tied": 0.6},
            {},
            "equal scores at the border of the first ten in 60% of the recommendations: the order of the catalogue "
            "decides there, and may in 50%",
            id="ties",
        ),
    ],
)
def test_what_a_sound_challenger_is_like(own, champion, reason):
    found = report({"champion": (0.02, 0.01, 0.03)})
    found = with_values(with_values(found, "headrace", **own), "champion", **champion)
    answer = decide_promotion(found, POLICY)
    assert answer.passed == (reason is None)
    if reason:
        assert answer.reasons == (reason,)


def test_towers_that_gain_on_the_test_window_alone_are_suspicious():
    found = report({"champion": (0.02, 0.01, 0.03)})
    dense = {"headrace_dense": {"ndcg@10": Metric(value=0.5)}}

    def jump(low):
        own = {**found.metrics["headrace"], "window_jump": Metric(value=0.3, low=low, high=0.5)}
        return found.model_copy(update={"metrics": {**found.metrics, **dense, "headrace": own}})

    assert decide_promotion(jump(0.09), POLICY).passed  # 20 % of 0.5 is 0.1
    assert (
        decide_promotion(jump(0.11), POLICY)
        .reasons[0]
        .startswith(
            "suspiciously good: the towers' gain in ndcg@10 is +0.3000 (at least +0.1100) larger on the test window"
        )
    )


def test_a_challenger_that_does_not_open_has_this_one_reason():
    closed = Finding(name="opens", passed=False, words="the challenger cannot be opened: encoder.onnx is missing")
    answer = decide_promotion(report({}, findings=(closed,)), POLICY)
    assert answer.reasons == ("the challenger cannot be opened: encoder.onnx is missing",)


def test_a_small_regression_can_be_allowed():
    # the champion has 0.29, so 5 % of it is 0.0145
    allowed = POLICY.model_copy(update={"max_regression": 0.05})
    assert decide_promotion(report({"champion": (0.01, -0.0144, 0.03)}), allowed).passed
    assert not decide_promotion(report({"champion": (0.01, -0.0146, 0.03)}), allowed).passed


def test_the_policy_can_be_chosen():
    fresher = report({"champion": (0.01, -0.01, 0.03)}, is_fresher=True)
    strict = POLICY.model_copy(update={"policy": "gain"})
    assert (
        "policy gain: as `promotion.policy` says: the interval may not" in decide_promotion(fresher, strict).reasons[0]
    )
    lenient = POLICY.model_copy(update={"policy": "non_inferior"})
    assert decide_promotion(report({"champion": (0.01, -0.01, 0.03)}), lenient).passed


def test_every_objection_is_named():
    costs = {"recommend_p50_ms": 40.0, "size_mib": 700.0}
    found = report({"popularity": (0.0, -0.1, 0.1)}, finite=0.5, costs=costs, champion_costs=costs)
    assert len(decide_promotion(found, POLICY).reasons) == 5


def test_a_metric_that_was_not_measured_is_told_from_one_that_no_row_counts_for():
    policy = POLICY.model_copy(update={"metric": "ndcg@10"})
    answer = decide_promotion(report(FLOOR), policy)
    assert answer.reasons[0] == "no row of the test window counts for ndcg@10 of the challenger"
    assert answer.reasons[1] == (
        "no row of the test window counts for ndcg@10, so nothing can be compared with popularity: bring more days, or "
        "choose another `promotion.metric`"
    )


@pytest.mark.parametrize("gains", [FLOOR, {"champion": (0.02, 0.005, 0.035)}], ids=["first run", "later run"])
def test_a_case_of_the_floor_that_was_not_measured_is_never_passed_over(gains):
    policy = PromotionConfig(floor_cases=("item_knn",))
    missing = "the report has no recall@10 gain over item_knn: evaluate again with that case"
    assert decide_promotion(report(gains), policy).reasons == (missing,)


@pytest.mark.parametrize(
    ("new", "whole", "expected"),
    [
        pytest.param((0.03, 0.01, 0.05), (-0.01, -0.03, 0.01), None, id="new items alone"),
        pytest.param((0.003, -0.001, 0.006), (0.1, 0.09, 0.11), None, id="the whole basket, a tie in new items"),
        pytest.param((0.003, -0.001, 0.006), (0.01, -0.01, 0.03), "neither is above zero", id="two ties"),
        pytest.param((-0.02, -0.03, -0.01), (0.1, 0.09, 0.11), "the first is surely below zero", id="worse in new"),
    ],
)
def test_a_first_challenger_may_beat_the_floor_at_the_whole_basket(new, whole, expected):
    found = report({"popularity": new})
    name = "next_basket.recall@10"
    more = {
        "headrace": Metric(value=0.5),
        "popularity": Metric(value=0.5 - whole[0]),
        "gain over popularity": Metric(value=whole[0], low=whole[1], high=whole[2]),
    }
    metrics = {case: {**values, name: more[case]} for case, values in found.metrics.items()}
    answer = decide_promotion(
        found.model_copy(update={"metrics": metrics}), PromotionConfig(floor_cases=("popularity",))
    )
    assert answer.passed is (expected is None)
    assert expected is None or expected in answer.reasons[0]


def test_a_floor_that_no_evaluation_measures_is_no_setting():
    with pytest.raises(ValidationError, match="'popularity', 'item_knn', 'untouched_encoder' or 'headrace_dense'"):
        PromotionConfig(floor_cases=("popularty",))

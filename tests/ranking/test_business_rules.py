"""Which rules apply, and to which items, on the toy catalogue."""

from datetime import UTC, datetime

import numpy as np
import pytest

from pipelines.inference.bundle import load_bundle
from pipelines.ranking.business_rules import BundleRules, Occasion, RuleBook
from tests.toys.toy_bundle import write_toy_bundle

NOW_S = datetime(2026, 3, 1, 12, tzinfo=UTC).timestamp()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles") / "b1"
    write_toy_bundle(folder)
    return load_bundle(folder)


def effect_of(bundle, *rules, occasion=None):
    book = RuleBook.model_validate({"rules": [{"id": f"r{number}", **rule} for number, rule in enumerate(rules)]})
    return BundleRules(book, bundle).effect(occasion or Occasion("recommend", NOW_S))


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        pytest.param({}, "abcdef", id="all, available or not"),
        pytest.param({"categories": ["FRUIT"]}, "abc", id="category, any case"),
        pytest.param({"brands": ["Mill", "Nobody"]}, "de", id="brand"),
        pytest.param({"brands": ["Nobody"]}, "", id="unknown brand, not those without one"),
        pytest.param({"item_ids": ["f", "a", "gone"]}, "af", id="items"),
        pytest.param({"min_price": 2, "max_price": 4}, "bcd", id="price, ends included, none has no price"),
        pytest.param({"categories": ["Fruit"], "brands": ["Orchard"], "max_price": 1}, "a", id="all must hold"),
    ],
)
def test_items_of_a_condition(bundle, condition, expected):
    effect = effect_of(bundle, {"items": condition, "bury": True})
    assert "".join(item for row, item in enumerate("abcdef") if effect.buried[effect.patterns[row]]) == expected
    rules = BundleRules(RuleBook.model_validate({"rules": [{"id": "r", "items": condition, "bury": True}]}), bundle)
    assert rules.unmatched == (() if expected else ("r",))


@pytest.mark.parametrize(
    ("when", "applies"),
    [
        pytest.param({}, True, id="always"),
        pytest.param({"calls": ["recommend", "similar"]}, False, id="another call"),
        pytest.param({"calls": ["search"]}, True, id="its call"),
        pytest.param({"queries": [" oat  MILK"]}, True, id="the query, white space and case aside"),
        pytest.param({"queries": ["oat", "milk"]}, False, id="a part of the query"),
        pytest.param({"context": {"page": ["home", "basket"], "device": "phone"}}, True, id="context"),
        pytest.param({"context": {"page": "other"}}, False, id="another value"),
        pytest.param({"context": {"place": "home"}}, False, id="a field that was not sent"),
        pytest.param({"starts": "2026-03-01T12:00:00Z"}, True, id="its first moment"),
        pytest.param({"ends": "2026-03-01T12:00:00+00:00"}, False, id="over"),
        pytest.param(
            {"starts": datetime(2026, 3, 1, tzinfo=UTC).date(), "ends": "2026-03-02T00:00:00Z"}, True, id="day"
        ),
    ],
)
def test_requests_of_a_condition(bundle, when, applies):
    occasion = Occasion("search", NOW_S, "Oat milk", {"page": "home", "device": "phone"})
    assert (effect_of(bundle, {"when": when, "exclude": True}, occasion=occasion) is not None) is applies


def test_boosts_multiply_and_only_rules_that_apply_count(bundle):
    effect = effect_of(
        bundle,
        {"items": {"categories": ["Fruit"]}, "boost": 2},
        {"items": {"brands": ["Orchard"]}, "boost": 0.25},
        {"when": {"calls": ["search"]}, "boost": 9},
        {"items": {"item_ids": ["e"]}, "bury": True},
    )
    factors = effect.factors[effect.patterns]
    assert factors.tolist() == pytest.approx([0.5, 0.5, 2, 1, 1, 1])
    assert [effect.touching(row) for row in (0, 2, 3, 4)] == [["r0", "r1"], ["r0"], [], ["r3"]]


def test_pins_are_the_known_items_of_the_condition_in_the_order_of_the_rule(bundle):
    effect = effect_of(bundle, {"items": {"item_ids": ["d", "gone", "a"]}, "pin": 3})
    assert [(pin.position, pin.row) for pin in effect.pins] == [(3, 3), (3, 0)]
    cheap = effect_of(bundle, {"items": {"item_ids": ["d", "a"], "max_price": 1}, "pin": 1})
    assert [(pin.position, pin.row) for pin in cheap.pins] == [(1, 0)]


def test_hundreds_of_rules_share_patterns(bundle):
    rng = np.random.default_rng(3)
    conditions = [sorted(rng.choice(list("abcdef"), rng.integers(1, 6), replace=False).tolist()) for _ in range(400)]
    rules = [{"items": {"item_ids": items}, "boost": 2} for items in conditions]
    effect = effect_of(bundle, *rules)
    for row, item in enumerate("abcdef"):
        assert effect.touching(row) == [f"r{n}" for n, items in enumerate(conditions) if item in items]
    assert effect.factors.max() == pytest.approx(1e6)

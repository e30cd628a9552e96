"""The ordering stage: worked examples, and what must hold whatever the scores and rules are."""

import itertools

import numpy as np
import pytest

from pipelines.inference.bundle import load_bundle
from pipelines.ranking.arrangement import Diversity, Page, arrange
from pipelines.ranking.business_rules import BundleRules, Occasion, RuleBook
from pipelines.ranking.exploration import Exploration
from tests.toys.toy_bundle import write_toy_bundle

ITEMS = "abcdef"
"""a, b (Fruit, Orchard), c (Fruit), d (Bakery, Mill), e (Dairy, Mill), f (Bakery)."""
ROWS = np.arange(6)
SCORES = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4], np.float32)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles") / "b1"
    write_toy_bundle(folder)
    return load_bundle(folder)


@pytest.fixture
def effect_of(bundle):
    def effect(*rules):
        book = RuleBook.model_validate({"rules": [{"id": f"r{number}", **rule} for number, rule in enumerate(rules)]})
        return BundleRules(book, bundle).effect(Occasion("recommend", 0.0))

    return effect


def shown(arranged) -> str:
    return "".join(ITEMS[row] for row in arranged.rows)


FRUIT = {"categories": ["Fruit"]}


@pytest.mark.parametrize(
    ("rules", "expected", "touching"),
    [
        pytest.param([], "abcdef", (), id="nothing"),
        pytest.param([{"items": FRUIT, "exclude": True}], "def", ("r0",), id="exclude"),
        pytest.param(
            [{"items": {"item_ids": ["f"]}, "boost": 2}], "abfcde", ("r0",), id="boost: 0.8, a tie, goes behind"
        ),
        pytest.param([{"items": FRUIT, "boost": 0.5}], "deabfc", ("r0",), id="boost below 1; the tie goes by score"),
        pytest.param([{"items": FRUIT, "bury": True}], "defabc", ("r0",), id="bury"),
        pytest.param([{"items": {"item_ids": ["e"]}, "pin": 2}], "aebcdf", ("r0",), id="pin"),
        pytest.param([{"items": {"item_ids": ["e", "a"]}, "pin": 3}], "bceadf", ("r0",), id="pins in a row"),
        pytest.param(
            [{"items": {"item_ids": ["e"]}, "pin": 2}, {"items": {"item_ids": ["f"]}, "pin": 2}],
            "aefbcd",
            ("r0", "r1"),
            id="two pins at one position",
        ),
        pytest.param([{"cap": {"per": "category", "most": 1}}], "ade", ("r0",), id="cap"),
        pytest.param(
            [{"items": FRUIT, "cap": {"per": "category", "most": 2}}], "abdef", ("r0",), id="cap on some items"
        ),
        pytest.param([{"cap": {"per": "brand", "most": 1}}], "acdf", ("r0",), id="no brand is no brand to cap"),
        pytest.param(
            [{"items": {"item_ids": ["e"]}, "pin": 3}, {"cap": {"per": "brand", "most": 1}}],
            "acef",
            ("r0", "r1"),
            id="a pin counts in the cap before all others",
        ),
        pytest.param(
            [{"items": {"item_ids": ["a"]}, "pin": 1}, {"items": FRUIT, "exclude": True}],
            "def",
            ("r1",),
            id="exclude wins over a pin",
        ),
        pytest.param(
            [{"items": FRUIT, "bury": True}, {"items": {"item_ids": ["c"]}, "boost": 9}],
            "defcab",
            ("r0", "r1"),
            id="what is buried stays behind",
        ),
        pytest.param([{"items": {"item_ids": ["b"]}, "pin": 50}], "acdefb", (), id="a pin beyond the list is its end"),
    ],
)
def test_rules(effect_of, rules, expected, touching):
    effect = effect_of(*rules) if rules else None
    arranged = arrange(ROWS, SCORES, Page(k=6), effect=effect)
    assert (shown(arranged), arranged.rules) == (expected, touching)
    assert arranged.propensities == (1.0,) * len(expected)
    assert arranged.places.tolist() == arranged.rows.tolist()


def test_a_pin_that_was_not_scored_is_shown_and_a_barred_one_is_not(effect_of):
    pin = effect_of({"items": {"item_ids": ["f", "e"]}, "pin": 1})
    arranged = arrange(ROWS[:3], SCORES[:3], Page(k=3, barred=lambda row: row == 5), effect=pin)
    assert (shown(arranged), arranged.places.tolist(), arranged.pinned) == ("eab", [-1, 0, 1], {4: "r0"})


def test_a_pin_beyond_a_short_list_stands_at_its_end(effect_of):
    pin = effect_of({"items": {"item_ids": ["a"]}, "pin": 9})
    assert shown(arrange(ROWS[:3], SCORES[:3], Page(k=10), effect=pin)) == "bca"


def test_pages_show_everything_once_and_pins_at_their_positions(effect_of):
    effect = effect_of(
        {"items": {"item_ids": ["e"]}, "pin": 4},
        {"items": {"item_ids": ["a"]}, "boost": 0.1},
        {"cap": {"per": "category", "most": 1}},
    )
    pages, seen = [], []
    while not pages or pages[-1].more:
        pages.append(arrange(ROWS, SCORES, Page(k=2, first=len(seen) + 1, shown=tuple(seen)), effect=effect))
        seen += pages[-1].rows.tolist()
    assert [shown(page) for page in pages] == ["bd", "ce", "fa"]
    assert [page.held_back for page in pages] == [{2: "r2"}, {}, {}]


def test_diversity_goes_after_boosts_and_before_pins(effect_of, bundle):
    vectors = bundle.item_vectors[np.arange(6)]
    diversity = Diversity(0.5, 6, lambda rows: vectors[rows])
    # red apple, then: green apple .44 - .25, green pear .39 - 0, rye bread .33 - 0, ...
    assert shown(arrange(ROWS, SCORES, Page(k=6), diversity=diversity)).startswith("ac")
    boosted = effect_of({"items": {"item_ids": ["d"]}, "boost": 2}, {"items": {"item_ids": ["f"]}, "pin": 1})
    assert shown(arrange(ROWS, SCORES, Page(k=3), effect=boosted, diversity=diversity)) == "fda"
    buried = effect_of({"items": {"item_ids": ["a", "b"]}, "bury": True})
    assert set(shown(arrange(ROWS, SCORES, Page(k=6), effect=buried, diversity=diversity))[4:]) == {"a", "b"}
    off = Diversity(0.0, 6, lambda rows: vectors[rows])
    assert shown(arrange(ROWS, SCORES, Page(k=6), diversity=off)) == ITEMS


def test_exploration_replaces_a_slot_and_says_how_likely_that_was(effect_of):
    always = Exploration(share=1.0, positions=(2,), pool=2)
    arranged = arrange(ROWS, SCORES, Page(k=3), exploration=always, seed="s")
    assert shown(arranged) in ("adc", "aec")
    assert arranged.propensities == (1.0, 0.5, 1.0)
    assert len(arranged.explored) == 1
    assert arranged.more
    fresh = arrange(ROWS[:3], SCORES[:3], Page(k=3), exploration=always, fresh=[5, 2], seed="s")
    assert (shown(fresh), fresh.propensities) == ("afc", (1.0, 1.0, 1.0))
    never = arrange(ROWS, SCORES, Page(k=3), exploration=Exploration(0.25, (2,), 2), seed=None)
    assert (shown(never), never.propensities) == ("abc", (1.0, 0.75, 1.0))
    pinned = effect_of({"items": {"item_ids": ["b"]}, "pin": 2})
    assert shown(arrange(ROWS, SCORES, Page(k=3), effect=pinned, exploration=always, seed="s")) == "abc"


def test_slots_of_a_later_page_are_positions_of_the_list():
    always = Exploration(share=1.0, positions=(4,), pool=1)
    arranged = arrange(ROWS, SCORES, Page(k=2, first=3, shown=(0, 1)), exploration=always, seed="s")
    assert (shown(arranged), arranged.propensities) == ("ce", (1.0, 1.0))


def test_propensities_are_frequencies_with_caps_and_pins(effect_of):
    """What is shown at each position over 4,000 seeds, with a cap that limits what may be drawn."""
    effect = effect_of({"items": {"item_ids": ["e"]}, "pin": 2}, {"cap": {"per": "category", "most": 1}})
    exploration, n = Exploration(0.5, (1, 2, 3), 3), 4_000
    counts: dict[tuple[int, int], int] = {}
    propensity: dict[tuple[int, int], float] = {}
    rows = np.array([0, 3, 1, 5, 2])
    for seed in range(n):
        arranged = arrange(rows, SCORES[:5], Page(k=2), effect=effect, exploration=exploration, seed=str(seed))
        for position, row in enumerate(arranged.rows.tolist()):
            counts[position, row] = counts.get((position, row), 0) + 1
            propensity[position, row] = arranged.propensities[position]
    assert set(counts) == {(0, 0), (0, 3), (1, 4)}  # of Bakery the better one alone is in the reserve
    for key, chance in propensity.items():
        assert abs(counts[key] - n * chance) <= 5 * (n * chance * (1 - chance)) ** 0.5, key


# Whatever the scores and rules are


def random_rules(rng) -> list[dict]:
    items = [FRUIT, {"brands": ["Mill"]}, {"item_ids": ["a", "d", "f"]}, {"min_price": 3.0}, {}]
    actions = [{"boost": 3.0}, {"boost": 0.3}, {"bury": True}]
    rules = [{"items": items[rng.integers(5)], **actions[rng.integers(3)]} for _ in range(rng.integers(0, 3))]
    if rng.random() < 0.6:
        pinned = rng.permutation(list(ITEMS))[: rng.integers(1, 3)].tolist()
        rules.append({"items": {"item_ids": pinned}, "pin": int(rng.integers(1, 4))})
    if rng.random() < 0.5:
        rules.append({"cap": {"per": str(rng.choice(["brand", "category"])), "most": int(rng.integers(1, 3))}})
    return rules


CASES = range(150)


def random_case(seed, effect_of, bundle):
    rng = np.random.default_rng(seed)
    rules = random_rules(rng)
    scores = np.sort(rng.random(6).astype(np.float32))[::-1]
    vectors = bundle.item_vectors[np.arange(6)]
    options = {
        "effect": effect_of(*rules) if rules else None,
        "diversity": Diversity(0.3, 6, lambda rows: vectors[rows]) if rng.random() < 0.5 else None,
        "exploration": Exploration(0.5, (2, 3), 2) if rng.random() < 0.5 else None,
        "seed": str(seed),
    }
    return rng.permutation(6), scores, int(rng.integers(2, 7)), rules, options


def test_pins_stay_caps_hold_and_nothing_comes_twice(effect_of, bundle):
    category, brand = bundle.categories[1], bundle.brands[1]
    for seed in CASES:
        rows, scores, k, rules, options = random_case(seed, effect_of, bundle)
        arranged = arrange(rows, scores, Page(k=k), **options)
        of_page = arranged.rows.tolist()
        assert len(set(of_page)) == len(of_page) <= k
        pins = [(rule["pin"], rule["items"]["item_ids"]) for rule in rules if "pin" in rule]
        for first, items in pins:
            wanted = [ITEMS.index(item) for item in items]
            for position, row in zip(itertools.count(first), wanted):
                if position <= len(of_page):
                    assert of_page[position - 1] == row, (seed, rules)
        pinned = {ITEMS.index(item) for _, items in pins for item in items}
        for cap in (rule["cap"] for rule in rules if "cap" in rule):
            codes = (brand if cap["per"] == "brand" else category)[of_page]
            for code in set(codes[codes >= 0].tolist()):
                members = [row for row, other in zip(of_page, codes.tolist(), strict=True) if other == code]
                assert len(members) <= max(cap["most"], len(pinned & set(members))), (seed, rules)


@pytest.mark.parametrize("scale", [1e-4, 50.0])
def test_the_scale_of_scores_does_not_matter(effect_of, bundle, scale):
    for seed in CASES:
        rows, scores, k, _, options = random_case(seed, effect_of, bundle)
        arranged = arrange(rows, scores, Page(k=k), **options)
        scaled = arrange(rows, scores * np.float32(scale), Page(k=k), **options)
        assert scaled.rows.tolist() == arranged.rows.tolist(), seed
        assert scaled.propensities == arranged.propensities


def test_the_same_request_is_answered_the_same(effect_of, bundle):
    for seed in CASES:
        rows, scores, k, _, options = random_case(seed, effect_of, bundle)
        first, again = (arrange(rows, scores, Page(k=k), **options) for _ in range(2))
        assert first.rows.tolist() == again.rows.tolist()


def test_all_pages_together_show_each_item_once(effect_of, bundle):
    for seed in CASES:
        rows, scores, k, rules, options = random_case(seed, effect_of, bundle)
        seen, more = [], True
        while more:
            page = Page(k=k, first=len(seen) + 1, shown=tuple(seen))
            arranged = arrange(rows, scores, page, **{**options, "seed": f"{seed}-{len(seen)}"})
            seen += arranged.rows.tolist()
            more = arranged.more
            assert len(arranged.rows), (seed, rules)
        assert sorted(seen) == sorted(rows.tolist()), (seed, rules)

"""Answers on the toy bundle with rules, pages, exploration, the log of what was shown, and explanations."""

import json
import os
import weakref
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from bentos.recommender.answering.answers import Answers
from bentos.recommender.answering.arranging import Asked
from bentos.recommender.answering.explaining import Explainer
from bentos.recommender.answering.finding import Finder
from bentos.recommender.bundles.live_bundle import LiveBundle
from bentos.recommender.bundles.serving import Serving
from bentos.recommender.contract.requests import (
    ExplainBody,
    FiltersBody,
    RecommendBody,
    RequestError,
    SearchBody,
    SimilarBody,
)
from bentos.recommender.telemetry.stopwatch import Stopwatch
from bentos.recommender.users.user_states import FeatureAnswer
from pipelines.config import ServingConfig
from pipelines.inference.bundle import load_bundle
from pipelines.inference.preprocessing import Fusion, Preprocessing, RecommendFusion, SearchFusion
from pipelines.places import Places
from pipelines.pseudonyms import Pseudonymizer
from pipelines.stores.event_log import EventLog
from pipelines.stores.serving_pointer import ServingPointer, write_pointer
from pipelines.stores.shown_lists import ShownListsLog, read_shown_lists
from tests.toys.toy_bundle import POPULARITY, User, write_toy_bundle

NOW = datetime(2026, 3, 1, tzinfo=UTC)
LONG_AGO = int(NOW.timestamp()) - 50 * 86_400
PSEUDONYMIZER = Pseudonymizer(b"a key for tests, long enough")
FUSION = Fusion(
    recommend=RecommendFusion(dense=0.5, item_to_item=0.25, popularity=0.25),
    search=SearchFusion(dense=0.5, lexical=0.5),
)
ANN = User(["a", "e"], ["view", "view"], [LONG_AGO, LONG_AGO + 60])


class Histories:
    """User features in a dictionary, by raw id."""

    is_shared = False

    def __init__(self, **users: User) -> None:
        self.users = {PSEUDONYMIZER.pseudonym(name): user for name, user in users.items()}

    def stamp(self, user_id: str) -> int:
        return id(self.users.get(user_id))

    def read_user(self, user_id: str) -> User:
        return self.users.get(user_id, User())

    def push_at_once(self, events) -> None:
        """Pushes are waited for on another thread."""

    def push_events(self, events) -> None:
        raise AssertionError("no events here")


class Shop:
    """The service's answers over `b1`, with settings of the test."""

    def __init__(self, folder, rules: str = "", log: ShownListsLog | None = None, **settings) -> None:
        self.places = Places(folder / "home")
        self.rules = folder / "rules.yaml"
        if rules:
            self.rules.write_text(rules, encoding="utf-8")
            settings["rules_file"] = self.rules
        self.features = Histories(ann=ANN)
        self.shown = log or ShownListsLog(folder / "shown", share=1, keep_days=7)
        self.log = folder / "shown"
        self.deploy("b1")
        self.live = LiveBundle(self.places, {})
        self.answers = Answers(
            live=self.live,
            features=self.features,
            event_log=EventLog(folder / "log"),
            pseudonymizer=PSEUDONYMIZER,
            serving=ServingConfig(**settings),
            shown=self.shown,
            now=lambda: NOW,
        )

    def deploy(self, bundle: str, **changes) -> None:
        """Point to a bundle, as a deployment does."""
        folder = self.places.bundles / bundle
        write_toy_bundle(folder, preprocessing=Preprocessing(fusion=FUSION), **changes)
        write_pointer(self.places.current_bundle, ServingPointer(bundle=bundle, folder=folder, deployed_at=NOW))

    def recommend(self, user="ann", **body):
        return self.answers.recommend(RecommendBody(user_id=user, **body))

    def search(self, query, **body):
        return self.answers.search(SearchBody(query=query, **body))

    def explain(self, **body):
        return self.answers.explain(ExplainBody(**body))


@pytest.fixture
def shop(tmp_path):
    opened = []

    def open_shop(rules: str = "", **options) -> Shop:
        opened.append(Shop(tmp_path, rules, **options))
        return opened[-1]

    yield open_shop
    for one in opened:
        one.answers.close()


def ids(answer) -> str:
    return "".join(item["item_id"] for item in answer["items"])


def pages(ask, **body) -> list[str]:
    """Follow the cursors to the end."""
    found, answer = [], ask(**body)
    while True:
        found.append(ids(answer))
        if "cursor" not in answer:
            return found
        answer = ask(**body, cursor=answer["cursor"])


# Rules


def test_rules_apply_to_their_calls_queries_and_context(shop):
    service = shop(
        """
rules:
  - {id: no-milk, when: {calls: [recommend], context: {page: basket}}, items: {item_ids: [e]}, exclude: true}
  - {id: bread-first, when: {queries: [Red Apple]}, items: {item_ids: [d]}, pin: 1}
"""
    )
    assert "e" in ids(service.recommend())
    assert "e" not in ids(service.recommend(context={"page": "basket"}))
    assert ids(service.search("red apple", k=2)) == "da"
    assert ids(service.search("red", k=1)) == "a"
    assert ids(service.search("red apple", k=2, filters=FiltersBody(categories=["Fruit"]))) == "ab"


def test_an_answer_says_which_rules_touched_it(shop):
    service = shop(
        """
rules:
  - {id: fruit, items: {categories: [Fruit]}, boost: 3}
  - {id: pears, items: {item_ids: [c]}, pin: 1}
  - {id: toys, items: {categories: [Toys]}, bury: true}
"""
    )
    answer = service.recommend(k=2, rules=True)
    assert answer["rules"] == ["fruit", "pears"]
    assert [(item["item_id"], item["rules"]) for item in answer["items"]] == [
        ("c", ["fruit", "pears"]),
        ("b", ["fruit"]),
    ]
    assert "rules" not in service.recommend(k=2)
    assert service.search("milk", k=1, rules=True)["rules"] == ["fruit", "pears"]


def test_without_rules_nothing_is_arranged(shop):
    service = shop()
    answer = service.recommend(k=3, rules=True)
    assert (answer["rules"], answer["items"][0]["rules"]) == ([], [])
    assert service.recommend(k=5)["items"] == shop().recommend(k=5)["items"]


def test_changed_rules_hold_without_a_restart(shop):
    service = shop("rules: [{id: a, items: {item_ids: [e]}, exclude: true}]")
    assert "e" not in ids(service.recommend())
    service.rules.with_suffix(".new").write_text("rules: []", encoding="utf-8")
    os.replace(service.rules.with_suffix(".new"), service.rules)
    assert service.answers.rules.refresh()
    assert "e" in ids(service.recommend())


def test_a_rule_that_leaves_nothing_gives_an_empty_answer(shop):
    answer = shop("rules: [{id: none, exclude: true}]").recommend()
    assert (answer["items"], answer["degraded"]) == ([], False)
    assert "cursor" not in answer


def test_what_rules_take_is_made_up_for_from_further_down(shop):
    service = shop("rules: [{id: a, items: {categories: [Fruit]}, exclude: true}]", ordering_pool=1)
    assert set(ids(service.recommend(k=2))) == {"d", "e"}


def test_a_pin_does_not_show_what_was_just_bought_or_is_the_seed(shop):
    service = shop("rules: [{id: p, items: {item_ids: [d, c]}, pin: 1}]")
    bought = User(["d", "a"], ["purchase", "view"], [int(NOW.timestamp()) - 60] * 2)
    service.features.users[PSEUDONYMIZER.pseudonym("bob")] = bought
    assert ids(service.recommend("bob"))[0] == "c"
    assert ids(service.recommend(seed_items=["d"]))[0] == "c"
    assert ids(service.answers.similar(SimilarBody(item_id="d")))[0] == "c"


# Pages


@pytest.mark.parametrize("k", [1, 2, 3])
def test_pages_give_the_whole_list_once(shop, k):
    service = shop()
    for ask, body in (
        (service.recommend, {}),
        (lambda **b: service.search("apple", **b), {}),
        (service.recommend, {"user": "no"}),
    ):
        whole = ids(ask(k=5, **body))
        assert len(whole) == 5
        found = pages(ask, k=k, **body)
        assert "".join(found) == whole
        assert all(len(page) == k for page in found[:-1] if page)
    similar = pages(lambda **b: service.answers.similar(SimilarBody(item_id="a", kind="goes_with", **b)), k=k)
    assert "".join(similar) == "bd"


def test_pages_with_rules_and_exploration_give_every_item_once(shop):
    service = shop(
        """
rules:
  - {id: two, cap: {per: category, most: 1}}
  - {id: pin, items: {item_ids: [b]}, pin: 4}
""",
        exploration_share=0.5,
        exploration_positions=(1, 2, 3, 4),
    )
    for _ in range(5):
        found = pages(service.recommend, k=3)
        assert sorted("".join(found)) == list("abcde")
        assert "".join(found)[3] == "b"


def test_events_between_pages_repeat_and_skip_nothing(shop):
    service = shop()
    first = service.recommend(k=2)
    service.features.users[PSEUDONYMIZER.pseudonym("ann")] = User(["d"], ["view"], [LONG_AGO])
    rest, cursor = "", first["cursor"]
    while cursor:
        page = service.recommend(k=2, cursor=cursor)
        rest, cursor = rest + ids(page), page.get("cursor")
    assert sorted(ids(first) + rest) == list("abcde")


def test_a_page_from_another_bundle_says_so_and_repeats_nothing(shop):
    service = shop()
    first = service.recommend("nobody", k=2)
    assert (ids(first), "page" in first) == ("dc", False)
    second = service.recommend("nobody", k=2, cursor=first["cursor"])
    assert (ids(second), second["page"]) == ("ba", {"first_position": 3, "bundle_changed": False})
    service.deploy("b2", popularity=POPULARITY[::-1].copy())
    assert service.live.refresh()
    again = service.recommend("nobody", k=2, cursor=first["cursor"])
    assert again["page"] == {"first_position": 3, "bundle_changed": True}
    assert not set(ids(again)) & set("dc")
    assert again["model_version"] == "b2"


def test_a_list_ends_at_its_depth(shop):
    service = shop(max_depth=3, max_k=3)
    assert pages(service.recommend, k=2, user="nobody") == ["dc", "b"]


def test_foreign_and_broken_cursors_are_refused(shop):
    service = shop()
    cursor = service.search("milk", k=1, user_id="ann")["cursor"]
    for body in ({"query": "oat"}, {"user_id": "bob"}, {"filters": FiltersBody(brands=["Mill"])}):
        with pytest.raises(RequestError, match="belongs to another question") as caught:
            service.search(**{"query": "milk", "user_id": "ann", "cursor": cursor, **body})
        assert caught.value.status == 422
    with pytest.raises(RequestError, match="not one that this service gave"):
        service.search("milk", user_id="ann", cursor=cursor[:-3] + "abc")
    assert service.search("milk", user_id="ann", cursor=cursor, k=3)["items"]


# Exploration, and the log of what was shown


def test_what_was_shown_is_kept_with_propensities_and_without_who_or_what(shop):
    service = shop(
        "rules: [{id: r, items: {item_ids: [b]}, boost: 2}]",
        exploration_share=0.25,
        exploration_positions=(2,),
        exploration_pool=2,
    )
    answers = [service.recommend(k=2) for _ in range(40)]
    searched = service.search("oat milk", k=1, user_id="ann", context={"page": "secret page"})
    nobody = service.recommend(
        "stranger@example.com", k=1, cursor=service.recommend("stranger@example.com", k=1)["cursor"]
    )
    service.shown.close()
    rows = {row["request_id"]: row for row in read_shown_lists(service.log, limit=100)}
    for answer in answers:
        row = rows[answer["request_id"]]
        assert row["item_ids"] == [item["item_id"] for item in answer["items"]]
        assert row["propensities"] == [item["propensity"] for item in answer["items"]]
        assert row["user_id"] == PSEUDONYMIZER.pseudonym("ann")
        assert (row["call"], row["bundle"], row["rules"], row["first_position"]) == ("recommend", "b1", ["r"], 1)
        assert row["propensities"] == [1, 0.75 if row["item_ids"][1] == "d" else 0.125]
        assert set(row["parts"]) == {"dense", "item_to_item", "popularity"}
    assert {row["item_ids"][1] for row in rows.values() if row["call"] == "recommend" and len(row["item_ids"]) > 1} > {
        "a"
    }
    row = rows[searched["request_id"]]
    assert (row["propensities"], row["seed"], "propensity" in searched["items"][0]) == ([1], None, False)
    assert rows[nobody["request_id"]]["first_position"] == 2
    text = "".join(path.read_text() for path in service.log.rglob("*.jsonl"))
    assert not any(word in text for word in ("ann@", "stranger", "milk", "secret"))


def test_a_logged_seed_replays_the_answer(shop):
    service = shop(exploration_share=0.5, exploration_positions=(1, 2, 3))
    answer = service.recommend(k=3)
    service.shown.close()
    (row,) = read_shown_lists(service.log, limit=1)
    asked = Asked("another request", "recommend", 3, NOW.timestamp(), seed=row["seed"])
    replayed = Finder(service.answers.serving).find(service.live.current, asked, FeatureAnswer(ANN), Stopwatch())
    assert replayed.item_ids == row["item_ids"] == list(ids(answer))


# Explanations


def test_an_answer_is_explained(shop):
    service = shop()
    answer = service.recommend(k=2)
    explanation = service.explain(request_id=answer["request_id"])
    assert explanation["explains"]["request_id"] == answer["request_id"]
    assert (explanation["model_version"], explanation["personalized"], explanation["degraded"]) == ("b1", True, False)
    # Two views, each half of the attention; the newer one first.
    assert [(event["item_id"], event["attention"]) for event in explanation["history"]] == [("e", 0.5), ("a", 0.5)]
    assert explanation["history"][0] | {"days_ago": None} == {
        "item_id": "e",
        "title": "oat milk",
        "event_type": "view",
        "days_ago": None,
        "attention": 0.5,
    }
    for position, (item, told) in enumerate(zip(answer["items"], explanation["items"], strict=True), 1):
        assert (told["item_id"], told["shown"], told["position"], told["rank"]) == (
            item["item_id"],
            True,
            position,
            position,
        )
        assert (told["score"], told["propensity"], told["why"]) == (
            item["score"],
            1.0,
            f"shown: rank {position} by score",
        )
        assert sum(told["contributions"].values()) == pytest.approx(item["score"], abs=1e-5)
        assert set(told["generators"]) == {name for name, part in told["contributions"].items() if part > 0}
    again = service.explain(request_id=answer["request_id"])
    assert again | {"request_id": None} == explanation | {"request_id": None}
    json.dumps(explanation)


@pytest.mark.parametrize(
    ("item", "body", "why"),
    [
        pytest.param("f", {}, "not shown: it is not available", id="not available"),
        pytest.param(
            "c", {"filters": FiltersBody(max_price=2)}, "not shown: filters.max_price: it costs 3", id="filter"
        ),
        pytest.param("d", {"seed_items": ["d"]}, "not shown: it is one of the seed items", id="seed"),
        pytest.param("b", {"user": "bob"}, "not shown: it was bought within 7 days", id="bought"),
        pytest.param("c", {"context": {"page": "p"}}, "not shown: excluded by the rule no-pears", id="excluded"),
        pytest.param("a", {"context": {"page": "q"}}, "not shown: the cap one-a-category held it back", id="cap"),
        pytest.param("c", {"k": 1}, "not shown: rank 5 by score, 1 items are shown", id="rank"),
    ],
)
def test_what_is_not_shown_is_explained(shop, item, body, why):
    service = shop(
        """
rules:
  - {id: no-pears, when: {context: {page: p}}, items: {item_ids: [c]}, exclude: true}
  - {id: one-a-category, when: {context: {page: q}}, cap: {per: category, most: 1}}
"""
    )
    bought = User(["b", "a"], ["purchase", "view"], [int(NOW.timestamp()) - 86_400] * 2)
    service.features.users[PSEUDONYMIZER.pseudonym("bob")] = bought
    answer = service.recommend(**body)
    (told,) = service.explain(request_id=answer["request_id"], item_id=item)["items"]
    assert item not in ids(answer)
    assert (told["item_id"], told["shown"], told["why"]) == (item, False, why)
    assert "position" not in told


def test_pins_exploration_and_pages_are_explained(shop):
    service = shop(
        "rules: [{id: p, items: {item_ids: [d]}, pin: 1}]",
        exploration_share=1,
        exploration_positions=(2,),
        exploration_pool=1,
    )
    answer = service.recommend(k=2)
    first, second = service.explain(request_id=answer["request_id"])["items"]
    assert (first["item_id"], first["why"], first["rules"]) == ("d", "shown: the rule p pins it", ["p"])
    assert (second["why"], second["propensity"]) == ("shown: exploration drew it for this slot", 1.0)
    later = service.recommend(k=2, cursor=answer["cursor"])
    (told,) = service.explain(request_id=later["request_id"], item_id="d")["items"]
    assert told["why"] == "not shown here: an earlier page shows it"


def test_an_explanation_reads_the_titles_that_it_shows_alone(shop, monkeypatch):
    service = shop()
    answer = service.recommend(k=2)
    of_all = property(lambda _: pytest.fail("the titles of all items were made"))
    monkeypatch.setattr(type(service.live.current.bundle), "titles", of_all)
    assert len(service.explain(request_id=answer["request_id"])["items"]) == 2


def test_an_id_that_comes_again_names_a_new_answer():
    settings = ServingConfig(explained_requests=3)
    explainer = Explainer(Finder(settings), settings)
    for request_id in ("twice", "a", "twice", "b", "c"):
        explainer.remember(SimpleNamespace(asked=Asked(request_id, "recommend", k=1, now_s=0.0)))
    assert [name for name in ("twice", "a", "b", "c") if explainer.remembers(name)] == ["twice", "b", "c"]


def test_a_search_and_similar_items_are_explained(shop):
    service = shop()
    for answer in (
        service.search("red apple", k=3),
        service.search("apple", k=3, user_id="ann"),
        service.answers.similar(SimilarBody(item_id="a", k=2)),
        service.answers.similar(SimilarBody(item_id="a", k=2, kind="goes_with")),
    ):
        explanation = service.explain(request_id=answer["request_id"])
        for item, told in zip(answer["items"], explanation["items"], strict=True):
            assert told["item_id"] == item["item_id"]
            assert sum(told["contributions"].values()) == pytest.approx(item["score"], abs=1e-5)
    assert explanation["items"][0]["generators"] == ["item_to_item"]
    (told,) = service.explain(request_id=answer["request_id"], item_id="a")["items"]
    assert told["why"] == "not shown: it is the item itself"


def test_a_user_or_a_query_and_an_item_are_explained_anew(shop):
    service = shop(explained_k=2)
    told = service.explain(user_id="ann", item_id="c")
    assert told["explains"]["request_id"] is None
    assert told["items"][0]["rank"] > 2
    assert not told["items"][0]["shown"]
    assert service.explain(user_id="nobody", item_id="d")["items"][0]["generators"] == ["popular"]
    searched = service.explain(query="oat milk", item_id="e")["items"][0]
    assert (searched["shown"], searched["rank"]) == (True, 1)
    nobody_finds = service.explain(query="oat milk", user_id="ann", item_id="f")["items"][0]
    assert nobody_finds["why"] == "not shown: it is not available"


@pytest.mark.parametrize(
    ("body", "status", "sentence"),
    [
        pytest.param({}, 422, "needs `request_id`, or `item_id` with `user_id`, `query` or both", id="nothing"),
        pytest.param({"user_id": "ann"}, 422, "needs `request_id`, or", id="no item"),
        pytest.param({"item_id": "a"}, 422, "needs `request_id`, or", id="nobody"),
        pytest.param({"request_id": "zzz"}, 404, "'zzz' is not one of the last 2 answers of any process", id="unknown"),
        pytest.param(
            {"user_id": "ann", "item_id": "zzz"}, 404, "`item_id`: the item 'zzz' is not in", id="no such item"
        ),
    ],
)
def test_what_cannot_be_explained_is_said(shop, body, status, sentence):
    service = shop(explained_requests=2)
    with pytest.raises(RequestError, match=sentence) as caught:
        service.explain(**body)
    assert caught.value.status == status


def test_only_the_last_answers_and_only_those_of_bundles_that_are_there(shop):
    service = shop(explained_requests=2)
    first, second, third = (service.recommend()["request_id"] for _ in range(3))
    with pytest.raises(RequestError, match="is not one of the last 2 answers"):
        service.explain(request_id=first)
    assert service.explain(request_id=second)["items"]
    service.deploy("b2")
    assert service.live.refresh()
    with pytest.raises(RequestError, match="the bundle b1 that gave this answer was replaced since"):
        service.explain(request_id=third)


def test_what_is_remembered_holds_no_bundle(shop):
    service = shop("rules: [{id: r, boost: 2}]", diversity=0.3)
    service.recommend(k=1)
    gone = weakref.ref(service.live.current.bundle)
    service.deploy("b2")
    assert service.live.refresh()
    assert gone() is None


def test_rules_are_looked_up_before_another_bundle_answers(shop):
    service = shop("rules: [{id: r, items: {item_ids: [d]}, exclude: true}]")
    prepared = []
    prepare = service.live.prepare
    service.live.prepare = lambda bundle: prepared.append((bundle.bundle_id, prepare(bundle)))
    service.deploy("b2")
    assert service.live.refresh()
    ((bundle_id, rules),) = prepared
    assert bundle_id == "b2"
    assert service.answers.rules.of(service.live.current.bundle) is rules
    assert "d" not in ids(service.recommend("nobody"))


def test_an_answer_is_explained_although_items_have_changed_since(shop):
    service = shop()
    answer = service.recommend(k=2)
    first = service.explain(request_id=answer["request_id"])
    service.live.current = Serving(load_bundle(service.places.bundles / "b1"))
    again = service.explain(request_id=answer["request_id"])
    assert again | {"request_id": None} == first | {"request_id": None}


class BrokenLog(ShownListsLog):
    """A log that raises, which none should."""

    def offer(self, **row) -> None:
        raise RuntimeError("a bug")


def test_a_log_that_fails_costs_no_answer(shop, tmp_path, caplog):
    service = shop(log=BrokenLog(tmp_path / "broken", share=0, keep_days=1))
    assert ids(service.recommend("nobody", k=2)) == "dc"
    assert "An answer was not noted" in caplog.text


def test_an_ordering_stage_that_fails_costs_no_answer(shop, monkeypatch, caplog):
    service = shop("rules: [{id: r, items: {item_ids: [d]}, boost: 2}]")

    def broken(*_, **__):
        raise RuntimeError("a bug")

    monkeypatch.setattr("bentos.recommender.answering.arranging.arrange", broken)
    answer = service.recommend("nobody", k=2)
    assert (ids(answer), answer["degraded_because"]) == ("dc", ["ordering failed, this is the order of the scores"])
    assert "Ordering falls back" in caplog.text

"""The HTTP interface, on the toy bundle and a feature store in memory."""

import asyncio
import re
import shutil
import threading
import time
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from starlette.testclient import TestClient

from bentos.recommender.answering.answers import Answers
from bentos.recommender.bundles.live_bundle import LiveBundle
from bentos.recommender.http.api import Api
from bentos.recommender.http.callers import Callers
from pipelines.config import ServingConfig
from pipelines.errors import StoreError
from pipelines.places import Places
from pipelines.pseudonyms import Pseudonymizer
from pipelines.stores.api_keys import add_key
from pipelines.stores.event_log import EventLog
from pipelines.stores.served_features import ServedFeaturesLog, read_served_features
from tests.toys.asgi import ask
from tests.toys.toy_bundle import User, write_toy_bundle

NOW = datetime(2026, 3, 1, tzinfo=UTC)
PSEUDONYMIZER = Pseudonymizer(b"a key for tests, long enough")


class MemoryFeatures:
    """User features in a dictionary; can be slow or broken."""

    is_shared = False

    def __init__(self) -> None:
        self.users: dict[str, User] = {}
        self.broken = False
        self.delay_s = 0.0

    def stamp(self, user_id: str) -> None:
        return None

    def read_user(self, user_id: str) -> User:
        time.sleep(self.delay_s)
        if self.broken:
            raise StoreError("the store is down")
        return self.users.get(user_id, User())

    def push_at_once(self, events) -> None:
        """Pushes are waited for on another thread."""

    def push_events(self, events) -> dict:
        if self.broken:
            raise StoreError("the store is down")
        for event in events:
            before = self.users.get(event["user_id"], User())
            self.users[event["user_id"]] = User(
                [*before.item_ids, event["item_id"]],
                [*before.event_types, event["event_type"]],
                [*before.event_times, int(event["event_timestamp"].timestamp())],
            )
        return {event["user_id"]: (self.users[event["user_id"]], None) for event in events}


class Service:
    """The application with its parts at hand."""

    def __init__(self, folder) -> None:
        self.features = MemoryFeatures()
        self.event_log = EventLog(folder / "log")
        self.answers = Answers(
            live=LiveBundle(Places(folder / "home"), {"HEADRACE_BUNDLE": str(folder / "b1")}),
            features=self.features,
            event_log=self.event_log,
            pseudonymizer=PSEUDONYMIZER,
            serving=ServingConfig(max_events=3, max_k=5, max_query_characters=20, feature_timeout_ms=50),
            served=ServedFeaturesLog(folder / "served", share=1, keep_days=7),
            now=lambda: NOW,
        )
        self.app = Api()
        self.app.open(self.answers)

    def client(self, host: str = "127.0.0.1") -> TestClient:
        return TestClient(self.app, client=(host, 50_000), raise_server_exceptions=False)

    def post(self, call: str, body=None, **options):
        return self.client().post(f"/{call}", **({"json": body} if body is not None else {}), **options)


@pytest.fixture
def service(tmp_path):
    write_toy_bundle(tmp_path / "b1")
    service = Service(tmp_path)
    yield service
    service.app.close()
    service.answers.close()


def item_ids(response) -> list[str]:
    return [item["item_id"] for item in response.json()["items"]]


def test_a_search(service):
    response = service.post("search", {"query": "red apples", "k": 1})
    assert response.status_code == 200
    answer = response.json()
    assert answer["items"][0] | {"score": None} == {
        "item_id": "a",
        "title": "red apple",
        "category": "Fruit",
        "brand": "Orchard",
        "price": 1.0,
        "currency": "USD",
        "score": None,
    }
    assert (answer["model_version"], answer["degraded"], answer["personalized"]) == ("b1", False, False)
    assert len(answer["request_id"]) == 32
    assert "timings_ms" not in answer


def test_a_stranger_gets_popular_items(service):
    response = service.post("recommend", {"user_id": "nobody", "k": 3})
    assert item_ids(response) == ["d", "c", "b"]
    assert response.json()["personalized"] is False
    assert response.json()["degraded"] is False


def test_an_event_changes_the_next_recommendation(service):
    accepted = service.post("events", {"events": [{"user_id": "ann", "event_type": "view", "item_id": "c"}]})
    assert (accepted.status_code, accepted.json()["accepted"], accepted.json()["degraded"]) == (202, 1, False)
    response = service.post("recommend", {"user_id": "ann", "k": 2})
    assert response.json()["personalized"] is True
    assert item_ids(response) == ["c", "e"]


def test_what_was_just_bought_is_not_recommended(service):
    service.post("events", {"events": [{"user_id": "ann", "event_type": "purchase", "item_id": "c"}]})
    assert item_ids(service.post("recommend", {"user_id": "ann", "k": 2}))[0] == "e"


def test_no_raw_user_id_reaches_the_disk_or_the_feature_store(service):
    service.post("events", {"events": [{"user_id": "ann@example.com", "event_type": "view", "item_id": "c"}]})
    pseudonym = PSEUDONYMIZER.pseudonym("ann@example.com")
    assert list(service.features.users) == [pseudonym]
    rows = service.event_log.read(None, datetime.now(UTC)).to_pylist()
    assert [row["user_id"] for row in rows] == [pseudonym]
    assert len(rows[0]["event_id"]) == 32
    assert rows[0]["event_timestamp"] == NOW


def test_given_ids_and_times_are_kept(service):
    happened = NOW - timedelta(hours=1)
    body = {
        "user_id": "ann",
        "event_type": "search",
        "query": "milk",
        "event_id": "e-1",
        "event_timestamp": "2026-03-01T00:00:00+01:00",
    }
    assert service.post("events", {"events": [body]}).status_code == 202
    row = service.event_log.read(None, datetime.now(UTC)).to_pylist()[0]
    assert (row["event_id"], row["event_timestamp"], row["query"]) == ("e-1", happened, "milk")
    assert service.features.users == {}


@pytest.mark.parametrize("how", ["parameter", "field"])
def test_timings_come_on_request(service, how):
    body = {"query": "milk", **({"timings": True} if how == "field" else {})}
    answer = service.client().post("/search", json=body, params={"timings": "1"} if how == "parameter" else {}).json()
    assert set(answer["timings_ms"]) == {"features", "encode", "rank", "total"}


def test_similar_and_goes_with(service):
    assert item_ids(service.post("similar", {"item_id": "a", "k": 1})) == ["b"]
    assert item_ids(service.post("similar", {"item_id": "a", "kind": "goes_with"})) == ["b", "d"]


def test_what_goes_with_an_item_and_is_of_another_kind(service):
    body = {"item_id": "a", "other_categories": True}
    assert item_ids(service.post("similar", {**body, "kind": "goes_with"})) == ["d"]
    assert not {"a", "b", "c"} & set(item_ids(service.post("similar", body)))
    bread = {**body, "filters": {"categories": ["Bakery"]}}
    assert item_ids(service.post("similar", bread)) == ["d"]


EVENT = {"user_id": "ann", "event_type": "view", "item_id": "a"}


@pytest.mark.parametrize(
    ("call", "body", "status", "sentence"),
    [
        ("search", b"{broken", 400, "not valid JSON"),
        ("search", b"\xff\xfe", 400, "not valid JSON"),
        ("search", b"", 400, "not valid JSON"),
        ("search", b"[]", 400, r"The body is \[\]: send a JSON object with query, user_id"),
        ("search", b"null", 400, "The body is None"),
        ("search", {}, 422, "`query` is missing: add it"),
        ("search", {"query": 5}, 422, "`query`: .*valid string, found 5"),
        ("search", {"query": "  "}, 422, "`query` is empty"),
        ("search", {"query": "\u200b\x00"}, 422, "`query` is empty"),
        ("search", {"query": "x" * 10_000}, 422, "`query` has 10,000 characters, at most 20 are allowed: shorten it"),
        ("search", {"query": "x", "k": 0}, 422, "`k`: .*greater than or equal to 1, found 0"),
        ("search", {"query": "x", "k": 6}, 422, "`k` is 6, at most 5 is allowed"),
        ("search", {"query": "x", "k": "3"}, 422, "`k`: .*valid integer, found '3'"),
        ("search", {"query": "x", "k": True}, 422, "`k`: .*valid integer, found True"),
        ("search", {"query": "x", "user": "u"}, 422, "`user` is not a field of this call .known: query, user_id"),
        ("search", {"query": "x", "filters": {"color": "red"}}, 422, r"`filters.color` is not .*known: categories"),
        ("search", {"query": "x", "filters": {"min_price": -1}}, 422, "`filters.min_price`"),
        ("recommend", {"user_id": ""}, 422, "`user_id`: .*at least 1 character"),
        ("recommend", {"user_id": "u" * 300}, 422, r"`user_id`: .*… \(302 characters\)"),
        ("recommend", {"user_id": "u", "seed_items": ["a", "zzz"]}, 404, "`seed_items`: the item 'zzz' is not in"),
        ("similar", {"item_id": "zzz"}, 404, "`item_id`: the item 'zzz' is not in the catalogue: send an `item_id`"),
        ("similar", {"item_id": "a", "kind": "other"}, 422, "`kind`: .*'similar' or 'goes_with'"),
        ("events", {"events": []}, 422, "`events`: .*at least 1 item"),
        ("events", {"events": [EVENT] * 4}, 422, "`events` has 4 events, at most 3 are allowed: send them in parts"),
        ("events", {"events": [EVENT, {**EVENT, "event_type": "hug"}]}, 422, r"`events.1.event_type`: .*'purchase'"),
        ("events", {"events": [{**EVENT, "item_id": "a\0"}]}, 422, "`events.0.item_id` holds a NUL character"),
        ("events", {"events": [{**EVENT, "item_id": " \t"}]}, 422, "`events.0.item_id` is blank: send an id"),
        ("events", {"events": [EVENT, {**EVENT, "user_id": " "}]}, 422, "`events.1.user_id` is blank: send an id"),
        ("events", {"events": [{**EVENT, "item_id": None}]}, 422, "`events.0.item_id` is missing: a view needs"),
        ("events", {"events": [{"user_id": "u", "event_type": "search"}]}, 422, "`events.0.query` is missing"),
        ("events", {"events": [{**EVENT, "value": "1"}]}, 422, "`events.0.value`: .*number, found '1'"),
        ("events", b'{"events": [{"user_id": "u", "event_type": "view", "item_id": "a", "value": NaN}]}', 422, "value"),
        ("events", {"events": [{**EVENT, "event_timestamp": "2026-03-01T00:00:00"}]}, 422, "timezone"),
        ("events", {"events": [{**EVENT, "event_timestamp": "2027-01-01T00:00:00Z"}]}, 422, "send a time that is over"),
        ("events", {"events": [{**EVENT, "event_timestamp": "0001-01-01T00:00:00+14:00"}]}, 422, "before 1990-01-01"),
        ("events", {"events": [{**EVENT, "value": -1.0}]}, 422, "`events.0.value`: .*greater than or equal to 0"),
        ("nothing", {}, 404, "There is no POST /nothing: there are POST /search"),
    ],
)
def test_a_bad_request_gets_one_sentence(service, call, body, status, sentence):
    response = service.post(call, content=body) if isinstance(body, bytes) else service.post(call, body)
    assert response.status_code == status, response.text
    assert list(response.json()) == ["error"]
    error = response.json()["error"]
    assert "\n" not in error
    assert len(error) < 400
    assert re.search(sentence, error), error
    assert service.event_log.read(None, datetime.now(UTC)).num_rows == 0


def test_an_oversized_body_is_refused(service):
    response = service.post("events", content=b" " * (2 * 2**20 + 1))
    assert response.status_code == 413
    assert "larger than 2 MiB" in response.json()["error"]


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "HEAD"])
def test_another_method_on_a_call_says_how_to_ask(service, method):
    response = service.client().request(method, "/search")
    assert (response.status_code, response.headers["allow"]) == (405, "POST, OPTIONS")
    if method != "HEAD":
        assert response.json() == {"error": f"/search takes POST with a JSON body, not {method}."}


def test_options_name_the_methods(service):
    response = service.client().options("/search")
    assert (response.status_code, response.headers["allow"], response.content) == (204, "POST, OPTIONS", b"")


@pytest.mark.parametrize("path", ["/nope", "/static_content/index.css", "/docs.json"])
def test_a_page_that_does_not_exist_is_not_found(service, path):
    response = service.client().get(path)
    assert response.status_code == 404
    assert f"There is no GET {path}: there are POST /search" in response.json()["error"]


# Items


def test_items_are_put_and_deleted_and_count_in_the_next_answers(service):
    client = service.client()
    put = client.put("/items", json={"items": [{"item_id": "aisle/7 ü", "title": "rye milk", "price": 2.5}]})
    alone = client.put("/items", json={"item_id": "h", "title": "oat pear"})
    assert [(one.status_code, one.json()["accepted"]) for one in (put, alone)] == [(202, 1), (202, 1)]
    service.answers._live.follow_items()
    assert item_ids(service.post("search", {"query": "rye milk", "k": 1})) == ["aisle/7 ü"]
    gone = client.delete("/items/aisle%2F7%20%C3%BC")
    assert (gone.status_code, gone.json()["accepted"], gone.json()["degraded"]) == (202, 1, False)
    service.answers._live.follow_items()
    assert "aisle/7 ü" not in item_ids(service.post("search", {"query": "rye milk", "k": 5}))
    assert client.delete("/items/nobody-knows").status_code == 202


def test_a_bad_item_is_named_by_field_and_place(service):
    body = {"items": [{"item_id": "g", "title": "rye milk"}, {"item_id": "h", "title": "oat", "price": -1}]}
    refused = service.client().put("/items", json=body)
    assert refused.status_code == 422
    assert refused.json()["error"].startswith("`items.1.price`")
    blank = service.client().put("/items", json={"item_id": " ", "title": "rye milk"})
    assert (blank.status_code, blank.json()["error"]) == (422, "`items.0.item_id` is blank: send the id of an item.")
    assert service.client().delete("/items/%20").status_code == 422
    assert service.client().get("/items").status_code == 405
    assert service.client().delete("/items").status_code == 405


def test_a_disk_that_takes_no_items_says_when_to_come_again(service):
    folder = service.answers._live.item_log._folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.write_text("a file stands where the folder should be")
    refused = service.client().put("/items", json={"item_id": "g", "title": "rye milk"})
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert service.post("search", {"query": "milk"}).status_code == 200


# What comes with an answer


def test_a_sane_request_id_is_kept_and_returned(service):
    response = service.post("search", {"query": "milk"}, headers={"X-Request-ID": "shop:42_a.B-c"})
    assert response.headers["x-request-id"] == response.json()["request_id"] == "shop:42_a.B-c"
    refused = service.post("search", {}, headers={"X-Request-ID": "shop-43"})
    assert (refused.status_code, refused.headers["x-request-id"]) == (422, "shop-43")


def test_an_odd_request_id_is_replaced(service):
    for odd in ("a b", "x" * 129, "", "<script>"):
        response = service.post("search", {"query": "milk"}, headers={"X-Request-ID": odd})
        assert len(response.headers["x-request-id"]) == 32
        assert response.headers["x-request-id"] == response.json()["request_id"]


def test_pages_from_elsewhere_may_not_read_answers_unless_they_are_named(service):
    key, shop = {"X-API-Key": "right"}, {"Origin": "https://shop.example"}

    def open_for(*origins: str) -> None:
        service.answers.serving = service.answers.serving.model_copy(update={"cors_origins": origins})
        service.app.open(service.answers, callers=Callers(environment_key="right"))

    open_for()
    response = service.post("search", {"query": "milk"}, headers={**key, **shop})
    assert not [name for name in response.headers if name.startswith("access-control")]
    open_for("https://shop.example")
    asked = service.client().options("/search", headers={**shop, "Access-Control-Request-Method": "POST"})
    assert asked.status_code == 204
    assert asked.headers["access-control-allow-origin"] == "https://shop.example"
    assert asked.headers["access-control-allow-methods"] == "POST"
    assert "x-api-key" in asked.headers["access-control-allow-headers"]
    for response in (
        service.post("search", {"query": "milk"}, headers={**key, **shop}),
        service.post("search", {"query": "milk"}, headers=shop),
    ):
        assert response.headers["access-control-allow-origin"] == "https://shop.example"
    other = service.post("search", {"query": "milk"}, headers={**key, "Origin": "https://evil.example"})
    assert "access-control-allow-origin" not in other.headers


def test_who_asks_too_often_is_told_when_to_come_again(service, tmp_path):
    key = add_key(tmp_path / "keys.json", "shop", scopes=("serve",), now=NOW, requests_per_second=0.25)
    service.app.open(service.answers, callers=Callers(tmp_path / "keys.json"))
    headers = {"Authorization": f"Bearer {key}"}
    assert service.post("search", {"query": "milk"}, headers=headers).status_code == 200
    response = service.post("search", {"query": "milk"}, headers=headers)
    assert (response.status_code, response.headers["retry-after"]) == (429, "4")
    assert "0.25 requests a second" in response.json()["error"]


def test_a_bug_is_a_sentence_too(service, caplog):
    service.answers.search = lambda body: {}["nothing"]
    response = service.post("search", {"query": "milk"})
    assert (response.status_code, list(response.json())) == (500, ["error"])
    assert "Unexpected error in search" in caplog.text


# Too many


def busy(service, **settings) -> None:
    service.answers.serving = service.answers.serving.model_copy(update=settings)
    service.app.open(service.answers)


def test_writes_that_do_not_fit_are_refused_at_once_and_searches_go_on(service):
    busy(service, write_threads=1, max_waiting_writes=1)
    may_end, keep = threading.Event(), service.answers.events

    def slowly(body):
        may_end.wait(5)
        return keep(body)

    async def flood() -> list[int]:
        body = {"events": [EVENT]}
        kept = [asyncio.create_task(ask(service.app, "/events", body)) for _ in range(2)]
        await asyncio.sleep(0.02)
        status, headers, _ = await ask(service.app, "/events", body)
        assert (status, headers[b"retry-after"]) == (503, b"1")
        assert (await ask(service.app, "/search", {"query": "milk"}))[0] == 200
        may_end.set()
        later = [status for status, *_ in await asyncio.gather(*kept)]
        return [*later, (await ask(service.app, "/events", body))[0]]

    service.answers.events = slowly
    assert asyncio.run(flood()) == [202, 202, 202]


def test_of_searches_that_come_together_those_that_do_not_fit_are_refused(service):
    busy(service, max_waiting=4)

    async def flood() -> Counter:
        answers = await asyncio.gather(*(ask(service.app, "/search", {"query": "milk"}) for _ in range(20)))
        assert (await ask(service.app, "/search", {"query": "milk"}))[0] == 200
        return Counter(status for status, *_ in answers)

    assert asyncio.run(flood()) == {200: 5, 503: 15}


def test_an_answer_that_is_late_is_given_up(service):
    busy(service, deadline_ms=50)
    may_end = threading.Event()
    service.answers.recommend = lambda body: may_end.wait(5)

    async def late() -> tuple:
        try:
            return await ask(service.app, "/recommend", {"user_id": "ann"})
        finally:
            may_end.set()

    status, headers, content = asyncio.run(late())
    assert (status, headers[b"retry-after"]) == (503, b"1")
    assert b"not ready in time" in content


def test_a_stage_knows_what_is_left_of_the_time(service):
    busy(service, deadline_ms=300)
    found = []
    read = service.answers._users.read
    service.answers._users.read = lambda *given, within_s: found.append(within_s) or read(*given, within_s=within_s)
    service.post("recommend", {"user_id": "ann"})
    assert 0 < found[0] < 0.3


# Keys


def test_without_a_key_only_this_machine_is_answered(service):
    body = {"query": "milk"}
    assert service.client("127.0.0.1").post("/search", json=body).status_code == 200
    assert service.client("::1").post("/search", json=body).status_code == 200
    refused = service.client("10.0.0.7").post("/search", json=body)
    assert refused.status_code == 403
    assert "HEADRACE_API_KEY" in refused.json()["error"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        pytest.param({"Origin": "https://evil.example"}, 403, id="a page from elsewhere"),
        pytest.param({"Origin": "null"}, 403, id="a sandboxed page"),
        pytest.param({"Origin": "http://localhost:8000"}, 200, id="a page of this machine"),
        pytest.param({"X-Forwarded-For": "10.0.0.7"}, 403, id="through a proxy"),
    ],
)
def test_without_a_key_browsers_and_proxies_open_no_door(service, headers, status):
    assert service.post("search", {"query": "milk"}, headers=headers).status_code == status


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        pytest.param({}, 401, id="no key"),
        pytest.param({"X-API-Key": "wrong"}, 401, id="wrong key"),
        pytest.param({"X-API-Key": "clé".encode()}, 401, id="a key of other letters"),
        pytest.param({"X-API-Key": "right"}, 200, id="header"),
        pytest.param({"Authorization": "Bearer right"}, 200, id="bearer"),
        pytest.param({"Authorization": "Basic right"}, 401, id="basic"),
    ],
)
def test_with_a_key_everybody_needs_it(service, headers, status):
    service.app.open(service.answers, callers=Callers(environment_key="right"))
    for host in ("127.0.0.1", "10.0.0.7"):
        response = service.client(host).post("/search", json={"query": "milk"}, headers=headers)
        assert response.status_code == status


# What happens when a part fails


def test_a_broken_feature_store_gives_the_last_known_features_then_popular_items(service):
    service.post("events", {"events": [{"user_id": "ann", "event_type": "view", "item_id": "c"}]})
    fresh = service.post("recommend", {"user_id": "ann", "k": 2})
    service.features.broken = True
    remembered = service.post("recommend", {"user_id": "ann", "k": 2})
    assert item_ids(remembered) == item_ids(fresh)
    assert remembered.json()["degraded_because"] == ["the feature store failed, what it said last is used"]
    stranger = service.post("recommend", {"user_id": "bob", "k": 2})
    assert item_ids(stranger) == ["d", "c"]
    assert (stranger.json()["degraded"], stranger.json()["personalized"]) == (True, False)


def test_a_slow_feature_store_does_not_hold_up_an_answer(service):
    service.features.delay_s = 0.5
    response = service.client().post("/recommend", json={"user_id": "ann"}, params={"timings": "1"})
    assert response.json()["degraded_because"] == [
        "the feature store did not answer within 50 ms, nothing is known of the user"
    ]
    assert response.json()["timings_ms"]["features"] < 400


def test_events_are_kept_while_the_feature_store_is_broken(service):
    service.features.broken = True
    response = service.post("events", {"events": [EVENT]})
    assert (response.status_code, response.json()["accepted"], response.json()["degraded"]) == (202, 1, True)
    assert service.event_log.read(None, datetime.now(UTC)).num_rows == 1


def test_a_full_disk_refuses_the_events(service, tmp_path):
    shutil.rmtree(tmp_path / "log", ignore_errors=True)
    (tmp_path / "log").write_text("in the way")
    response = service.post("events", {"events": [EVENT]})
    assert response.status_code == 503
    assert "nothing was accepted" in response.json()["error"]


class BrokenTower:
    """A model that fails."""

    def embed(self, *_):
        raise RuntimeError("no memory")

    def encode(self, *_):
        raise RuntimeError("no memory")


def test_a_broken_model_gives_popular_items_and_words_alone(service):
    service.post("events", {"events": [{"user_id": "ann", "event_type": "view", "item_id": "c"}]})
    bundle = service.answers._live.current.bundle
    bundle._user_tower = bundle._query_tower = BrokenTower()
    recommended = service.post("recommend", {"user_id": "ann", "k": 1})
    assert item_ids(recommended) == ["d"]
    assert recommended.json()["degraded_because"] == ["the model failed, these are popular items"]
    found = service.post("search", {"query": "pears", "k": 1})
    assert item_ids(found) == ["c"]
    assert found.json()["degraded_because"] == ["the model failed, words alone were searched"]


def test_the_features_that_were_used_are_kept_for_the_skew_audit(service, tmp_path):
    service.post("events", {"events": [{"user_id": "ann", "event_type": "view", "item_id": "a"}]})
    service.post("recommend", {"user_id": "ann"})
    service.post("search", {"query": "apple", "user_id": "ann"})
    service.post("search", {"query": "apple"})
    service.answers.close()

    kept = read_served_features(tmp_path / "served", limit=10).to_pylist()

    assert [row["item_ids"] for row in kept] == [["a"], ["a"]]
    assert {(row["user_id"], row["bundle"], row["requested_at"]) for row in kept} == {
        (PSEUDONYMIZER.pseudonym("ann"), "b1", NOW)
    }

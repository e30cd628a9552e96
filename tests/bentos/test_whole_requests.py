"""Requests that come in one piece: answered as the others are, byte for byte, without ASGI."""

import gc
import re
import socket
import threading
import time
import weakref
from contextlib import ExitStack, closing, contextmanager
from itertools import islice

import pytest

from bentos.recommender.http.api import Api
from bentos.recommender.http.callers import Callers
from bentos.recommender.http.connections import Connection, ConnectionLimits
from pipelines.benchmarks.odd_bodies import odd_requests
from pipelines.config import ServingConfig
from pipelines.stores.api_keys import add_key
from tests.bentos.test_api import NOW, Service
from tests.bentos.test_connections import Echo, answer, is_closed, running
from tests.toys.toy_bundle import User, write_toy_bundle

ID = b"X-Request-ID: one\r\n"


class Served:
    """An application behind a real socket; `by_asgi` are the paths that came to it the way of ASGI."""

    def __init__(self, answers, *, whole: bool = True, callers: Callers | None = None) -> None:
        self.api, self.by_asgi = Api(), []
        self.api.open(answers, callers=callers)
        if not whole:
            self.api._whole_calls = {}

    async def __call__(self, scope, receive, send) -> None:
        self.by_asgi.append(scope["path"])
        await self.api(scope, receive, send)

    @contextmanager
    def running(self, **limits):
        protocol = type("Fronted", (Connection,), {"door": self.api, "limits": ConnectionLimits(**limits)})
        with running(self, protocol) as (self.server, self.port):
            yield self
        self.api.close()

    def connect(self) -> closing:
        return closing(socket.create_connection(("127.0.0.1", self.port), timeout=5))


def request(call: str, body: bytes, *headers: bytes, version: bytes = b"1.1", length: bool = True) -> bytes:
    lines = [b"POST /%s HTTP/%s" % (call.encode(), version), b"Host: here", *headers]
    if length:
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join([*lines, b"", body])


def raw_answer(talk: socket.socket) -> bytes:
    """Read one answer as it came, but for the second in which it was made and ids that nobody gave."""
    raw = b""
    while b"\r\n\r\n" not in raw:
        raw += (piece := talk.recv(65_536))
        assert piece, raw
    head, _, body = raw.partition(b"\r\n\r\n")
    length = int(re.search(rb"content-length: (\d+)", head)[1])
    while len(body) < length:
        body += talk.recv(65_536)
    assert len(body) == length
    return re.sub(rb"date: [^\r]*|[0-9a-f]{32}", b"", head) + b"\r\n\r\n" + re.sub(rb"[0-9a-f]{32}", b"", body)


@pytest.fixture
def both(tmp_path):
    """The same answers, by ASGI alone and with the short way; only two callers may ask, one of them rarely."""
    write_toy_bundle(tmp_path / "b1")
    service = Service(tmp_path)
    service.answers.serving = ServingConfig(cors_origins=["https://shop.example"], max_k=5)
    key_file = tmp_path / "keys.json"
    keys = {
        "serve": add_key(key_file, "shop", scopes=["serve"], now=NOW),
        "write": add_key(key_file, "till", scopes=["write"], now=NOW),
        "rare": add_key(key_file, "rare", scopes=["serve"], requests_per_second=0.001, now=NOW),
    }
    ways = [Served(service.answers, whole=whole, callers=Callers(key_file)) for whole in (False, True)]
    with ways[0].running(), ways[1].running():
        yield service, keys, ways
    service.app.close()
    service.answers.close()


def key_header(key: str) -> bytes:
    return b"Authorization: Bearer " + key.encode()


def test_odd_bodies_get_the_same_bytes(both):
    _, keys, ways = both
    asked = [one for one in islice(odd_requests("a", 7), 900) if one[0] != "events"]
    asked += [("search", b'{"query": "milk", "k": ' + b"[" * n + b"]" * n + b"}") for n in (10, 1_000, 30_000)]
    asked += [
        ("search", b'{"query": "milk", "k": NaN}'),
        ("search", b'{"query": "milk", "filters": {"min_price": NaN}}'),
    ]
    with ways[0].connect() as one, ways[1].connect() as other:
        for call, body in asked:
            if len(body) > 60_000:
                continue
            for talk in (one, other):
                talk.sendall(request(call, body, ID.strip(), key_header(keys["serve"])))
            assert raw_answer(one) == raw_answer(other), (call, body)
    assert ways[1].by_asgi == [] and len(ways[0].by_asgi) > 300


GOOD = b'{"query": "red apple", "k": 2}'


@pytest.mark.parametrize(
    ("sent", "is_whole"),
    [
        pytest.param(lambda key: request("search", GOOD, key), True, id="plain"),
        pytest.param(lambda key: request("search", b'{"query": "apple", "user_id": "ann"}', key), True, id="a user"),
        pytest.param(lambda key: request("recommend", b'{"user_id": "nobody"}', key), True, id="a stranger"),
        pytest.param(lambda key: request("similar", b'{"item_id": "nothing"}', key), True, id="no such item"),
        pytest.param(lambda key: request("search", GOOD), True, id="no key"),
        pytest.param(lambda key: request("search", GOOD, b"X-API-Key: wrong"), True, id="wrong key"),
        pytest.param(lambda key: request("search", GOOD, key, b"X-Request-ID: a b"), True, id="an id with a blank"),
        pytest.param(lambda key: request("search", GOOD, key, b"Origin: https://shop.example"), True, id="a web page"),
        pytest.param(lambda key: request("search", GOOD, key, b"Origin: https://else.example"), True, id="another one"),
        pytest.param(lambda key: request("search?timings=2", GOOD, key), False, id="a query string"),
        pytest.param(lambda key: request("search", GOOD, key, b"Content-Encoding: gzip"), False, id="compressed"),
        pytest.param(lambda key: request("search", GOOD, key, b"X-Forwarded-For: 10.0.0.1"), False, id="by a proxy"),
        pytest.param(lambda key: request("search", b" " * 70_000, key), False, id="too long"),
        pytest.param(lambda key: request("search", GOOD, key, b"Connection: close"), False, id="once"),
        pytest.param(lambda key: request("search", GOOD, key, version=b"1.0"), False, id="HTTP/1.0"),
        pytest.param(
            lambda key: request("search", GOOD, key, b"Connection: Upgrade", b"Upgrade: h2c"), False, id="h2c"
        ),
        pytest.param(lambda key: request("explain", b'{"item_id": "a"}', key), False, id="another call"),
        pytest.param(lambda key: request("nothing", GOOD, key), False, id="no call"),
        pytest.param(
            lambda key: request(
                "search", b"1e\r\n" + GOOD + b"\r\n0\r\n\r\n", key, b"Transfer-Encoding: chunked", length=False
            ),
            False,
            id="chunked",
        ),
    ],
)
def test_every_kind_of_request_gets_the_same_bytes(both, sent, is_whole):
    service, keys, ways = both
    service.features.users = {}
    answers = []
    for way in ways:
        with way.connect() as talk:
            for _ in range(2):
                talk.sendall(sent(key_header(keys["serve"])))
                answers.append(raw_answer(talk))
                if b"connection: close" in answers[-1]:
                    assert is_closed(talk)
                    break
    assert len(set(answers)) == 1
    assert (ways[1].by_asgi == []) == is_whole


def test_a_rate_is_kept_and_a_scope_is_needed_on_both_ways(both):
    _, keys, ways = both
    for way in ways:
        with way.connect() as talk:
            statuses = []
            for name in ("rare", "rare", "write"):
                talk.sendall(request("recommend", b'{"user_id": "ann"}', key_header(keys[name])))
                head = raw_answer(talk)
                statuses.append(int(head.split()[1]))
            assert statuses == [200, 429, 403]
    assert ways[1].by_asgi == []


def test_expecting_a_hundred_is_answered_with_it(both):
    _, keys, [_, way] = both
    with way.connect() as talk:
        head, _, body = request("search", GOOD, key_header(keys["serve"]), b"Expect: 100-continue").partition(
            b"\r\n\r\n"
        )
        talk.sendall(head + b"\r\n\r\n")
        assert talk.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        talk.sendall(body)
        assert raw_answer(talk).startswith(b"HTTP/1.1 200")


class Shop(Echo):
    """Answers at once, or in a thread where the query says `wait`; one that says `bug` fails."""

    serving = ServingConfig(max_waiting=3)

    def __init__(self) -> None:
        self.takes_s = 0.0
        self.go_on = threading.Event()
        self.asked: list[str] = []

    def must_wait(self, body) -> bool:
        return body.query.startswith("wait")

    def search(self, body) -> dict:
        self.asked.append(body.query)
        time.sleep(self.takes_s)
        if body.query.startswith("wait"):
            self.go_on.wait(5)
        if body.query == "bug":
            raise ZeroDivisionError
        if body.query == "no JSON":
            return {"query": {1, 2}}
        return {"query": body.query}


@pytest.fixture
def shop():
    with Served(Shop()).running() as served:
        served.answers = served.api.dispatch.answers
        yield served
        served.answers.go_on.set()


def search(query: str, *headers: bytes) -> bytes:
    return request("search", b'{"query": "%s"}' % query.encode(), *headers)


def test_what_comes_behind_a_request_waits_for_its_answer(shop):
    with shop.connect() as talk:
        talk.sendall(search("wait") + search("rice") + b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")
        talk.sendall(search("beer") + search("eggs")[:-3])
        time.sleep(0.05)
        assert shop.answers.asked == ["wait"]
        shop.answers.go_on.set()
        talk.sendall(search("eggs")[-3:])
        said = [answer(talk)[1] for _ in range(5)]
        assert [one.get("query") or one.get("service") for one in said] == ["wait", "rice", "headrace", "beer", "eggs"]
        talk.sendall(search("milk"))
        assert answer(talk) == (200, {"query": "milk"})


def test_an_address_that_cannot_be_read_is_not_refused_in_the_place_of_the_answer_before_it(shop):
    with shop.connect() as talk:
        talk.sendall(search("wait") + b"GET http:///search HTTP/1.1\r\n\r\n")
        assert is_closed(talk)


@pytest.mark.parametrize("query", ["bug", "no JSON"])
def test_a_bug_is_an_answer_and_holds_up_nobody(shop, query):
    with shop.connect() as talk:
        for asked, status in ((query, 500), ("rice", 200), (query, 500)):
            talk.sendall(search(asked))
            assert answer(talk)[0] == status
    assert shop.by_asgi == []


@pytest.mark.parametrize("whole", [False, True])
def test_a_crowd_is_counted_before_it_is_answered(whole):
    shop = Shop()
    shop.takes_s = 0.1
    with Served(shop, whole=whole).running() as served, ExitStack() as held:
        talks = [held.enter_context(served.connect()) for _ in range(12)]
        while len(served.server.server_state.connections) < len(talks):
            time.sleep(0.001)
        talks[0].sendall(search("first"))
        while not shop.asked:
            time.sleep(0.001)
        for talk in talks[1:]:  # one is answered next, three wait
            talk.sendall(search("milk"))
        assert sorted(answer(talk)[0] for talk in talks) == [200] * 5 + [503] * 7


def test_whose_turn_comes_while_others_are_answered_waits_in_order(shop):
    shop.answers.takes_s = 0.05
    with ExitStack() as held:
        talks = [held.enter_context(shop.connect()) for _ in range(4)]
        for number, talk in enumerate(talks):
            talk.sendall(search(str(number)))
            time.sleep(0.005)
        assert [answer(talk)[0] for talk in talks] == [200] * 4
    assert shop.answers.asked == ["0", "1", "2", "3"] and shop.by_asgi == []


def test_a_client_that_left_before_its_turn_is_not_answered(shop):
    shop.answers.takes_s = 0.1
    with shop.connect() as first, shop.connect() as last:
        first.sendall(search("first"))
        while not shop.answers.asked:
            time.sleep(0.001)
        with shop.connect() as leaving:
            leaving.sendall(search("leaves"))
        last.sendall(search("last"))
        assert [answer(talk)[0] for talk in (first, last)] == [200, 200]
    lane = shop.api.dispatch.lane_of(next(iter(shop.api._whole_calls.values())))
    while lane.is_busy:
        time.sleep(0.001)
    assert lane.is_free and not lane.waiting


def test_a_server_that_ends_answers_first_and_says_that_it_closes(shop):
    with shop.connect() as talk:
        talk.sendall(search("wait"))
        while not shop.answers.asked:
            time.sleep(0.001)
        shop.server.should_exit = True
        time.sleep(0.2)
        shop.answers.go_on.set()
        raw = raw_answer(talk)
        assert raw.startswith(b"HTTP/1.1 200") and b"\r\nconnection: close\r\n" in raw
        assert is_closed(talk)


def test_a_connection_is_closed_when_nothing_follows():
    with Served(Shop()).running(idle_s=0.2, sweep_s=0.02) as served, served.connect() as talk:
        for _ in range(4):
            talk.sendall(search("milk"))
            assert answer(talk)[0] == 200
            time.sleep(0.1)
        began = time.monotonic()
        assert is_closed(talk)
        assert time.monotonic() - began < 1
        assert served.by_asgi == []


def test_a_connection_that_was_closed_is_gone_without_a_collection(shop):
    gc.collect()
    gc.disable()
    try:
        with shop.connect() as talk:
            talk.sendall(search("milk"))
            answer(talk)
            connections = [weakref.ref(one) for one in shop.server.server_state.connections]
        while shop.server.server_state.connections:
            time.sleep(0.001)
        time.sleep(0.05)
        assert [ref() for ref in connections] == [None]
    finally:
        gc.enable()


def test_answers_know_their_request_alone(both):
    service, keys, [_, way] = both
    service.features.users = {}
    with way.connect() as talk:
        for number in range(2):
            talk.sendall(request("search", GOOD, key_header(keys["serve"]), b"X-Request-ID: id-%d" % number))
            assert answer(talk)[1]["request_id"] == f"id-{number}"
        service.features.users["unused"] = User()
        talk.sendall(request("search", GOOD, key_header(keys["serve"])))
        assert len(answer(talk)[1]["request_id"]) == 32

"""What the description says is what the service does; and nothing that is sent breaks it."""

import asyncio
import json
import random

import jsonschema
import pytest

from bentos.recommender.contract.calls import CALLS
from tests.bentos.test_api import EVENT, Service
from tests.toys.asgi import ask
from tests.toys.toy_bundle import write_toy_bundle

BODIES = {
    "search": {"query": "milk"},
    "recommend": {"user_id": "ann", "timings": True},
    "similar": {"item_id": "a", "rules": True, "context": {"page": "home"}},
    "events": {"events": [EVENT]},
    "explain": {"user_id": "ann", "item_id": "a"},
    "put_items": {"items": [{"item_id": "n", "title": "new apple", "available": True, "price": 1.5}]},
    "reload": {},
}
CALL = {call.name: call for call in CALLS}


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    folder = tmp_path_factory.mktemp("service")
    write_toy_bundle(folder / "b1")
    service = Service(folder)
    yield service
    service.app.close()
    service.answers.close()


@pytest.fixture(scope="module")
def description(service):
    return service.client().get("/openapi.json").json()


def conforms(description: dict, schema: dict, value: object) -> None:
    jsonschema.Draft202012Validator({**schema, "components": description["components"]}).validate(value)


def test_every_call_is_described_with_what_it_takes_answers_and_refuses(description):
    assert {
        route
        for route in description["paths"]
        if route.split("/")[1] not in ("livez", "readyz", "metrics", "", "openapi.json")
    } == {call.route for call in CALLS}
    for call in CALLS:
        operation = description["paths"][call.route][call.method.lower()]
        assert {str(call.status), "400", "401", "403", "422", "429", "503"} <= set(operation["responses"])
        assert operation["security"] == [{"bearer": []}, {"header": []}]
        assert f"scope `{call.scope}`" in operation["description"]


def test_every_call_with_a_body_is_among_those_that_are_tried():
    assert set(BODIES) == {call.name for call in CALLS if call.path_field is None}


@pytest.mark.parametrize("name", BODIES)
def test_bodies_and_answers_are_as_described(service, description, name):
    call = CALL[name]
    operation = description["paths"][call.route][call.method.lower()]
    conforms(description, operation["requestBody"]["content"]["application/json"]["schema"], BODIES[name])
    for body in (BODIES[name], {"surplus": 1}):
        status, headers, content = asyncio.run(ask(service.app, call.route, body, method=call.method))
        found = operation["responses"][str(status)]
        conforms(description, found["content"]["application/json"]["schema"], json.loads(content))
        assert headers[b"x-request-id"]


def test_the_description_is_told_the_limits_of_the_settings(description):
    schemas = description["components"]["schemas"]
    assert schemas["SearchBody"]["properties"]["k"]["maximum"] == 5
    assert schemas["SearchBody"]["properties"]["query"]["maxLength"] == 20
    assert schemas["EventsBody"]["properties"]["events"]["maxItems"] == 3


TEXTS = [
    "", " ", "\u0000", "\ufeff", "\u202eabc", "\ud7ff\ue000", "e\u0301" * 5, "💩" * 5, "\U0010ffff", "\ufb01 İ ß",
    "' OR 1=1 --", "../../etc/passwd", "${jndi:ldap://x}", "<script>", "%00%ff", "\r\nX: y", "null", "NaN",
]  # fmt: skip
RAW = [
    b"", b" ", b"\x00", b"\xef\xbb\xbf{}", b"{", b"}", b"[]", b"null", b"true", b"1e999", b"NaN", b"-Infinity",
    b'"\\ud800"',
    b"[" * 100_000, b'{"a":' * 20_000, b"[" * 50 + b"]" * 50, b'{"query": "\\ud800"}', b'{"query": "\xff"}',
    b'{"query": "a", "query": "milk"}', b'{"query": "milk", "k": 1e400}', b'{"query": "milk", "k": NaN}',
    b'{"query": "milk", "k": 123456789012345678901234567890}', b'{"query": "milk", "k": -0}', b"{'query': 'milk'}",
    b'{"query": "milk"} trailing', b'{"query": "milk",}', b"\xff\xfe{\x00}\x00", b'{"query": "milk", "filters": null}',
    b'{"query": "milk", "filters": {"min_price": 1e308, "max_price": -1}}', b'{"query": {"$ne": 1}}',
    b'{"query": "milk", "cursor": ""}', b'{"query": "milk", "cursor": "\xc3\xa9"}',
    b'{"user_id": "u", "context": {"": ""}}',
    b'{"user_id": "\\u0000"}', b'{"user_id": "u", "seed_items": [null]}', b'{"item_id": "\\ud83d\\udca9"}',
    b"a" * 70_000,
    b'{"events": [{"user_id": "u", "event_type": "view", "item_id": "a", "event_timestamp": "9999-12-31T23:59:59Z"}]}',
    b'{"events": [{"user_id": "u", "event_type": "view", "item_id": "a", "event_timestamp": 1e18}]}',
    b'{"events": [{"user_id": "u", "event_type": "rating", "item_id": "a", "value": -1e-400, "position": 2147483648}]}',
]  # fmt: skip
TYPES = [
    b"application/json",
    b"text/plain",
    b"",
    b"multipart/form-data; boundary=x",
    b"\xff",
    b"application/json; charset=utf-16",
]


@pytest.mark.parametrize("name", BODIES)
def test_nothing_that_is_sent_is_an_error_of_the_server(service, name):
    changed = [json.dumps({**BODIES[name], field: text}).encode() for field in BODIES[name] for text in TEXTS]
    valid = json.dumps(BODIES[name]).encode()
    generator = random.Random(13)
    broken = []
    for _ in range(100):
        at = generator.randrange(len(valid))
        broken.append(valid[:at] + bytes([generator.randrange(256)]) + valid[at + generator.randrange(2) :])
    bodies = [*changed, *RAW, *broken]
    for number, body in enumerate(bodies):
        kind = (b"content-type", TYPES[number % len(TYPES)])
        status, headers, content = asyncio.run(ask(service.app, CALL[name].route, body, kind, method=CALL[name].method))
        assert status < 500, (body[:200], content)
        assert headers[b"content-type"] == b"application/json"
        answer = json.loads(content)
        if status >= 400:
            assert list(answer) == ["error"]
            assert "\n" not in answer["error"]
            assert len(answer["error"]) < 600


@pytest.mark.parametrize("item_id", [*TEXTS, "x" * 300, "a/b", "?"])
def test_no_item_in_a_path_is_an_error_of_the_server(service, item_id):
    status, _, content = asyncio.run(ask(service.app, f"/items/{item_id}", method="DELETE"))
    assert status < 500, content


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [
        ("/\ud7ff", "GET", 404),
        ("/search/", "POST", 404),
        ("//search", "POST", 404),
        ("/SEARCH", "POST", 404),
        ("/" + "x" * 5_000, "POST", 404),
        ("/search", "BREW", 405),
        ("/", "GET", 200),
        ("/", "HEAD", 200),
        ("/", "POST", 405),
        ("/openapi.json", "DELETE", 405),
        ("/admin/reload", "GET", 405),
        ("/admin/reload", "POST", 409),
    ],
)
def test_paths_and_methods(service, path, method, status):
    found, _, content = asyncio.run(ask(service.app, path, method=method))
    assert found == status
    assert len(content) < 10_000
    json.loads(content)


@pytest.mark.parametrize("query", [b"timings=%F3%A7%83%A0", b"\xff", b"%", b"timings=1&timings=1", b"timings=1&&=&x"])
def test_odd_query_strings(service, query):
    status, _, content = asyncio.run(ask(service.app, "/search", {"query": "milk"}, query=query))
    assert (status, "timings_ms" in json.loads(content)) == (200, b"timings=1" in query)


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param([(b"content-length", b"-1")], id="negative length"),
        pytest.param([(b"content-length", b"9" * 30)], id="huge length"),
        pytest.param([(b"content-encoding", b"gzip")], id="compressed"),
        pytest.param([(b"authorization", b"\xff\xfe")], id="authorization of odd bytes"),
        pytest.param([(b"origin", b"http://[")], id="broken origin"),
        pytest.param([(b"x-request-id", b"a\r\nb")], id="line break"),
        pytest.param([(b"x-request-id", b"x" * 10_000)], id="long id"),
    ],
)
def test_odd_headers(service, headers):
    status, answered, content = asyncio.run(ask(service.app, "/search", {"query": "milk"}, *headers))
    assert status in (200, 403, 413, 415), content
    assert len(answered[b"x-request-id"]) == 32

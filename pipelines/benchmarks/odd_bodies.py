"""Bodies that a service meets sooner or later: broken JSON, wrong types, huge and odd numbers, and all of Unicode."""

import random
from collections.abc import Iterator
from typing import Any

import orjson

CALLS = ("search", "recommend", "similar", "events")
TEXTS = (
    "",
    " \t\n",
    "\u0000",
    "a\u0000b",
    "\ufeffmilk",
    "\u200b\u200d\u2060",
    "\u202emilk\u202c",
    "e\u0301" * 20,
    "Z\u0351\u0334\u0301" * 30,
    "\U0001f95b\U0001f469\u200d\U0001f33e",
    "\U0010ffff\ufffe\uffff",
    "mi\u00adlk",
    "ＭＩＬＫ ﬁne",
    "İstanbul ı ß ſ",
    "牛奶 ミルク 우유 молоко γάλα دودھ दूध חלב",
    "milk' OR 1=1 --",
    "{{7*7}} ${jndi:x} <script>",
    "../../etc/passwd",
    "milk " * 150,
    "m" * 999,
    "m" * 1_001,
    "m" * 100_000,
    "?*+[](){}^$\\|\"'`",
    "-",
    ".",
    "%",
    "%00",
    "\\u0000",
    "1e999",
    "NaN",
    "null",
    "0" * 400,
)
NUMBERS: tuple[Any, ...] = (0, -1, 1, 2, 99, 100, 101, 2**31, 2**63, 10**30, -(10**30), 0.5, -0.0, 1e308, 5e-324)
ODD: tuple[Any, ...] = (None, True, False, [], {}, [None], {"a": {}}, [[[[]]]], "1", "true")
RAW = (
    b"",
    b" ",
    b"null",
    b"[]",
    b"0",
    b'"milk"',
    b"{",
    b'{"query":',
    b'{"query": "milk",}',
    b"{'query': 'milk'}",
    b'{"query": "\xff\xfe"}',
    b'{"query": "\xed\xa0\x80"}',
    b'{"query": "\\ud800"}',
    b'{"query": "\\udc00\\ud800"}',
    b'{"query": "a\nb"}',
    b'{"k": NaN, "query": "milk"}',
    b'{"k": Infinity, "query": "milk"}',
    b'{"k": 1e999, "query": "milk"}',
    b'{"k": 01, "query": "milk"}',
    b'{"k": 1, "k": 2, "query": "milk", "query": "bread"}',
    b"\xef\xbb\xbf" + b'{"query": "milk"}',
    b'{"query": "milk"}{"query": "milk"}',
    b'{"query": "milk"}\x00',
    b"[" * 100_000,
    b'{"a":' * 50_000,
    b'{"filters":' * 1_000 + b"{}" + b"}" * 1_000,
    b"\x00" * 1_000,
    b"\x1f\x8b\x08\x00",
    '{"query": "milk"}'.encode("utf-16"),
    b'{"query": "' + b"\\u0041" * 50_000 + b'"}',
    b'{"' + b"k" * 100_000 + b'": 1}',
)
TIMES = (
    "",
    "now",
    "2026-13-01T00:00:00Z",
    "2026-02-30T00:00:00Z",
    "2026-01-01",
    "2026-01-01T00:00:00",
    "0001-01-01T00:00:00Z",
    "9999-12-31T23:59:59+23:59",
    "0000-00-00T00:00:00Z",
    "2026-01-01T00:00:00.123456789012Z",
    "2026-06-30T23:59:60Z",
    "+292277026596-12-04T15:30:08Z",
)


def odd_requests(item_id: str, seed: int) -> Iterator[tuple[str, bytes]]:
    """Yield calls and bodies, on and on: all that is listed first, then mixtures of it."""
    for call in CALLS:
        yield from ((call, raw) for raw in RAW)
        for field in _good(call, item_id):
            yield from ((call, _dumped({**_good(call, item_id), field: value})) for value in (*TEXTS, *NUMBERS, *ODD))
    for time in TIMES:
        yield "events", _dumped({"events": [{**_event(item_id), "event_timestamp": time}]})
    chooser = random.Random(seed)  # noqa: S311 - not for secrets
    while True:
        call = chooser.choice(CALLS)
        yield call, _mixture(call, item_id, chooser)


def _mixture(call: str, item_id: str, chooser: random.Random) -> bytes:
    body = _good(call, item_id)
    for _ in range(chooser.randint(1, 3)):
        part: dict[str, Any] = body
        if call == "events" and isinstance(body.get("events"), list) and chooser.random() < 0.8:
            part = _event(item_id)
            body["events"] = [part] * chooser.choice((1, 1, 2, 50))
        name = chooser.choice(
            [*part, "k", "filters", "user_id", "session_id", "position", "value", chooser.choice(TEXTS[:20])]
        )
        part[name] = chooser.choice(
            (chooser.choice(TEXTS), chooser.choice(NUMBERS), chooser.choice(ODD), _letters(chooser))
        )
    raw = bytearray(_dumped(body))
    if chooser.random() < 0.2 and raw:
        raw[chooser.randrange(len(raw))] = chooser.randrange(256)
    if chooser.random() < 0.1:
        del raw[chooser.randrange(len(raw) + 1) :]
    return bytes(raw)


def _good(call: str, item_id: str) -> dict[str, Any]:
    filters = {"categories": ["kind 1"], "brands": [], "min_price": 1.0, "max_price": 9.5}
    bodies: dict[str, dict[str, Any]] = {
        "search": {"query": "milk", "user_id": "odd", "k": 5, "filters": filters},
        "recommend": {"user_id": "odd", "k": 5, "seed_items": [item_id], "filters": filters},
        "similar": {"item_id": item_id, "k": 5, "kind": "similar"},
        "events": {"events": [_event(item_id)]},
    }
    return bodies[call]


def _event(item_id: str) -> dict[str, Any]:
    return {"user_id": "odd", "event_type": "view", "item_id": item_id, "position": 1, "value": 1.5}


def _letters(chooser: random.Random) -> str:
    """Return text of any planes of Unicode but the surrogates, which UTF-8 does not have."""
    codes = (chooser.choice((0x7F, 0x2FF, 0xFFFF, 0x10FFFF)) for _ in range(chooser.randint(1, 40)))
    return "".join(chr(code) for most in codes if not 0xD800 <= (code := chooser.randint(0, most)) <= 0xDFFF)


def _dumped(body: Any) -> bytes:
    try:
        return orjson.dumps(body)
    except (TypeError, ValueError):  # numbers that orjson does not write
        import json

        return json.dumps(body).encode()

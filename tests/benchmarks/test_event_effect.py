"""Probes against a service that shows an event when the test says so; and both benches that need a deployed bundle."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from pipelines.benchmarks.event_effect import (
    Effects,
    bench_event_effect,
    has_items_call,
    probe_item,
    probe_user,
)
from pipelines.benchmarks.serving import bench_serving
from pipelines.benchmarks.serving_bars import RECOMMEND, SEARCH_CACHED, SEARCH_NEW, TWO_RECOMMEND, TWO_WORKERS, WORKER
from pipelines.benchmarks.serving_cases import Durations
from pipelines.benchmarks.shop_home import ShopHome
from pipelines.errors import ConfigError, StoreError


class Service:
    """Shows a purchase in the n-th answer after it; knows everybody, or nobody without events."""

    def __init__(self, *, shown_after: int = 1, knows_everybody: bool = True, takes_items: bool = False) -> None:
        self.shown_after = shown_after
        self.knows_everybody = knows_everybody
        self.takes_items = takes_items
        self.bought: set[str] = set()
        self.sessions: list[str] = []
        self.items = ["a", "b", "c"]
        self._since = 0

    def answer(self, path: str, body: dict) -> tuple[int, dict]:
        if path == "/events":
            self.bought.add(body["events"][0]["item_id"])
            self.sessions.append(body["events"][0].get("session_id", ""))
            self._since = 0
            return 202, {}
        if path == "/items":
            self.items += [item["item_id"] for item in body["items"]]
            return (202 if body["items"] else 422) if self.takes_items else 404, {}
        self._since += 1
        is_shown = bool(self.bought) and self._since >= self.shown_after
        left = [item for item in self.items if not (is_shown and item in self.bought)]
        return 200, {"items": [{"item_id": item} for item in left], "personalized": self.knows_everybody or is_shown}

    @contextmanager
    def running(self) -> Iterator[int]:
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status, answer = service.answer(self.path, body)
                content = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def do_PUT(self) -> None:
                self.do_POST()

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            server.server_close()


@pytest.mark.parametrize(("shown_after", "at_once"), [pytest.param(1, 1, id="at once"), pytest.param(4, 0, id="later")])
def test_an_effect_counts_from_the_event_to_the_answer_without_the_item(shown_after, at_once):
    effects = Effects("known user")
    service = Service(shown_after=shown_after)
    with service.running() as port:
        probe_user(port, "u", effects, session="s")
    assert (len(effects.effect_ms), effects.at_once, effects.never_seen) == (1, at_once, 0)
    assert service.bought == {"a"}
    assert service.sessions == ["s"]
    assert effects.effect_ms[0] >= 2.0 * (shown_after - 1)


def test_an_effect_that_is_never_seen_is_counted(monkeypatch):
    monkeypatch.setattr("pipelines.benchmarks.event_effect._GIVE_UP_S", 0.02)
    effects = Effects("known user")
    with Service(shown_after=10**6).running() as port:
        probe_user(port, "u", effects)
    assert (effects.effect_ms, effects.never_seen) == ([], 1)
    assert [record.metric for record in effects.records("toy")] == ["never_seen"]


def test_a_stranger_has_to_be_one_before():
    with Service().running() as port, pytest.raises(StoreError, match="`personalized` is True before the event"):
        probe_user(port, "u", Effects("unknown user"), stranger=True)
    effects = Effects("unknown user")
    with Service(knows_everybody=False).running() as port:
        probe_user(port, "u", effects, stranger=True)
    assert effects.at_once == 1


def test_items_are_put_only_where_the_service_takes_them():
    with Service().running() as port:
        assert not has_items_call(port)
    effects = Effects("new item")
    with Service(takes_items=True).running() as port:
        assert has_items_call(port)
        probe_item(port, "new-1", effects)
    assert effects.at_once == 1


def test_percentiles_are_of_the_effects_that_were_seen():
    effects = Effects("known user", effect_ms=[1.0, 2.0, 3.0], at_once=2, never_seen=1)
    found = {record.metric: record.value for record in effects.records("toy")}
    assert found == {
        "p50_ms": 2.0,
        "p99_ms": pytest.approx(2.98),
        "seen_at_once": pytest.approx(2 / 3),
        "never_seen": 1.0,
    }


def test_without_a_deployed_bundle_it_says_what_to_run(tmp_path, monkeypatch):
    monkeypatch.setenv("HEADRACE_HOME", str(tmp_path))
    with pytest.raises(ConfigError, match="run `headrace loop` first"):
        bench_event_effect()


@pytest.fixture(scope="module")
def deployed_home(tmp_path_factory):
    home = ShopHome(tmp_path_factory.mktemp("deployed"))
    shop = home.prepare(items=1_000, users=30, words=500, sales=600, seed=1)
    home.write_bundle(shop, "only", dim=64, seed=1)
    home.point_to("only")
    return home.places.home


@pytest.mark.slow
def test_event_effect_from_end_to_end(deployed_home, monkeypatch, tmp_path):
    monkeypatch.setenv("HEADRACE_HOME", str(deployed_home))
    bench_event_effect(rate=4, seconds=2, json_file=tmp_path / "e.json")
    found = {(one["case"], one["metric"]): one["value"] for one in json.loads((tmp_path / "e.json").read_text())}
    for case in ("known user", "unknown user", "new session"):
        assert found[case, "never_seen"] == 0
        assert found[case, "p50_ms"] > 0
    assert found["load", "failures"] == 0


@pytest.mark.slow
def test_the_serving_bench_from_end_to_end(deployed_home, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("HEADRACE_HOME", str(deployed_home))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    short = Durations(
        warm_s=0.05, round_s=0.2, rounds=2, capacity_s=0.4, half_warm_s=0.2, half_s=1.0, half_answers=0, generator_s=0.1
    )
    bench_serving(json_file=tmp_path / "s.json", durations=short, users=60)
    found = {(one["case"], one["metric"]): one["value"] for one in json.loads((tmp_path / "s.json").read_text())}
    for case in (RECOMMEND, SEARCH_CACHED, SEARCH_NEW):
        assert {metric for name, metric in found if name == case} >= {"cpu_ms", "p50_ms", "p99_ms", "rps_per_core"}
        assert found[case, "failures"] == 0
        assert 0 < found[case, "cpu_ms"] < 1_000
    assert found[WORKER, "ready_s"] > 0
    assert found[WORKER, "memory_uss_mib"] <= found[WORKER, "memory_pss_mib"] + 1
    for case in (TWO_RECOMMEND, TWO_WORKERS):
        assert found[case, "over_one"] > 0
        assert 0 < found[case, "generator_cpu_ms"] < 1_000
    assert found["index", "recall@100"] > 0.98
    assert "≥ 1,000" in capsys.readouterr().out

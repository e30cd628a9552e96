"""The stress test's own parts; the whole of it is `make stress-promotion`."""

import json
import threading
import time
from collections import Counter
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from bentos.recommender.rehearsal import rehearse
from pipelines.benchmarks.steady_load import Load, Tally, steady_load
from pipelines.benchmarks.stress_promotion import Outcome, _records
from pipelines.benchmarks.synthetic_shop import make_shop, write_files, write_shop_bundle
from pipelines.config import ServingConfig
from pipelines.errors import BundleError
from pipelines.inference.bundle import load_bundle

GOOD = {
    "tally": Tally(seconds=10, latencies_ms=[1.0] * 600, versions=Counter(first=600)),
    "bundle_mib": 20.0,
    "open_bundle_mib": 45.0,
    "memory_mib": [400.0, 425.0, 435.0],
    "promotions_s": [5.0],
    "rollbacks_s": [2.0],
    "guard_s": 1.0,
}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        pytest.param({}, None, id="all is well"),
        pytest.param(
            {"tally": Tally(10, ["/search: status 500"], 2, latencies_ms=[1.0] * 600)},
            "2 of 600 requests failed (/search: status 500)",
            id="failures",
        ),
        pytest.param({"tally": Tally(10)}, "0 of 0 requests failed ()", id="nothing was sent"),
        pytest.param(
            {"memory_mib": [400.0, 430.0, 445.0]},
            "memory grew by 45.0 MiB, an open bundle takes 45.0 MiB",
            id="a bundle stays",
        ),
        pytest.param(
            {"memory_mib": [400.0, 410.0, 430.0]},
            "after the first round memory grew by 20.0 MiB, a bundle's files have 20.0 MiB",
            id="it grows on and on",
        ),
        pytest.param(
            {"tally": Tally(10, latencies_ms=[1.0] * 499)},
            "49.9 requests a second were sent, 50 are needed",
            id="too few requests",
        ),
        pytest.param(
            {"guard_s": float("nan")}, "a canary that finds nothing was not stopped within 60 s", id="no guard"
        ),
        pytest.param(
            {"tally": Tally(10, latencies_ms=[1.0] * 600, versions=Counter(bad=3))},
            "3 answers came from a bundle that finds nothing",
            id="bad answers",
        ),
        pytest.param({"wrong_answers": ["after a swap"]}, "after a swap", id="another bundle answers"),
    ],
)
def test_what_must_not_be(changes, problem):
    outcome = Outcome(1, 60.0, **{**GOOD, **changes})
    assert (outcome.problems[0] if outcome.problems else None) == problem


def test_the_records_hold_each_number_once():
    records = {(one.case, one.metric): one.value for one in _records(Outcome(1, 60.0, **GOOD), "toy")}
    assert records["under load", "failures"] == 0
    assert records["under load", "memory_growth_mib"] == 35.0
    assert records["under load", "swaps"] == 2
    assert records["rollback", "max_s"] == 2.0
    assert records["bad canary stopped", "max_s"] == 1.0


class Answering(BaseHTTPRequestHandler):
    """Answers like the service; every search fails."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        body = json.dumps({"items": [{"item_id": "a"}], "model_version": "b1", "degraded": False}).encode()
        self.send_response(503 if self.path == "/search" else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.slow
def test_requests_go_out_at_the_rate_and_failures_are_counted():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        load = Load(server.server_address[1], 100.0, users=["u"], item_ids=["a"], queries=["milk"])
        with steady_load(load) as running:
            time.sleep(2)
            tally = running.stop()
    finally:
        server.shutdown()
        server.server_close()
    assert 60 < tally.requests / tally.seconds < 110
    assert 0 < tally.failed < tally.requests
    assert all(failure.startswith("/search: status 503") for failure in tally.failures)
    assert set(tally.versions) == {"b1"}


def test_a_made_up_shop_has_a_bundle_that_answers_and_one_that_is_sold_out(tmp_path):
    shop = make_shop(items=60, users=5, words=50, seed=1)
    write_shop_bundle(shop, tmp_path / "b1", dim=16, seed=1)
    bundle = load_bundle(tmp_path / "b1")
    best = int(np.argmax(bundle.item_vectors @ bundle.encode_queries([shop.titles[7]])[0]))
    assert bundle.titles[best] == shop.titles[7]
    assert rehearse(tmp_path / "b1", [], serving=ServingConfig()).median_ms > 0
    write_shop_bundle(shop, tmp_path / "b2", dim=16, seed=2, available=False)
    with pytest.raises(BundleError, match="with 0 items"):
        rehearse(tmp_path / "b2", [], serving=ServingConfig())


def test_its_files_are_a_catalogue_and_sales(tmp_path):
    shop = make_shop(items=6, users=5, words=50, seed=1)
    mapping = write_files(shop, tmp_path / "shop", sales=9, now=datetime(2026, 3, 1, tzinfo=UTC), seed=1)
    assert len((mapping.parent / "items.csv").read_text().splitlines()) == 7
    assert (mapping.parent / "sales.csv").read_text().splitlines()[1].startswith("sale-0,customer-")

"""Events and the real service while things break: it is killed, Redis hangs or goes away, the disk is full."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.client import HTTPException
from pathlib import Path

import pytest

from pipelines.benchmarks.process_accounts import workers
from pipelines.places import Places
from pipelines.pseudonyms import Pseudonymizer
from pipelines.stores.event_log import EventLog
from pipelines.stores.online_features import OnlineFeatures, UserFeatures
from pipelines.stores.serving_pointer import ServingPointer, write_pointer
from tests.bentos.test_service_over_http import ENVIRONMENT, KEY, Client, free_port, item_ids, running
from tests.stores.test_feature_store import UNTIL
from tests.toys.event_tables import day, event
from tests.toys.live_shop import LiveShop
from tests.toys.redis_server import RedisServer, needs_redis
from tests.toys.toy_bundle import write_toy_bundle

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:feast", "ignore::DeprecationWarning:ibis"),
]
PSEUDONYMIZER = Pseudonymizer(KEY.encode())
PSEUDONYM = PSEUDONYMIZER.pseudonym
ITEMS = ["a", "b", "c", "e"]


class Home:
    """A home with a deployed bundle and an online store that knows Ann: she viewed the green pear."""

    def __init__(self, folder: Path, online_store: str | None = None) -> None:
        self.places = Places(folder)
        self.store = {"HEADRACE_ONLINE_STORE": online_store} if online_store else {}
        seen = [event(PSEUDONYM("ann"), "c", day(1), kind="view")]
        LiveShop(folder, seen, until=UNTIL, environment=self.store).materialize()
        write_toy_bundle(self.places.bundles / "b1")
        pointer = ServingPointer(bundle="b1", folder=self.places.bundles / "b1", deployed_at=datetime.now(UTC))
        write_pointer(self.places.current_bundle, pointer)

    @contextmanager
    def serving(self, end_with: int = signal.SIGTERM, n_workers: int = 1, **settings: float) -> Iterator[Client]:
        config = self.places.home / "config.yaml"
        config.write_text(json.dumps({"serving": {"feature_timeout_ms": 10_000, "deadline_ms": 20_000, **settings}}))
        port = free_port()
        command = [sys.executable, "-m", "bentoml", "serve", "bentos.recommender.service:Recommender"]
        command += ["--port", str(port), "--host", "127.0.0.1"]
        environment = {
            **ENVIRONMENT,
            **self.store,
            "HEADRACE_HOME": str(self.places.home),
            "HEADRACE_PSEUDONYM_KEY": KEY,
            "HEADRACE_CONFIG": str(config),
            "BENTOML_CONFIG_OPTIONS": "",
            "BENTOML_HOME": str(self.places.bentoml),
            "BENTOML_CONFIG_OVERRIDES": json.dumps({"services": {"headrace": {"workers": n_workers}}}),
            "OMP_NUM_THREADS": "1",
            "PYTHONWARNINGS": "ignore",
            "PYTHONPATH": str(Path(__file__).parents[2]),
        }
        with running(command, environment, port, self.log, end_with) as client:
            yield client

    @property
    def log(self) -> Path:
        return self.places.home / "service.log"

    def known(self, user: str) -> UserFeatures:
        """Return what the online store holds of a user, as another process reads it."""
        return OnlineFeatures(self.places.feast, environment=self.store).read_user(PSEUDONYM(user))

    def logged(self) -> list[dict]:
        return EventLog(self.places.event_log).read(None, datetime.now(UTC)).to_pylist()


def viewed(user: str, item: str, kind: str = "view") -> dict:
    return {"user_id": user, "event_type": kind, "item_id": item}


def send(client: Client, *events: dict) -> dict:
    status, answer = client.post("events", {"events": list(events)})
    assert status == 202, answer
    return answer


def recommended(client: Client, user: str) -> dict:
    status, answer = client.post("recommend", {"user_id": user, "k": 6})
    assert status == 200, answer
    return answer


def wait_until(condition: Callable[[], bool], seconds: float = 30) -> float:
    began = time.monotonic()
    while not condition():
        assert time.monotonic() < began + seconds
        time.sleep(0.05)
    return time.monotonic() - began


def wait_until_equal(found: Callable[[], object], expected: object, seconds: float = 30) -> None:
    until = time.monotonic() + seconds
    while (now := found()) != expected and time.monotonic() < until:
        time.sleep(0.05)
    assert now == expected


@pytest.fixture
def home(tmp_path) -> Home:
    return Home(tmp_path)


def test_an_event_changes_the_next_answer_in_every_worker(home):
    with home.serving(n_workers=2) as client:
        for user in ("ann", "stranger"):
            for item in ITEMS:
                send(client, viewed(user, item, "purchase"))
                for _ in range(8):  # whichever worker answers: what was bought is not recommended
                    answer = recommended(client, user)
                    assert item not in item_ids(answer) and not answer["degraded"], answer
        for _ in range(8):
            status, told = client.post("explain", {"request_id": answer["request_id"]})
            assert (status, told["explains"]["request_id"]) == (200, answer["request_id"])
        assert home.known("ann").item_ids == ["c", *ITEMS]


def test_events_of_one_user_at_one_moment_all_count(home):
    at = datetime.now(UTC).isoformat()
    with home.serving() as client:
        calls = [
            threading.Thread(target=send, args=(client, {**viewed("bob", "a", "purchase"), "event_timestamp": at}))
            for _ in range(12)
        ]
        for call in calls:
            call.start()
        for call in calls:
            call.join()
    assert home.known("bob").activity["purchases"] == 12.0


def test_after_kill_9_no_acknowledged_event_is_lost_and_the_online_histories_have_them_all(home):
    acknowledged: dict[str, list[str]] = {}
    lock, killed = threading.Lock(), threading.Event()

    def shop(client: Client, number: int) -> None:
        chooser = random.Random(number)
        for turn in range(10_000):
            if killed.is_set():  # those whose connection waits for the next process would go on with it
                return
            user, item = f"user-{number}-{turn % 5}", chooser.choice(ITEMS)
            try:
                status, _ = client.post("events", {"events": [viewed(user, item, "cart")]})
            except (OSError, ValueError, HTTPException):
                return
            if status == 202:
                with lock:
                    acknowledged.setdefault(user, []).append(item)

    with home.serving(end_with=signal.SIGKILL) as client:
        shoppers = [threading.Thread(target=shop, args=(client, number)) for number in range(4)]
        for shopper in shoppers:
            shopper.start()
        wait_until(lambda: sum(map(len, acknowledged.values())) > 200)
        for process in workers(os.getpid()):
            os.kill(process, signal.SIGKILL)
        killed.set()
        for shopper in shoppers:
            shopper.join()
    # Events whose process died between the log and the store: in the log, and nowhere else.
    lost = [event(PSEUDONYM(f"lost-{number}"), "a", datetime.now(UTC), kind="cart") for number in range(3)]
    EventLog(home.places.event_log).append([{**one, "created_timestamp": None} for one in lost])
    logged: dict[str, int] = {}
    for row in home.logged():
        logged[row["user_id"]] = logged.get(row["user_id"], 0) + 1
    for user, items in acknowledged.items():
        assert logged[PSEUDONYM(user)] >= len(items)

    with home.serving() as client:
        wait_until(lambda: all(home.known(f"lost-{number}").item_ids == ["a"] for number in range(3)))
        counts = {user: logged[PSEUDONYM(user)] for user in acknowledged}
        wait_until_equal(lambda: {user: home.known(user).activity["carts"] for user in counts}, counts)
        assert recommended(client, "lost-1")["personalized"]
    assert "events that the online store lacks: they are pushed" in home.log.read_text()
    before = {user: home.known(user) for user in acknowledged}
    (home.places.feast / "pushed_until.json").unlink()
    with home.serving():
        wait_until((home.places.feast / "pushed_until.json").exists)
    assert {user: home.known(user) for user in acknowledged} == before


@needs_redis
def test_redis_that_hangs_or_is_down_costs_no_answer_and_no_event_and_is_found_again(tmp_path):
    server = RedisServer(tmp_path / "redis").start()
    try:
        home = Home(tmp_path / "home", server.address)
        settings = {"feature_timeout_ms": 200, "deadline_ms": 1_000, "user_cache_s": 0, "push_timeout_ms": 300}
        with home.serving(**settings) as client:
            send(client, viewed("ann", "a", "purchase"))
            wait_until(lambda: not recommended(client, "ann")["degraded"])
            for stop, go_on in ((server.pause, server.resume), (server.stop, server.start)):
                stop()
                began, slowest = time.monotonic(), 0.0
                while time.monotonic() < began + 4:
                    asked = time.monotonic()
                    answer = recommended(client, "ann")
                    slowest = max(slowest, time.monotonic() - asked)
                    assert answer["degraded"] and "a" not in item_ids(answer), answer
                    assert send(client, viewed("newcomer", "b", "purchase"))["degraded"]
                    assert "b" not in item_ids(recommended(client, "newcomer"))
                assert slowest < 1
                go_on()
                wait_until(lambda: not recommended(client, "ann")["degraded"], seconds=4)
                wait_until(lambda: not recommended(client, "newcomer")["degraded"], seconds=20)
                bought = float(sum(row["user_id"] == PSEUDONYM("newcomer") for row in home.logged()))
                wait_until(lambda bought=bought: home.known("newcomer").activity["purchases"] == bought, seconds=20)
            status, metrics = client.get("/metrics")
            assert status == 200
            assert 'headrace_instead_of_fresh_total{used="session"}' in metrics
            assert "headrace_event_to_effect_seconds" in metrics
    finally:
        server.resume()
        server.stop()


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    if (
        os.geteuid()
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], check=False).returncode
    ):
        pytest.skip("a disk that is full needs the right to mount one")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_under_the_event_log_refuses_events_alone_until_there_is_room(home, small_disk):
    home.places.event_log.symlink_to(small_disk)
    with home.serving() as client:
        send(client, viewed("ann", "a", "purchase"))
        (small_disk / "filling").write_bytes(b"x" * (900 * 2**10))
        body = json.dumps({"events": [viewed("bob", "b") for _ in range(1_000)]}).encode()
        request = urllib.request.Request(f"{client.address}/events", body, {"Content-Type": "application/json"})
        with pytest.raises(urllib.error.HTTPError) as refusal:
            urllib.request.urlopen(request, timeout=10)
        assert (refusal.value.code, int(refusal.value.headers["Retry-After"])) == (503, 1)
        assert "No space left on device" in json.load(refusal.value)["error"]
        assert not recommended(client, "ann")["degraded"]
        assert client.post("search", {"query": "pears"})[0] == 200
        (small_disk / "filling").unlink()
        assert send(client, *[viewed("bob", "b") for _ in range(1_000)])["accepted"] == 1_000
    assert len(home.logged()) == 1_001

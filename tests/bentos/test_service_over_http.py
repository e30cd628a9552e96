"""The real service: BentoML in its own process, the real Feast, requests over HTTP."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import positive_data_acceptance
from schemathesis.specs.openapi.checks import ignored_auth

from pipelines.commands.serve import check_surroundings, serve, serving_environment
from pipelines.config import DeploymentConfig
from pipelines.errors import BundleError, ConfigError
from pipelines.places import Places
from pipelines.progress import SilentProgress
from pipelines.pseudonyms import Pseudonymizer
from pipelines.rollout.plan import RolloutPlan, Trial
from pipelines.schemas import Deployment
from pipelines.steps.build_bento import build_bento
from pipelines.steps.deploy_bundle import deploy_bundle, rehearse_beside
from pipelines.steps.embed_new_items import embed_new_items
from pipelines.stores.event_log import EventLog
from pipelines.stores.new_items_store import remove_new_items
from pipelines.stores.rollout_file import read_plan, read_stop, write_plan
from pipelines.stores.serving_pointer import read_pointer
from pipelines.stores.shadow_answers import read_shadow_answers
from tests.stores.test_feature_store import UNTIL
from tests.toys.event_tables import day, event, tables_with
from tests.toys.live_shop import LiveShop
from tests.toys.toy_bundle import ITEMS, write_toy_bundle

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:feast", "ignore::DeprecationWarning:ibis"),
]

KEY = "a key for tests, long enough"
PROJECT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith(("HEADRACE_", "BENTOML_"))}


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> Places:
    """A home with two bundles, the first of them deployed, and what Feast knows of Ann: she viewed the green pear."""
    home = tmp_path_factory.mktemp("home")
    ann = Pseudonymizer(KEY.encode()).pseudonym("ann")
    LiveShop(home, [event(ann, "c", day(1), kind="view")], until=UNTIL).materialize()
    places = Places(home)
    for bundle in ("b1", "b2"):
        write_toy_bundle(places.bundles / bundle)
    deploy(places, "b1")
    return places


def deploy(places: Places, bundle: str) -> Deployment:
    return deploy_bundle(
        bundle,
        places=places,
        config=DeploymentConfig(),
        now=datetime.now(UTC),
        rehearse=partial(
            rehearse_beside,
            requests=places.served_requests,
            limit=50,
            timeout_s=120,
            project_dir=PROJECT,
            environment=ENVIRONMENT,
        ),
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Client:
    """Sends JSON, returns status and JSON."""

    def __init__(self, port: int) -> None:
        self.address = f"http://127.0.0.1:{port}"

    def get(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"{self.address}{path}", timeout=10) as response:
                return response.status, response.read().decode()
        except OSError as error:
            return getattr(error, "code", 0), str(error)

    def post(self, call: str, body: object) -> tuple[int, dict]:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.address}/{call}", data, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=10) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)


@contextmanager
def running(command: list[str], environment: dict[str, str], port: int, log: Path, end_with: int = signal.SIGTERM):
    """Run a service until it is ready, and end it with the block; a worker that outlives it writes on in its log."""
    with log.open("ab") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT, cwd=log.parent)
    try:
        client = Client(port)
        deadline = time.monotonic() + 120
        while client.get("/readyz")[0] != 200:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        yield client
    finally:
        process.send_signal(end_with)
        process.wait(timeout=20)


@pytest.fixture(scope="module")
def client(places, patient, tmp_path_factory):
    port = free_port()
    command = [str(Path(sys.executable).parent / "headrace"), "serve", "--port", str(port)]
    environment = {
        **ENVIRONMENT,
        "HEADRACE_HOME": str(places.home),
        "HEADRACE_PSEUDONYM_KEY": KEY,
        "HEADRACE_CONFIG": patient,
    }
    with running(command, environment, port, tmp_path_factory.mktemp("service") / "log") as client:
        yield client


@pytest.fixture(scope="module")
def patient(tmp_path_factory) -> str:
    """Settings in which a busy machine does not make an answer a degraded one."""
    path = tmp_path_factory.mktemp("config") / "patient.yaml"
    path.write_text("serving: {feature_timeout_ms: 10000}")
    return str(path)


def item_ids(answer: dict) -> list[str]:
    return [item["item_id"] for item in answer["items"]]


def test_health_and_metrics(client):
    assert client.get("/livez")[0] == 200
    assert client.get("/readyz")[0] == 200
    client.post("search", {"query": "milk"})
    status, metrics = client.get("/metrics")
    assert status == 200
    assert 'headrace_request_seconds_count{call="search",status="2xx"}' in metrics
    assert 'headrace_bundle_info{bundle="b1"} 1.0' in metrics


def test_the_start_page_names_the_calls_and_loads_nothing_from_elsewhere(client):
    status, page = client.get("/")
    assert status == 200
    assert "POST /search" in page
    assert "http" not in page


def test_a_search_and_similar_items(client):
    status, found = client.post("search", {"query": "red apples", "k": 2})
    assert (status, item_ids(found)[0]) == (200, "a")
    status, alike = client.post("similar", {"item_id": "a", "kind": "goes_with"})
    assert (status, item_ids(alike)) == (200, ["b", "d"])


def test_features_come_from_feast_and_an_event_changes_the_next_answer(client, places):
    status, known = client.post("recommend", {"user_id": "ann", "k": 2})
    assert (status, known["personalized"], known["degraded"]) == (200, True, False)
    assert item_ids(known) == ["c", "e"]
    status, accepted = client.post("events", {"events": [{"user_id": "ann", "event_type": "purchase", "item_id": "c"}]})
    assert (status, accepted["accepted"], accepted["degraded"]) == (202, 1, False)
    _, changed = client.post("recommend", {"user_id": "ann", "k": 2})
    assert item_ids(changed)[0] == "e"
    assert "c" not in item_ids(changed)
    logged = EventLog(places.event_log).read(None, datetime.now(UTC)).to_pylist()
    assert [(row["user_id"], row["item_id"]) for row in logged] == [(Pseudonymizer(KEY.encode()).pseudonym("ann"), "c")]


def test_a_stranger_gets_popular_items_until_the_first_event(client):
    _, stranger = client.post("recommend", {"user_id": "bob", "k": 3})
    assert (item_ids(stranger), stranger["personalized"]) == (["d", "c", "b"], False)
    client.post("events", {"events": [{"user_id": "bob", "event_type": "view", "item_id": "e"}]})
    _, known = client.post("recommend", {"user_id": "bob", "k": 3})
    assert (item_ids(known)[0], known["personalized"]) == ("e", True)


@pytest.mark.parametrize(
    ("call", "body", "status"),
    [
        ("search", b"{broken", 400),
        ("search", {"query": "x" * 10_000}, 422),
        ("similar", {"item_id": "zzz"}, 404),
        ("events", {"events": [{"user_id": "u", "event_type": "hug"}]}, 422),
        ("nothing", {}, 404),
    ],
    ids=["broken JSON", "long query", "unknown item", "unknown event", "unknown call"],
)
def test_a_bad_request_gets_one_sentence(client, call, body, status):
    found, answer = client.post(call, body)
    assert found == status
    assert list(answer) == ["error"]
    assert "Traceback" not in answer["error"]


def test_a_deployment_fails_no_request(client, places):
    answers: list[tuple[int, str]] = []
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            status, answer = client.post("search", {"query": "green pear", "k": 1})
            answers.append((status, answer.get("model_version", "")))

    asking = [threading.Thread(target=ask) for _ in range(3)]
    for thread in asking:
        thread.start()
    try:
        for bundle in ("b2", "b1", "b2"):
            deployment = deploy(places, bundle)
            assert len(deployment.services) == 1
            assert client.post("search", {"query": "green pear", "k": 1})[1]["model_version"] == bundle
    finally:
        stop.set()
        for thread in asking:
            thread.join()
    assert {status for status, _ in answers} == {200}
    assert {version for _, version in answers} == {"b1", "b2"}


def plan(places: Places, **bundles: str) -> None:
    trials = {
        kind: Trial(id=f"{bundle}-{kind}-{time.time_ns()}", bundle=bundle, share=1, started_at=datetime.now(UTC))
        for kind, bundle in bundles.items()
    }
    write_plan(places.rollout, RolloutPlan(**trials))


def until(condition, seconds: float = 30.0) -> float:
    """Wait, and return for how long."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() < began + seconds
        time.sleep(0.1)
    return time.monotonic() - began


def test_a_canary_and_a_shadow_follow_the_plan_without_a_redeploy(client, places):
    live = read_pointer(places.current_bundle).bundle
    other = "b1" if live == "b2" else "b2"

    def version() -> str:
        return client.post("recommend", {"user_id": "eve", "k": 1})[1]["model_version"]

    plan(places, canary=other)
    until(lambda: version() == other)
    plan(places, shadow=other)
    until(lambda: version() == live)
    until(lambda: version() == live and bool(read_shadow_answers(places.shadow_answers)))
    plan(places)
    assert {row["shadow"] for row in read_shadow_answers(places.shadow_answers)} == {other}


def test_a_canary_that_finds_nothing_is_stopped_by_its_guard_and_no_request_fails(client, places):
    sold_out = ITEMS.set_column(ITEMS.column_names.index("available"), "available", [np.array([False] * 6)])
    write_toy_bundle(places.bundles / "empty", items=sold_out)
    plan(places, canary="empty")
    canary = read_plan(places.rollout).canary.id
    answers: list[tuple[int, str]] = []

    def is_stopped() -> bool:
        status, answer = client.post("recommend", {"user_id": f"user-{len(answers)}", "k": 1})
        answers.append((status, answer["model_version"]))
        return read_stop(places.canary_stops, canary) is not None

    assert until(is_stopped, seconds=60) < 60
    assert {status for status, _ in answers} == {200}
    assert "empty" not in {version for _, version in answers}
    assert "answers were empty" in read_stop(places.canary_stops, canary).reason


def test_an_item_that_arrives_between_trainings_is_found_within_seconds(client, places):
    assert "rye milk" not in item_ids(client.post("search", {"query": "rye milk"})[1])
    end = UNTIL + timedelta(days=1)
    tables = tables_with(places.home, [event("u", "rye milk", end - timedelta(hours=1))], until=end)
    live = read_pointer(places.current_bundle)
    assert live is not None
    embedded = embed_new_items(
        live.folder,
        tables=tables,
        new_items=places.new_items,
        progress=SilentProgress(),
    )
    assert embedded.items == 1
    deadline = time.monotonic() + 15
    while item_ids(client.post("search", {"query": "rye milk", "k": 1})[1]) != ["rye milk"]:
        assert time.monotonic() < deadline, "the new item is not found"
        time.sleep(0.1)
    client.post("events", {"events": [{"user_id": "dan", "event_type": "view", "item_id": "e"}]})
    _, recommended = client.post("recommend", {"user_id": "dan", "k": 6})
    assert "rye milk" in item_ids(recommended)
    remove_new_items(places.new_items, live.bundle)  # other tests want the bundle alone


NOT_CHECKED = [
    positive_data_acceptance,  # a query of blanks and an event of tomorrow are refused, which a schema cannot say
    ignored_auth,  # this service has no keys and answers its own machine
]


def test_what_the_description_allows_and_forbids_is_answered_as_it_says(client):
    """Schemathesis makes requests of the description, sound and unsound ones, and looks at each answer."""
    schema = schemathesis.openapi.from_url(f"{client.address}/openapi.json")
    answered: Counter[int] = Counter()
    for result in schema.get_all_operations():
        operation = result.ok()
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):

            @given(case=operation.as_strategy(generation_mode=mode))
            @settings(
                max_examples=60, deadline=None, database=None, suppress_health_check=list(HealthCheck), derandomize=True
            )
            def ask(case):
                response = case.call()
                answered[response.status_code] += 1
                if response.status_code != 413:  # too large to be looked at, which schemathesis takes for accepted
                    case.validate_response(response, excluded_checks=NOT_CHECKED)

            with suppress(Unsatisfiable):  # there is nothing unsound to send where nothing is taken
                ask()
    assert {200, 400, 404, 422} <= set(answered), answered


OPEN_AND_ANSWER = """
import sys
from bentos.recommender.contract.requests import EventBody, EventsBody, RecommendBody, SearchBody
from bentos.recommender.service import Recommender, check_surroundings, open_answers

check_surroundings()
answers = open_answers()
answers.events(EventsBody(events=[EventBody(user_id="cid", event_type="view", item_id="a")]))
print(answers.recommend(RecommendBody(user_id="cid"))["personalized"])
print(answers.search(SearchBody(query="milk"))["degraded"])
answers.close()
print(sorted({"torch", "transformers", "mlflow", "airflow", "great_expectations"} & set(sys.modules)))
"""


def test_the_service_never_imports_torch(places, patient):
    environment = {
        **ENVIRONMENT,
        "HEADRACE_HOME": str(places.home),
        "HEADRACE_PSEUDONYM_KEY": KEY,
        "HEADRACE_CONFIG": patient,
    }
    result = subprocess.run(
        [sys.executable, "-c", OPEN_AND_ANSWER], env=environment, capture_output=True, text=True, check=False
    )
    assert result.stdout.splitlines() == ["True", "False", "[]"], result.stderr


def test_a_built_bento_serves_its_bundle_without_our_disk(places, tmp_path):
    bento = build_bento("b2", bundles_dir=places.bundles, bentoml_home=tmp_path / "bentoml", project_dir=PROJECT)
    elsewhere = Places(tmp_path / "elsewhere")
    port = free_port()
    command = [sys.executable, "-m", "bentoml", "serve", bento.tag, "--port", str(port)]
    environment = serving_environment(elsewhere, {**ENVIRONMENT, "HEADRACE_PSEUDONYM_KEY": KEY})
    environment["BENTOML_HOME"] = str(tmp_path / "bentoml")
    with running(command, environment, port, tmp_path / "log") as client:
        status, found = client.post("search", {"query": "rye bread", "k": 1})
        assert (status, found["model_version"], item_ids(found)) == (200, "b2", ["d"])
        _, popular = client.post("recommend", {"user_id": "ann", "k": 1})
        assert (item_ids(popular), popular["degraded"]) == (["d"], True)


def test_after_kill_9_the_port_is_free_again(places, patient, tmp_path):
    port = free_port()
    command = [str(Path(sys.executable).parent / "headrace"), "serve", "--port", str(port)]
    environment = {
        **ENVIRONMENT,
        "HEADRACE_HOME": str(places.home),
        "HEADRACE_PSEUDONYM_KEY": KEY,
        "HEADRACE_CONFIG": patient,
    }
    with running(command, environment, port, tmp_path / "log", end_with=signal.SIGKILL) as client:
        pass
    deadline = time.monotonic() + 15
    while client.get("/livez")[0] == 200:
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_a_worker_whose_server_was_killed_while_it_opened_the_bundle_ends_too(places, patient, tmp_path):
    port = free_port()
    command = [str(Path(sys.executable).parent / "headrace"), "serve", "--port", str(port)]
    environment = {
        **ENVIRONMENT,
        "HEADRACE_HOME": str(places.home),
        "HEADRACE_PSEUDONYM_KEY": KEY,
        "HEADRACE_CONFIG": patient,
        "HEADRACE_BUNDLE": str(places.bundles / "b1"),
    }

    def workers(server: int) -> list[str]:
        return Path(f"/proc/{server}/task/{server}/children").read_text().split()

    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(command, env={**os.environ, **environment}, stdout=log, stderr=log)
        try:
            while not (found := workers(server.pid)):
                assert server.poll() is None, (tmp_path / "log").read_text()
                time.sleep(0.02)
        finally:
            server.kill()
            server.wait()
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{worker}").exists() for worker in found):
        assert time.monotonic() < deadline
        time.sleep(0.2)


# What keeps it from starting


def check(places: Places, port: int = 0, **environment: str) -> None:
    check_surroundings(places, host="127.0.0.1", port=port or free_port(), environment=environment)


def test_without_a_bundle_it_says_what_to_run(tmp_path):
    with pytest.raises(ConfigError, match=r"There is no bundle to serve.*Run `headrace loop`"):
        check(Places(tmp_path), HEADRACE_PSEUDONYM_KEY=KEY)


def test_without_the_key_it_says_where_it_belongs(places):
    with pytest.raises(ConfigError, match=r"The pseudonym key is missing: HEADRACE_PSEUDONYM_KEY is not set"):
        check(places)


def test_another_key_than_that_of_the_tables_does_not_start(places, tmp_path):
    home = Places(tmp_path)
    home.tables.mkdir()
    other = Pseudonymizer(b"another key, long enough").fingerprint
    (home.tables / "manifest.json").write_text(json.dumps({"pseudonym_key": other}))
    bundle = str(places.bundles / "b1")
    with pytest.raises(ConfigError, match=rf"were written with the key of fingerprint {other}: set HEADRACE_PSEUDONYM"):
        check(home, HEADRACE_PSEUDONYM_KEY=KEY, HEADRACE_BUNDLE=bundle)
    environment = {
        **ENVIRONMENT,
        "HEADRACE_HOME": str(tmp_path),
        "HEADRACE_PSEUDONYM_KEY": KEY,
        "HEADRACE_BUNDLE": bundle,
    }
    alone = "from bentos.recommender.service import check_surroundings\ncheck_surroundings()"
    result = subprocess.run(
        [sys.executable, "-c", alone], env=environment, capture_output=True, text=True, check=False, cwd=PROJECT
    )
    assert f"were written with the key of fingerprint {other}" in result.stderr


def test_an_unknown_kind_of_online_store_is_named_before_anything_starts(places):
    with pytest.raises(ConfigError, match=r"HEADRACE_ONLINE_STORE is an address with the scheme 'memcached'"):
        check(places, HEADRACE_PSEUDONYM_KEY=KEY, HEADRACE_ONLINE_STORE="memcached://127.0.0.1")


def test_a_taken_port_is_named_with_another_one(places):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"Port {port} .* `headrace serve --port {port + 1}`"):
            check(places, port, HEADRACE_PSEUDONYM_KEY=KEY)


def test_a_corrupt_bundle_does_not_start(places, tmp_path):
    write_toy_bundle(tmp_path / "bad")
    (tmp_path / "bad" / "popularity.npy").write_bytes(b"")
    with pytest.raises(BundleError, match=r"popularity\.npy"):
        serve(
            host="127.0.0.1",
            port=free_port(),
            environment={
                "HEADRACE_HOME": str(places.home),
                "HEADRACE_BUNDLE": str(tmp_path / "bad"),
                "HEADRACE_PSEUDONYM_KEY": KEY,
            },
        )


def test_bentoml_alone_ends_with_one_line_too(tmp_path):
    command = [sys.executable, "-m", "bentoml", "serve", "bentos.recommender.service:Recommender"]
    result = subprocess.run(
        [*command, "--port", str(free_port())],
        env=serving_environment(Places(tmp_path), ENVIRONMENT),
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 1
    assert "headrace: There is no bundle to serve" in result.stderr
    assert "Traceback" not in result.stderr

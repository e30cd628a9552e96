"""What a burst may do, and what bad clients leave behind; the whole of it is slow."""

import pytest

from pipelines.benchmarks.hostile_clients import crowd, gone_clients, half_open, huge_bodies, most_idle, slow_clients
from pipelines.benchmarks.mixed_load import Entry, Ledger
from pipelines.benchmarks.stress_serving import Burst, Outcome, stress_serving
from pipelines.benchmarks.trivial_server import trivial_server


def entries(count: int, began: float, ended: float, *, ms: float = 5.0, **changes) -> list[Entry]:
    step = (ended - began) / count
    dues = [began + step * number for number in range(count)]
    return [
        Entry(**{"call": "search", "due_s": due, "done_s": due + ms / 1e3, "status": 200, "problem": "", **changes})
        for due in dues
    ]


REFUSED = {"status": 503, "problem": "status 503", "retry_after": True}
CALM = entries(50, 0, 3) + entries(50, 6, 10)


def burst(*more: Entry) -> Burst:
    return Burst(3.0, 6.0, 100.0, [*CALM, *more])


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        pytest.param(burst(*entries(300, 3, 6), *entries(900, 3, 6, **REFUSED)), None, id="all is well"),
        pytest.param(
            burst(*entries(300, 3, 6, ms=1_100)),
            "burst: the 99th percentile of what was accepted is 1100 ms",
            id="slow",
        ),
        pytest.param(
            burst(*entries(300, 3, 6), *entries(90, 3, 6, **{**REFUSED, "retry_after": False})),
            "burst: 90 requests were neither answered nor refused (90 x /search: status 503)",
            id="refused without Retry-After",
        ),
        pytest.param(
            burst(*entries(300, 3, 6), *entries(90, 3, 6, ms=400, **REFUSED)),
            "burst: the 99th percentile of the refusals is 400 ms",
            id="refused late",
        ),
        pytest.param(
            burst(*entries(30, 3, 6), *entries(900, 3, 6, **REFUSED)),
            "burst: 10 requests a second were answered, 100 before it",
            id="busy with refusing",
        ),
        pytest.param(
            burst(*entries(300, 3, 6), *entries(4, 6.5, 6.9, **REFUSED)), None, id="refused within a second after"
        ),
        pytest.param(
            burst(*entries(300, 3, 6), *entries(4, 7.5, 7.9, **REFUSED)),
            "a second after the burst: 4 of 41 requests failed (4 x /search: status 503)",
            id="not recovered",
        ),
        pytest.param(
            burst(*entries(300, 3, 6), *entries(1, 1, 2, **REFUSED)),
            "before the burst: 1 of 51 requests failed (1 x /search: status 503)",
            id="refused in calm",
        ),
    ],
)
def test_what_a_burst_may_do(given, problem):
    assert given.problems == ([] if problem is None else [problem])


def test_others_are_served_and_nothing_stays():
    good = Outcome(cases={"idle": Ledger(CALM)}, kept={"slow clients": 0}, growth_mib=3.0, files_left=2)
    assert good.problems == []
    bad = Outcome(
        cases={"idle": Ledger([*CALM, *entries(1, 1, 2, problem="gone", status=0)]), "gone": Ledger([])},
        kept={"slow clients": 7},
        growth_mib=65.0,
        files_left=200,
    )
    assert bad.problems == [
        "idle: 1 of 101 requests of others failed (1 x /search: gone)",
        "gone: 0 of 0 requests of others failed ()",
        "slow clients: 7 unfinished requests were still waited for after 13 s",
        "memory grew by 65 MiB, 64 are allowed",
        "200 connections stayed open in the service",
    ]


def test_the_records_tell_refused_from_failed():
    records = {
        (one.case, one.metric): one.value
        for one in Outcome(burst(*entries(300, 3, 6), *entries(90, 3, 6, **REFUSED))).records("toy")
    }
    assert records["burst", "refused"] == 90
    assert records["burst", "failures"] == 0
    assert records["burst", "accepted_rps"] == pytest.approx(100)
    assert records["burst", "refused_p99_ms"] == pytest.approx(5)


@pytest.mark.slow
def test_bad_clients_do_what_they_say():
    with trivial_server(None) as port:
        with crowd(port, 30) as opened:
            opened.send(b"GET")
            assert opened.cut_off() == 0
        gone_clients(port, 100, 0.2)
        assert slow_clients(port, 4, 1) == 0
        assert half_open(port, 4, 0.1) == 0
        assert huge_bodies(port, 2) == ["200", "200"]
    assert most_idle(10) == 10


@pytest.mark.slow
def test_stress_serving_from_end_to_end(tmp_path):
    found = stress_serving(idle=300, scale=0.3, work_dir=tmp_path)
    assert found.burst.capacity > 0
    assert len(found.burst.during.entries) > 5 * len(found.burst.before.entries)
    assert set(found.cases) == {"slow clients", "half open", "gone", "huge bodies", "idle"}
    assert all(not ledger.failures for ledger in found.cases.values())

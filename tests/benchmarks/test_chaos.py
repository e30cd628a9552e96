"""What chaos counts as failed and as lost; the whole of it is slow."""

import json
import subprocess
import sys
import time
from collections import Counter

import pytest

from pipelines.benchmarks.chaos import Outcome, Phase, chaos
from pipelines.benchmarks.faked_clock import FakedClock, compiler
from pipelines.benchmarks.mixed_load import Entry, Ledger
from pipelines.benchmarks.redis_process import RedisProcess, redis_executable


def entry(due: float, done: float, **changes) -> Entry:
    return Entry(**{"call": "search", "due_s": due, "done_s": done, "status": 200, "problem": "", **changes})


def event(due: float, event_id: str, **changes) -> Entry:
    return entry(due, due + 0.1, **{"call": "events", "status": 202, "event_id": event_id, **changes})


REFUSED = {"status": 503, "problem": "status 503", "retry_after": True}


def outcome(*entries: Entry, found: str = "") -> Outcome:
    phases = [Phase("quiet", 0, 10), Phase("killed", 10, 20, kill_windows=[(12, 15)]), Phase("full", 20, 30)]
    phases[2].events_may_be_refused = True
    return Outcome(phases, Ledger([event(1, "first"), *entries]), Counter(["first", *found.split()]))


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        pytest.param(outcome(), None, id="all is well"),
        pytest.param(
            outcome(entry(2, 3, problem="status 500: x")),
            "quiet: 1 requests failed (1 x /search: status 500: x)",
            id="failed",
        ),
        pytest.param(outcome(entry(11, 13, problem="gone")), None, id="on its way when it was killed"),
        pytest.param(outcome(entry(14, 16, problem="gone")), None, id="sent before it was back"),
        pytest.param(outcome(entry(9, 13, problem="gone")), None, id="due in the phase before"),
        pytest.param(
            outcome(entry(16, 17, problem="gone")),
            "killed: 1 requests failed (1 x /search: gone)",
            id="after the window",
        ),
        pytest.param(outcome(event(21, "e", **REFUSED)), None, id="the disk is full"),
        pytest.param(
            outcome(event(21, "e", **{**REFUSED, "retry_after": False})), "full: 1 requests failed", id="no Retry-After"
        ),
        pytest.param(outcome(event(1, "e", **REFUSED)), "quiet: 1 requests failed", id="refused with room on the disk"),
        pytest.param(
            outcome(entry(21, 22, **REFUSED)), "full: 1 requests failed", id="a search needs no room on the disk"
        ),
        pytest.param(outcome(event(3, "e")), "quiet: 1 acknowledged events are not in the log", id="lost"),
        pytest.param(outcome(event(13, "e")), "killed: 1 acknowledged events", id="acknowledged inside a window"),
        pytest.param(outcome(event(3, "e"), found="e"), None, id="found"),
        pytest.param(outcome(event(3, "e"), found="e e"), "1 events are in the log more than once", id="doubled"),
    ],
)
def test_what_must_not_be(given, problem):
    if problem is None:
        assert given.problems == []
    else:
        assert len(given.problems) == 1
        assert given.problems[0].startswith(problem)


def test_strangers_swaps_that_did_not_happen_and_silence_are_problems():
    assert Outcome([], Ledger([]), Counter(), wrong=["first answers"]).problems == [
        "first answers",
        "no event was acknowledged: there was nothing to lose",
    ]
    found = outcome(event(2, "e", once="new-1"), event(13, "f", once="new-2"), found="e f")
    found.checked_users, found.strangers = 9, {"new-2"}
    assert found.problems == [
        "1 of 9 users whose only event was acknowledged are strangers (1 of 'killed')",
    ]


def test_the_records_count_each_phase():
    given = outcome(entry(16, 17, problem="gone"), entry(13, 13.1, problem="gone"), event(3, "e"))
    records = {(one.case, one.metric): one.value for one in given.records("toy")}
    assert records["killed", "failures"] == 1
    assert records["killed", "excused"] == 1
    assert records["killed", "window_s"] == 3
    assert records["quiet", "lost_events"] == 1
    assert records["all phases", "failures"] == 1
    assert ("killed", "p99_ms") not in records


@pytest.mark.slow
@pytest.mark.skipif(compiler() is None, reason="there is no C compiler on PATH")
def test_a_process_sees_the_faked_clock_and_measures_spans_as_ever(tmp_path):
    clock = FakedClock(str(compiler()), tmp_path)
    code = (
        "import datetime, json, sys, time\n"
        "def now(): return [time.time(), datetime.datetime.now().timestamp(), time.monotonic()]\n"
        "for _ in range(2):\n print(json.dumps(now()), flush=True)\n input()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], env=clock.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        before = json.loads(process.stdout.readline())
        clock.jump_to(-3_600)
        process.stdin.write("\n\n")
        process.stdin.flush()
        after = json.loads(process.stdout.readline())
    assert before[0] == pytest.approx(time.time(), abs=30)
    assert [late - early for late, early in zip(after, before, strict=True)] == pytest.approx(
        [-3_600, -3_600, 0], abs=30
    )


@pytest.mark.slow
@pytest.mark.skipif(redis_executable() is None, reason="there is no `redis-server` on PATH")
def test_redis_hangs_goes_on_and_remembers_over_a_restart(tmp_path):
    import redis

    with RedisProcess(str(redis_executable()), tmp_path) as server:
        client = redis.Redis(port=server.port, socket_timeout=0.3)
        client.set("a", 1)
        server.hang()
        with pytest.raises(redis.exceptions.TimeoutError):
            client.get("a")
        server.go_on()
        server.stop()
        server.start()
        assert client.get("a") == b"1"
        client.close()


@pytest.mark.slow
def test_chaos_from_end_to_end(tmp_path):
    found = chaos(rate=15, scale=0.3, json_file=tmp_path / "chaos.json", work_dir=tmp_path)
    names = [phase.name for phase in found.phases]
    assert {"quiet", "bundles swapped", "bundle corrupted", "worker killed", "service killed"} <= set(names)
    assert found.ledger.acknowledged <= found.found.keys()
    assert found.checked_users > 0
    kills = [phase for phase in found.phases if phase.kill_windows]
    assert len(kills) == 2
    assert all(any(one.problem for one in found.of(phase).entries) for phase in kills)
    assert json.loads((tmp_path / "chaos.json").read_text())

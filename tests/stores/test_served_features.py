import json
import os
import socket
import threading
from datetime import timedelta

import pytest

from pipelines.features.activity import ACTIVITY_FEATURES
from pipelines.stores.online_features import UserFeatures
from pipelines.stores.served_features import ServedFeaturesLog, read_served_features
from tests.toys.event_tables import day

USER = UserFeatures(
    item_ids=["a"],
    event_types=["view"],
    event_times=[7],
    activity=dict.fromkeys(ACTIVITY_FEATURES, 1.5),
    event_timestamp_us=7_000_000,
    arrived_at_us=8_000_000,
)


def opened(folder, **settings) -> ServedFeaturesLog:
    return ServedFeaturesLog(folder, **{"share": 1.0, "keep_days": 7, **settings})


def test_what_was_served_is_read_again_in_the_order_of_the_requests(tmp_path):
    log = opened(tmp_path)
    log.offer("v", UserFeatures(), bundle="b1", now=day(2))
    log.offer("u", USER, bundle="b1", now=day(1.5))
    log.close()

    first, second = read_served_features(tmp_path, limit=10).to_pylist()

    assert (first["user_id"], first["requested_at"], first["bundle"]) == ("u", day(1.5), "b1")
    assert (first["item_ids"], first["event_types"], first["event_times"]) == (["a"], ["view"], [7])
    assert (first["event_timestamp_us"], first["arrived_at_us"]) == (7_000_000, 8_000_000)
    assert [first[name] for name in ACTIVITY_FEATURES] == [1.5] * len(ACTIVITY_FEATURES)
    assert (second["user_id"], second["arrived_at_us"], second["purchases"]) == ("v", None, None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2026-01-02", "2026-01-03"]


@pytest.mark.parametrize(("share", "kept"), [(0.0, 0), (0.25, 2), (1.0, 8)])
def test_a_share_of_the_requests_is_kept(tmp_path, share, kept):
    chances = iter([0.0, 0.2, 0.25, 0.3, 0.5, 0.6, 0.7, 0.99])
    log = opened(tmp_path, share=share, chance=lambda: next(chances))
    for _ in range(8):
        log.offer("u", USER, bundle="b", now=day(1))
    log.close()

    assert read_served_features(tmp_path, limit=100).num_rows == kept
    assert log.dropped == 0


def test_what_does_not_fit_is_dropped_and_counted_and_nobody_waits(tmp_path):
    pipe = tmp_path / "2026-01-02" / f"{socket.gethostname()}-{os.getpid()}.jsonl"
    pipe.parent.mkdir()
    os.mkfifo(pipe)  # a disk that takes nothing until somebody reads
    log = opened(tmp_path, queue_size=3)
    for _ in range(20):
        log.offer("u", USER, bundle="b", now=day(1))
    dropped = log.dropped
    written = []
    reader = threading.Thread(target=lambda: written.extend(lines_of(pipe, 20 - dropped)))
    reader.start()
    log.close()
    reader.join(10)

    assert 20 - 2 * 3 - 1 <= dropped < 20
    assert len(written) == 20 - dropped


def lines_of(pipe, count: int) -> list[bytes]:
    """Read from a pipe that is opened anew for each batch."""
    lines: list[bytes] = []
    while len(lines) < count:
        lines += pipe.read_bytes().splitlines()
    return lines


def test_a_disk_that_refuses_fails_no_request(tmp_path):
    (tmp_path / "file").write_text("no folder")
    log = opened(tmp_path / "file")
    log.offer("u", USER, bundle="b", now=day(1))
    log.offer("u", USER, bundle="b", now=day(1))
    log.close()

    assert log.dropped == 2


def test_old_days_are_removed(tmp_path):
    for number in (1, 2, 9):
        log = opened(tmp_path, keep_days=7)
        log.offer("u", USER, bundle="b", now=day(number))
        log.close()

    assert sorted(path.name for path in tmp_path.iterdir()) == ["2026-01-03", "2026-01-10"]


def test_only_the_newest_are_read_and_torn_lines_passed_over(tmp_path):
    log = opened(tmp_path)
    for hour in range(30):
        log.offer("u", USER, bundle=str(hour), now=day(1) + timedelta(hours=hour))
    log.close()
    [file] = (tmp_path / "2026-01-03").iterdir()
    with file.open("a") as torn:
        torn.write(json.dumps({"user_id": "u"})[:9])

    assert read_served_features(tmp_path, limit=4)["bundle"].to_pylist() == ["26", "27", "28", "29"]


def test_nothing_served_nothing_read(tmp_path):
    assert read_served_features(tmp_path / "nowhere", limit=4).num_rows == 0

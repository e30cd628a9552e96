import os

from pipelines.stores import pushed_events
from pipelines.stores.pushed_events import PushedEvents


def test_a_pushed_event_is_known_to_every_process_until_the_file_is_gone(tmp_path):
    here, there = PushedEvents(tmp_path / "pushed"), PushedEvents(tmp_path / "pushed")
    assert here.has("e") is None
    here.add(["e", "é"])
    assert [there.has(name) for name in ("e", "é", "other")] == [True, True, False]
    os.truncate(tmp_path / "pushed", 10)
    assert there.has("e") is None
    there.add(["f"])
    assert [here.has(name) for name in ("e", "f")] == [False, True]


def test_where_nothing_can_be_written_nothing_is_known(tmp_path, caplog):
    pushed = PushedEvents(tmp_path / "no such folder" / "pushed")
    pushed.add(["e"])
    assert pushed.has("e") is None and "not remembered" in caplog.text


def test_of_ten_thousand_ids_none_is_forgotten(tmp_path):
    pushed = PushedEvents(tmp_path / "pushed")
    pushed.add(f"event-{number}" for number in range(10_000))
    assert all(pushed.has(f"event-{number}") for number in range(10_000))


def test_the_newest_eight_at_a_place_are_known(tmp_path, monkeypatch):
    monkeypatch.setattr(pushed_events, "_PLACES", 1)
    pushed = PushedEvents(tmp_path / "pushed")
    pushed.add(["again", *"abcdefg", "again", "again", "again"])
    assert all(map(pushed.has, ["again", *"abcdefg"]))
    pushed.add("hijk")
    assert [name for name in "abcdefghijk" if pushed.has(name)] == list("defghijk")

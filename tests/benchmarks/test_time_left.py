"""How long it is going to take."""

import pytest

from pipelines.benchmarks.time_left import TimeLeft, in_words


class Heard:
    def __init__(self):
        self.said = []

    def update(self, stage, done, total=None, note=""):
        self.said.append((stage, done, total, note))


@pytest.fixture
def heard():
    return Heard()


def test_the_rest_takes_as_long_as_what_is_done_did(heard):
    times = iter([0.0, 10.0])
    progress = TimeLeft(heard, clock=lambda: next(times))
    progress.update("ranked", 20, 100)
    progress.update("ranked", 40, 100, "fine")
    assert heard.said == [("ranked", 20, 100, ""), ("ranked", 40, 100, "fine, about 30 s left")]


def test_nothing_is_said_while_nothing_is_known(heard):
    times = iter([0.0, 1.0, 20.0, 30.0])
    progress = TimeLeft(heard, clock=lambda: next(times))
    progress.update("ranked", 1, 10)
    progress.update("ranked", 2, 10)  # too early to tell
    progress.update("ranked", 5)  # no end is known
    progress.update("ranked", 10, 10)  # done
    assert [note for *_, note in heard.said] == ["", "", "", ""]


def test_the_part_stands_before_the_stage_and_begins_the_count_anew(heard):
    times = iter([0.0, 100.0, 110.0])
    progress = TimeLeft(heard, clock=lambda: next(times))
    progress.update("ranked", 1, 10)
    progress.begin("[2/3] tfidf")
    progress.update("ranked", 5, 10)
    progress.update("ranked", 6, 10)
    assert heard.said[-1] == ("[2/3] tfidf: ranked", 6, 10, "about 40 s left")


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.2, "1 s"), (89, "89 s"), (90, "2 min"), (3_600, "60 min"), (7_800, "2 h 10 min")]
)
def test_durations_are_for_people(seconds, words):
    assert in_words(seconds) == words

"""Explanations of what another process answered, over real sockets."""

import socket

import pytest

from bentos.recommender.answering.shared_explanations import NearbyProcesses, SharedExplanations
from bentos.recommender.contract.requests import RequestError


class Remembering:
    """Explains the requests of one process."""

    def __init__(self, name: str, *request_ids: str) -> None:
        self.name, self.request_ids = name, request_ids

    def remembers(self, request_id: str) -> bool:
        return request_id in self.request_ids

    def of_request(self, request_id: str, item_id: str | None, live: str) -> dict:
        if request_id not in self.request_ids:
            raise RequestError(404, f"{self.name} does not know it")
        if item_id == "zzz":
            raise RequestError(404, f"{self.name} does not know the item")
        return {"by": self.name, "request": request_id, "item": item_id, "live": live}


@pytest.fixture
def workers(tmp_path):
    """Three processes in one, in a folder whose path is too long for an address."""
    folder = tmp_path / ("long" * 40)
    opened = {}
    for name in "abc":
        shared = SharedExplanations(Remembering(name, f"of {name}"), lambda name=name: f"live {name}", folder)
        shared._others._name = f"{name}.sock"
        shared.start()
        opened[name] = shared
    yield opened
    for shared in opened.values():
        shared.close()
    assert not list(folder.iterdir())


def test_whoever_is_asked_the_process_that_gave_the_answer_explains_it(workers):
    for asked in "abc":
        for gave in "abc":
            found = workers[asked].of_request(f"of {gave}", "x")
            assert found == {"by": gave, "request": f"of {gave}", "item": "x", "live": f"live {gave}"}


def test_what_the_other_process_cannot_explain_is_said_as_it_says_it(workers):
    with pytest.raises(RequestError, match="b does not know the item") as caught:
        workers["a"].of_request("of b", "zzz")
    assert caught.value.status == 404


def test_what_nobody_remembers_is_not_found(workers):
    with pytest.raises(RequestError, match="a does not know it"):
        workers["a"].of_request("of nobody", None)


def test_a_process_that_was_killed_or_hangs_holds_up_nobody_for_long(tmp_path):
    asking = NearbyProcesses(tmp_path, lambda _: b"")
    assert list(asking.ask(b"?")) == []  # and it needs no socket of its own
    with socket.socket(socket.AF_UNIX) as killed, socket.socket(socket.AF_UNIX) as hangs:
        killed.bind(str(tmp_path / "a.sock"))
        hangs.bind(str(tmp_path / "b.sock"))
        hangs.listen()
        alive = NearbyProcesses(tmp_path, lambda question: question.upper())
        alive._name = "c.sock"
        alive.start()
        assert list(asking.ask(b"who", within_s=0.05)) == [b"WHO"]
        alive.close()
    assert not (tmp_path / "a.sock").exists()


def test_alone_it_explains_its_own():
    alone = SharedExplanations(Remembering("a", "r"), lambda: "now", None)
    alone.start()
    assert alone.of_request("r", None) == {"by": "a", "request": "r", "item": None, "live": "now"}
    alone.close()


def test_whether_others_are_there(tmp_path):
    one, other = (NearbyProcesses(tmp_path / "near", lambda question: question) for _ in range(2))
    other._name = "another.sock"
    one.start()
    assert not one.are_there
    other.start()
    assert one.are_there
    other.close()
    assert not one.are_there
    one.close()

"""Group commit: what waits shares one write, everyone gets his own answer, and a failure is everyone's."""

import threading
import time

import pytest

from pipelines.stores.group_commit import GroupCommit


class Disk:
    """Writes when it is let go; remembers what came together."""

    def __init__(self) -> None:
        self.groups: list[list[int]] = []
        self.free = threading.Event()
        self.is_full = False

    def write(self, group: list[int]) -> list[int]:
        self.groups.append(group)
        assert self.free.wait(10)
        if self.is_full and 2 in group:
            raise OSError("full")
        return [number * 10 for number in group]


def submit_all(disk: Disk, numbers: range) -> dict[int, object]:
    """Submit the first number, the others while its write is under way; return every answer."""
    group_commit, answers = GroupCommit(disk.write), {}

    def submit(number: int) -> None:
        try:
            answers[number] = group_commit.submit(number)
        except OSError as error:
            answers[number] = str(error)

    threads = [threading.Thread(target=submit, args=(number,)) for number in numbers]
    threads[0].start()
    wait_until(lambda: disk.groups)
    for count, thread in enumerate(threads[1:], start=1):
        thread.start()
        wait_until(lambda count=count: len(group_commit._waiting) == count)
    disk.free.set()
    for thread in threads:
        thread.join(10)
    return answers


def wait_until(holds) -> None:
    deadline = time.monotonic() + 10
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.001)


def test_what_arrives_during_a_write_shares_the_next_one():
    disk = Disk()
    assert submit_all(disk, range(5)) == {0: 0, 1: 10, 2: 20, 3: 30, 4: 40}
    assert disk.groups == [[0], [1, 2, 3, 4]]


def test_a_failed_write_is_reported_to_everyone_who_shared_it():
    disk = Disk()
    disk.is_full = True
    assert submit_all(disk, range(4)) == {0: 0, 1: "full", 2: "full", 3: "full"}


def test_a_failure_is_not_the_next_ones():
    disk = Disk()
    disk.free.set()
    disk.is_full = True
    group_commit = GroupCommit(disk.write)
    with pytest.raises(OSError, match="full"):
        group_commit.submit(2)
    assert group_commit.submit(3) == 30


def test_who_is_alone_keeps_others_waiting_and_is_not_let_in_while_they_write():
    disk = Disk()
    disk.free.set()
    group_commit, answers = GroupCommit(disk.write), []
    with group_commit.alone() as is_alone:
        assert is_alone
        with group_commit.alone() as another:
            assert not another
        thread = threading.Thread(target=lambda: answers.append(group_commit.submit(1)))
        thread.start()
        wait_until(lambda: group_commit._waiting)
        assert disk.groups == []
    thread.join(10)
    assert answers == [10]
    with group_commit.alone() as is_alone:
        assert is_alone

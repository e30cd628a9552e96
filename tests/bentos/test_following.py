"""Who is read again because another worker was told of an event, or before it is too old; on users in memory."""

import time
from collections.abc import Sequence

import pytest

from bentos.recommender.answering.following import Following


class Users:
    """Users of whom some have changed elsewhere."""

    def __init__(self, *latest: str, changed: set[str], old: Sequence[str] = ()) -> None:
        self.known = list(latest)
        self.changed = changed
        self.old = old
        self.looked_at: list[str] = []

    def latest(self, most: int) -> list[str]:
        return self.known[:most]

    def ageing(self, most: int) -> list[str]:
        return [user_id for user_id in self.known[:most] if user_id in self.old and user_id in self.changed]

    def refresh(self, user_id: str) -> bool:
        self.looked_at.append(user_id)
        is_changed = user_id in self.changed
        self.changed.discard(user_id)
        return is_changed


def following_of(users: Users, *, most_users: int = 100, requests: int = 0, others: bool = True) -> Following:
    following = Following(users, has_others=lambda: others, most_users=most_users)
    following.give_way(lambda: requests > 0)
    return following


def test_a_look_ends_with_the_round():
    users = Users("a", "b", changed={"b"})
    assert not following_of(users).look(iter(users.known))
    assert users.looked_at == ["a", "b"]
    assert not users.changed


def test_a_look_is_short_and_the_next_goes_on():
    users = Users(*map(str, range(100)), changed=set())
    following, round_ = following_of(users), iter(users.known)
    assert following.look(round_)
    assert len(users.looked_at) == 64
    assert not following.look(round_)
    assert users.looked_at == users.known


def test_few_are_read_at_a_look():
    users = Users(*map(str, range(20)), changed=set(map(str, range(20))))
    assert following_of(users).look(iter(users.known))
    assert users.looked_at == users.known[:8]


def test_requests_come_first():
    users = Users("a", changed={"a"})
    assert following_of(users, requests=1).look(iter(users.known))
    assert users.looked_at == []


@pytest.mark.parametrize(
    ("most_users", "others", "old", "changed"),
    [
        pytest.param(2, True, "", {"c"}, id="the latest"),
        pytest.param(0, True, "a", {"a", "c"}, id="nobody"),
        pytest.param(2, False, "", {"a", "c"}, id="nobody where no other worker is"),
        pytest.param(2, False, "ac", {"c"}, id="of these those that grow old"),
    ],
)
def test_so_many_users_are_looked_at(most_users, others, old, changed):
    users = Users("a", "b", "c", changed={"a", "c"}, old=old)
    following = following_of(users, most_users=most_users, others=others)
    following.start()
    until = time.monotonic() + (5 if "a" not in changed else 0.2)
    while "a" in users.changed and time.monotonic() < until:
        time.sleep(0.01)
    following.close()
    assert users.changed == changed

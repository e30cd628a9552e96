"""Who a canary answers."""

from pipelines.rollout.assignment import is_assigned

USERS = [f"user-{number}" for number in range(2_000)]


def assigned(canary: str, share: float) -> set[str]:
    return {user for user in USERS if is_assigned(user, canary, share)}


def test_the_same_users_every_time_and_about_as_many_as_wanted():
    assert assigned("c1", 0.1) == assigned("c1", 0.1)
    assert 150 < len(assigned("c1", 0.1)) < 250
    assert assigned("c1", 1.0) == set(USERS)


def test_a_larger_share_holds_the_smaller_one_and_another_canary_has_other_users():
    assert assigned("c1", 0.1) < assigned("c1", 0.3)
    both = assigned("c1", 0.5) & assigned("c2", 0.5)
    assert 400 < len(both) < 600

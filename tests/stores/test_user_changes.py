import os

import pytest

from pipelines.stores.user_changes import UserChanges


@pytest.fixture
def path(tmp_path):
    return tmp_path / "user_changes.bin"


def change(changes: UserChanges, *user_ids: str) -> None:
    with changes.changing(user_ids):
        pass


def test_a_change_gives_the_user_another_stamp_in_every_process(path):
    here, there = UserChanges(path), UserChanges(path)  # as two processes have them
    change(here, "other")
    before = there.stamp("u")
    assert before is not None and before == here.stamp("u")
    change(here, "u", "u")

    assert there.stamp("u") == here.stamp("u") != before


def test_another_user_s_change_changes_nothing(path):
    changes = UserChanges(path)
    change(changes, "u")
    before = changes.stamp("u")
    change(changes, "v")
    assert changes.stamp("u") == before


def test_while_a_user_is_written_there_is_no_stamp(path):
    changes = UserChanges(path)
    with changes.changing(["u"]):
        assert changes.stamp("u") is None
    assert changes.stamp("u") is not None


def test_a_write_that_failed_leaves_the_user_without_a_stamp_until_the_next_one(path):
    changes = UserChanges(path)
    with pytest.raises(ZeroDivisionError), changes.changing(["u"]):
        raise ZeroDivisionError
    assert UserChanges(path).stamp("u") is None
    change(changes, "u")
    assert UserChanges(path).stamp("u") is not None


def test_counts_go_round(path):
    changes = UserChanges(path)
    change(changes, "u")
    with path.open("r+b") as file:
        file.seek(16)
        file.write(b"\xfe\xff\xff\xff" * 2**18)
    before = changes.stamp("u")
    change(changes, "u")
    assert changes.stamp("u") == (before[0], 0)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda path: path.unlink(), id="deleted"),
        pytest.param(lambda path: os.truncate(path, 0), id="emptied"),
        pytest.param(lambda path: os.truncate(path, 1_000), id="cut short"),
        pytest.param(lambda path: path.write_bytes(b"x" * 5), id="overwritten"),
    ],
)
def test_without_a_whole_file_there_is_no_stamp_and_the_next_change_makes_a_new_one(path, damage):
    changes = UserChanges(path)
    change(changes, "u")
    before = changes.stamp("u")
    damage(path)
    assert changes.stamp("u") is None and UserChanges(path).stamp("u") is None
    change(changes, "v")

    after = changes.stamp("u")
    assert after is not None and after[0] != before[0]


def test_a_file_of_another_kind_and_size_gives_no_stamp(path):
    changes = UserChanges(path)
    change(changes, "u")
    path.write_bytes(bytes(path.stat().st_size))
    assert UserChanges(path).stamp("u") is None


def test_where_nothing_can_be_written_changes_are_made_all_the_same(tmp_path, caplog):
    changes = UserChanges(tmp_path / "no such folder" / "user_changes.bin")
    change(changes, "u")
    assert changes.stamp("u") is None
    assert "are not counted" in caplog.text

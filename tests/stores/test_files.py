"""Folders are replaced whole, and what a killed writer left goes with the next one."""

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from pipelines.stores.files import keep_newest, replacing_folder


def killed_while_it_writes(target: Path) -> None:
    with replacing_folder(target) as work:
        (work / "half").write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)


def test_what_a_killed_process_left_is_removed_by_the_next_one_that_writes_there(tmp_path):
    target = tmp_path / "a[1]"
    process = multiprocessing.get_context("spawn").Process(target=killed_while_it_writes, args=(target,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert (left / "half").is_file()
    other = tmp_path / ".a2.12345678.tmp"
    other.mkdir()
    with replacing_folder(target) as work:
        assert not left.exists()
        (work / "whole").write_text("whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == [other.name, target.name]
    assert [path.name for path in target.iterdir()] == ["whole"]


def test_what_another_writer_is_at_stays(tmp_path):
    target = tmp_path / "a"
    with replacing_folder(target) as first:
        (first / "file").write_text("first")
        with replacing_folder(target) as second:
            assert first.exists()
            (second / "file").write_text("second")
        assert (target / "file").read_text() == "second"
    assert (target / "file").read_text() == "first"
    assert list(tmp_path.iterdir()) == [target]


def test_a_block_that_fails_leaves_what_was_there(tmp_path):
    target = tmp_path / "a"
    target.mkdir()
    (target / "file").write_text("before")
    with pytest.raises(KeyError), replacing_folder(target) as work:
        (work / "file").write_text("after")
        raise KeyError
    assert (target / "file").read_text() == "before"
    assert list(tmp_path.iterdir()) == [target]


def test_the_newest_files_stay_and_what_a_killed_writer_left_goes(tmp_path):
    ages_s = {
        "a.links": 30,
        "b.links": 20,
        "c.links": 10,
        "old.index": 9_000,
        ".d.links.1f.tmp": 9_000,
        ".e.2f.tmp": 60,
    }
    for name, age_s in ages_s.items():
        (tmp_path / name).write_text(name)
        when = time.time() - age_s
        os.utime(tmp_path / name, (when, when))
    keep_newest(tmp_path, ".links", 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".e.2f.tmp", "b.links", "c.links", "old.index"]

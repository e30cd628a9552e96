"""What the system says of processes, asked about this one and a child."""

import os
import subprocess
import sys
import time

import pytest

from pipelines.benchmarks.process_accounts import (
    cpu_s,
    descendants,
    memory,
    on_cores,
    open_files,
    usable_cores,
    workers,
)
from pipelines.errors import StoreError


@pytest.fixture
def child():
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process
    process.communicate(b"\n")


def test_a_process_counts_with_those_below_it(child):
    assert {os.getpid(), child.pid} <= set(descendants(os.getpid()))
    assert workers(os.getpid()) == []  # the child serves nothing


def test_processor_time_is_that_of_the_process():
    before, known = cpu_s([os.getpid()]), time.process_time()
    sum(range(200_000))
    assert before == pytest.approx(known, abs=0.01)
    assert cpu_s([os.getpid()]) - before == pytest.approx(time.process_time() - known, abs=0.01)
    assert cpu_s([2**22 + 1]) is None


def test_memory_that_is_shared_counts_in_part(child):
    found = memory(child.pid)
    assert 0 < found.uss <= found.pss <= found.rss
    with pytest.raises(StoreError, match="does not say how much memory"):
        memory(2**22 + 1)


def test_what_is_started_stays_on_its_cores():
    cores = usable_cores()
    with on_cores(cores[:1]):
        shown = subprocess.run(
            [sys.executable, "-c", "import os; print(os.sched_getaffinity(0))"],
            capture_output=True,
            text=True,
            check=True,
        )
    assert shown.stdout.strip() == str({cores[0]})
    assert usable_cores() == cores
    with on_cores(None):
        assert usable_cores() == cores


def test_open_files_are_counted(tmp_path):
    before = open_files(os.getpid())
    with (tmp_path / "f").open("w"):
        assert open_files(os.getpid()) == before + 1

"""Several processes: shares of a batch, and the same training as in one process."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.errors import ConfigError, DataError, StoreError
from pipelines.training.distributed import ALONE, TrainingGroup, training_group
from pipelines.training.processes import run_processes
from tests.toys.training_workers import CONFIG, tune_toy_encoder


@pytest.mark.parametrize(
    ("n", "size", "shares"),
    [
        pytest.param(6, 2, [[0, 1, 2], [3, 4, 5]], id="even"),
        pytest.param(7, 3, [[0, 1], [2, 3], [4, 5, 6]], id="uneven"),
        pytest.param(1, 2, [[], [0]], id="fewer rows than processes"),
    ],
)
def test_every_row_is_the_share_of_one_process(n, size, shares):
    assert [list(range(n))[TrainingGroup(rank, size).share(n)] for rank in range(size)] == shares


def test_alone_there_is_nothing_to_exchange():
    rows, weight = torch.ones(3, 2), torch.nn.Parameter(torch.ones(1))
    weight.sum().backward()
    ALONE.add_gradients([weight])
    assert ALONE.gather(rows, 3) is rows
    assert weight.grad.tolist() == [1.0]
    assert (ALONE.total(torch.tensor(2.5)), ALONE.from_main(lambda: 0.25)) == (2.5, 0.25)
    with training_group({}) as group:
        assert group is ALONE


@pytest.mark.parametrize("changes", [{"encoder_batch": 3, "accumulate_steps": 2}, {"encoder_batch": 8}])
def test_batch_that_is_too_small_for_its_parts_is_refused(tiny_encoder_folder, tmp_path, changes):
    config = CONFIG.model_copy(update=changes)
    with pytest.raises(
        ConfigError, match=rf"`training\.encoder_batch` {changes['encoder_batch']} in .*raise the batch"
    ):
        tune_toy_encoder(tiny_encoder_folder, tmp_path / "c.pt", config=config, group=TrainingGroup(0, 9))


@pytest.mark.slow
def test_two_processes_train_like_one_and_go_on_after_a_kill(tiny_encoder_folder, tmp_path):
    run_processes(2, "tests.toys.training_workers:tune_together", json.dumps([str(tiny_encoder_folder), str(tmp_path)]))
    _, losses = tune_toy_encoder(tiny_encoder_folder, tmp_path / "alone.pt")
    answers = [json.loads((tmp_path / f"answer-{rank}.json").read_text()) for rank in range(2)]
    for answer in answers:
        assert answer["size"] == 2
        assert answer["same"]
        assert answer["resumed"] == answer["losses"]
        assert list(answer["losses"].values()) == pytest.approx(list(losses.values()), rel=1e-4)
    assert np.mean(list(losses.values())[-3:]) < losses[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("job", "error", "sentence"),
    [
        pytest.param("bad data", DataError, r"^`price` is NaN in 2 rows\.$", id="an error of ours"),
        pytest.param("killed", StoreError, "1 of 2 training processes died of signal 9.*run it again", id="SIGKILL"),
    ],
)
def test_process_that_fails_ends_the_others_and_says_why(job, error, sentence):
    with pytest.raises(error, match=sentence):
        run_processes(2, "tests.toys.failing_workers:fail", job)


@pytest.mark.slow
def test_processes_do_not_outlive_the_one_that_started_them(tmp_path):
    code = f"run_processes(2, 'tests.toys.failing_workers:linger', {str(tmp_path)!r})"
    parent = subprocess.Popen(
        [sys.executable, "-c", f"from pipelines.training.processes import run_processes; {code}"],
        cwd=Path(__file__).parents[2],
    )
    until = time.monotonic() + 60
    while len(pids := [int(path.name) for path in tmp_path.iterdir()]) < 2 and time.monotonic() < until:
        time.sleep(0.1)
    parent.kill()
    parent.wait()
    while any(alive(pid) for pid in pids) and time.monotonic() < until:
        time.sleep(0.1)
    assert len(pids) == 2
    assert not any(alive(pid) for pid in pids)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False

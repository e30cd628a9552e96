"""What `run_step` does around a step."""

import fcntl
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipelines.config import HeadraceConfig
from pipelines.errors import HeadraceError
from pipelines.places import Places
from pipelines.wiring import FEATURE_STEPS, STEPS, Wiring, run_step


class Waited:
    """Notices that a step waits."""

    def __init__(self) -> None:
        self.said = threading.Event()

    def update(self, stage: str, done: int, total: int | None = None, note: str = "") -> None:
        if stage == "waiting":
            self.said.set()


def test_steps_of_the_feature_pipeline_are_steps():
    assert set(FEATURE_STEPS) <= set(STEPS)


def test_a_step_waits_for_another_of_the_feature_pipeline(tmp_path):
    progress = Waited()
    wiring = Wiring(Places(tmp_path), HeadraceConfig(), progress)
    with ThreadPoolExecutor(1) as pool:
        with wiring.places.feature_pipeline_lock.open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            step = pool.submit(run_step, "validate_tables", wiring=wiring)
            assert progress.said.wait(20)
            assert not step.done()
        with pytest.raises(HeadraceError, match="ingest_tables has never finished"):
            step.result(20)


def test_a_step_that_failed_lets_the_next_one_in(tmp_path):
    progress = Waited()
    wiring = Wiring(Places(tmp_path), HeadraceConfig(), progress)
    for _ in range(2):
        with pytest.raises(HeadraceError, match="ingest_tables has never finished"):
            run_step("validate_tables", wiring=wiring)
    assert not progress.said.is_set()

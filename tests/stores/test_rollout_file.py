"""The plan of a rollout, and why a canary was stopped, as files."""

from datetime import UTC, datetime

import pytest

from pipelines.errors import BundleError
from pipelines.rollout.plan import CanaryStop, RolloutPlan, Trial
from pipelines.stores.rollout_file import read_plan, read_stop, write_plan, write_stop

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def test_a_plan_is_read_as_it_was_written_and_no_plan_is_an_empty_one(tmp_path):
    path = tmp_path / "serving" / "rollout.json"
    assert read_plan(path) == RolloutPlan()
    plan = RolloutPlan(canary=Trial(id="b2-1", bundle="b2", share=0.05, started_at=NOW))
    write_plan(path, plan)
    assert read_plan(path) == plan
    path.write_text("{")
    with pytest.raises(BundleError, match=r"nothing is tried. Run `headrace canary`"):
        read_plan(path)


def test_the_first_reason_stays(tmp_path):
    assert read_stop(tmp_path, "b2-1") is None
    for reason in ("slow", "empty"):
        write_stop(tmp_path, CanaryStop(id="b2-1", bundle="b2", stopped_at=NOW, reason=reason, answers=7))
    stop = read_stop(tmp_path, "b2-1")
    assert stop is not None
    assert stop.reason == "slow"
    (tmp_path / "b2-1.json").write_text("")
    with pytest.raises(BundleError, match=r"remove it to go on"):
        read_stop(tmp_path, "b2-1")

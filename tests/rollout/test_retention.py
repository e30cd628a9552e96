"""Which bundles stay."""

from datetime import UTC, datetime, timedelta

from pipelines.rollout.retention import reasons_to_keep

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def kept(**changes) -> dict[str, str]:
    policy = {
        "in_use": {"live": "live"},
        "champions": ["c1", "c2", "c3", "live"],
        "registered": ["c1", "c2", "c3", "live", "old", "young"],
        "keep_champions": 2,
        "keep_days": 7,
        "now": NOW,
    }
    ages = {"c1": 40, "c2": 30, "c3": 20, "live": 10, "old": 8, "young": 6, "by hand": 90}
    bundles = {bundle: NOW - timedelta(days=age) for bundle, age in ages.items()}
    return reasons_to_keep(bundles, **{**policy, **changes})


def test_each_bundle_that_stays_has_its_reason():
    assert kept() == {
        "c3": "one of the last 2 champions",
        "live": "live",
        "young": "younger than 7 days",
        "by hand": "the registry has no copy",
    }


def test_what_is_used_stays_however_old():
    assert kept(in_use={"c1": "champion before"}, keep_champions=2)["c1"] == "champion before"

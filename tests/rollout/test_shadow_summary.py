"""What the shadow's answers say."""

import pytest

from pipelines.rollout.shadow_summary import overlap_at, summarize_shadow


def row(live_items: str, shadow_items: str, error: str = "", shadow: str = "b2", shadow_ms: float = 4.0) -> dict:
    return {
        "live": "b1",
        "shadow": shadow,
        "live_items": list(live_items),
        "shadow_items": list(shadow_items),
        "live_ms": 2.0,
        "shadow_ms": shadow_ms,
        "error": error,
    }


@pytest.mark.parametrize(
    ("live", "shadow", "overlap"), [("abcd", "dcba", 1.0), ("abcd", "abxy", 0.5), ("ab", "", 0.0), ("a", "xya", 1.0)]
)
def test_overlap_counts_items_and_not_places(live, shadow, overlap):
    assert overlap_at(list(live), list(shadow), 10) == overlap


def test_a_summary_for_each_pair_of_bundles():
    rows = [row("ab", "ab"), row("ab", "xy"), row("ab", "", shadow_ms=8.0), row("ab", "", error="broken")]
    first, second = summarize_shadow([*rows, row("a", "a", shadow="b3")])
    assert (first.live, first.shadow, first.requests, first.errors, first.empty) == ("b1", "b2", 4, 1, 1)
    assert first.overlap is not None
    assert first.overlap.value == pytest.approx(1 / 3)
    assert first.shadow_ms["p50"] == 4.0
    assert (second.shadow, second.requests, second.overlap and second.overlap.value) == ("b3", 1, 1.0)


def test_nothing_asked_nothing_said():
    assert summarize_shadow([]) == []

"""What live traffic has already said of the challenger, where it was a shadow."""

from collections.abc import Sequence

from pipelines.rollout.shadow_summary import ShadowSummary
from pipelines.schemas import Finding

SHADOW = "shadow"
_CHANCE = 0.05


def shadow_findings(summaries: Sequence[ShadowSummary], max_bad_share: float) -> list[Finding]:
    """Return a finding for each live bundle that the challenger was asked beside.

    It fails where more answers failed, or were empty where the live bundle found something, than a share of
    `max_bad_share` gives with a chance of 5 % (binomial tail).
    """
    return [_finding(summary, max_bad_share) for summary in summaries]


def _finding(summary: ShadowSummary, max_bad_share: float) -> Finding:
    from scipy.stats import binom

    bad = summary.errors + summary.empty
    passed = bad == 0 or float(binom.sf(bad - 1, summary.requests, max_bad_share)) >= _CHANCE
    overlap = summary.overlap
    alike = f"; {overlap.value:.0%} of the live answers' first ten are among its own" if overlap else ""
    words = (
        f"as a shadow of {summary.live} it was asked {summary.requests:,} live requests: {summary.errors:,} failed, "
        f"{summary.empty:,} were empty where {summary.live} found something{alike}"
    )
    return Finding(name=SHADOW, passed=passed, words=words if passed else f"{words}; {max_bad_share:.0%} are allowed")

import dataclasses
from datetime import timedelta

import pytest

from pipelines.config import SkewConfig
from pipelines.progress import SilentProgress
from pipelines.schemas import SkewAudit
from pipelines.steps.audit_skew import COMPARED, audit_skew
from pipelines.stores.served_features import ServedFeaturesLog
from tests.toys.event_tables import day, event
from tests.toys.live_shop import LiveShop
from tests.toys.remembered_metrics import RememberedMetrics

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:feast", "ignore::DeprecationWarning:ibis"),
]

EVENTS = [event("u", "a", day(1), value=2.0), event("u", "b", day(2), value=3.0), event("v", "a", day(2), kind="view")]
SOON = timedelta(seconds=5, microseconds=765_432)
PUSHED = [
    event("u", "c", day(3.2) + SOON, kind="click"),
    event("w", "a", day(3.3) + SOON, value=1.0),
    event("u", "late", day(1.5) + SOON, kind="view", arrived=day(3.4)),
    event("u", "d", day(3.5) + SOON, value=9.0),
]
"""At no whole second, as requests come."""


class AuditedShop(LiveShop):
    """A shop that keeps all the features it serves."""

    def __init__(self, home) -> None:
        super().__init__(home, EVENTS, until=day(3))
        self.materialize()
        self.metrics = RememberedMetrics()

    def serve(self, *users: str, **skewed: float) -> None:
        """Answer requests, with values of the activity replaced where some are given."""
        log = ServedFeaturesLog(self.places.served_features, share=1, keep_days=100)
        for user in users:
            features = self.online.read_user(user)
            features = dataclasses.replace(features, activity=features.activity | skewed)
            log.offer(user, features, bundle="bundle", now=self.now)
        log.close()

    def audit(self, **settings) -> SkewAudit:
        return audit_skew(
            "audit",
            served_dir=self.places.served_features,
            audits_dir=self.places.skew_audits,
            feature_store=self.feature_store,
            tracker=self.metrics,
            config=SkewConfig(**settings),
            progress=SilentProgress(),
        )


@pytest.fixture
def shop(tmp_path) -> AuditedShop:
    return AuditedShop(tmp_path)


def test_what_is_pushed_between_requests_makes_no_skew(shop):
    shop.serve("u", "v", "w")
    for one in PUSHED:
        shop.accept(one)
        shop.serve("u", "v", "w")
    shop.now = day(4)
    shop.ingest(PUSHED)
    shop.materialize()
    shop.serve("u", "v", "w")

    audit = shop.audit()

    assert audit.mismatch == dict.fromkeys(COMPARED, 0.0)
    assert (audit.compared, audit.strangers, audit.pending, audit.behind) == (16, 2, 0, 0.0)
    assert audit.examples == ()


def test_a_skewed_value_is_found_and_named_with_an_example(shop):
    shop.serve("u", "v")
    shop.serve("u", "v", events_7d_decayed=1.25)

    audit = shop.audit()

    assert {name: share for name, share in audit.mismatch.items() if share} == {"events_7d_decayed": 0.5}
    first = audit.examples[0]
    assert (first.feature, first.user_id, first.served) == ("events_7d_decayed", "u", "1.25")
    assert float(first.offline) == pytest.approx(1 + 0.5 ** (1 / 7))
    assert shop.metrics.metrics["skew.events_7d_decayed"] == 0.5
    assert shop.metrics.metrics["skew.item_ids"] == 0.0
    page = audit.report.read_text()
    assert "events_7d_decayed" in page and "50.0000%" in page and page == shop.metrics.texts["skew.html"]


def test_requests_newer_than_what_was_ingested_wait_for_the_next_audit(shop):
    shop.serve("u")
    shop.accept(PUSHED[0])
    shop.serve("u", "v")

    audit = shop.audit()
    assert (audit.compared, audit.pending) == (1, 2)

    shop.now = day(4)
    shop.ingest(PUSHED[:1])
    audit = shop.audit()
    assert (audit.compared, audit.pending) == (3, 0)
    assert audit.mismatch == dict.fromkeys(COMPARED, 0.0)


def test_an_event_that_was_served_and_never_accepted_is_skew(shop):
    shop.accept(event("u", "rejected", day(3.5), kind="view"))
    shop.serve("u")
    shop.now = day(4)
    shop.ingest([event("v", "b", day(3.9))])

    mismatch = shop.audit().mismatch

    assert mismatch["item_ids"] == mismatch["views"] == 1.0
    assert mismatch["purchases"] == 0.0


def test_what_has_expired_is_unknown_on_both_sides(shop):
    shop.now = day(2) + timedelta(days=28)
    shop.serve("u")
    shop.now += timedelta(microseconds=1)
    shop.serve("u")
    shop.now = day(40)
    shop.ingest([event("v", "b", day(39))])

    audit = shop.audit()

    assert audit.compared == 2
    assert audit.mismatch == dict.fromkeys(COMPARED, 0.0)


def test_answers_from_before_an_event_came_online_are_behind(shop):
    for one in PUSHED:
        shop.accept(one, pushed=False)
        shop.serve("u", "v", "w")  # u after one, three and four events; w a stranger still
    shop.now = day(4)
    shop.ingest(PUSHED)

    audit = shop.audit()

    assert audit.mismatch == dict.fromkeys(COMPARED, 0.0)
    assert (audit.compared, audit.strangers) == (8, 4)
    assert audit.behind == (4 + 3) / 12


def test_without_a_request_nothing_is_compared(shop):
    audit = shop.audit()

    assert (audit.compared, audit.behind, set(audit.mismatch.values())) == (0, 0.0, {0.0})

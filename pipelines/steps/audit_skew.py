"""Step: compare a sample of the features that were served with what the offline store says of the same moments."""

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.config import SkewConfig
from pipelines.evaluation.skew import FeatureSkew, compare_features
from pipelines.experiments.skew_page import skew_page
from pipelines.features.activity import ACTIVITY_FEATURES
from pipelines.progress import Progress
from pipelines.schemas import TIMESTAMP, SkewAudit, SkewExample
from pipelines.stores.experiment_tracker import ExperimentTracker
from pipelines.stores.feature_store import HISTORY_FEATURES, FeatureStoreClient
from pipelines.stores.files import write_text
from pipelines.stores.served_features import read_served_features

STEP = "audit_skew"
COMPARED = (*HISTORY_FEATURES, *ACTIVITY_FEATURES)
_SHOWN_CHARACTERS = 200


def audit_skew(
    run: str,
    *,
    served_dir: Path,
    audits_dir: Path,
    feature_store: FeatureStoreClient,
    tracker: ExperimentTracker,
    config: SkewConfig,
    progress: Progress,
) -> SkewAudit:
    """Recompute the sampled requests by the point-in-time join of training, and report what differs.

    A served row names what it was made of: the arrival of its newest event. The offline store is asked for the
    moment at which that was known, and for nothing newer; what has expired by the time of the request counts as
    unknown, as it does online. Requests newer than what was ingested are left for the next audit.

    Args:
        run: Names the audit, in MLflow too.

    Raises:
        StoreError: there are no features, or MLflow does not answer.
    """
    until = feature_store.manifest().until
    progress.update("recompute served features", 0, 1)
    requests = read_served_features(served_dir, limit=config.max_requests)
    due = requests.filter(pc.less_equal(requests["requested_at"], pa.scalar(until, TIMESTAMP)))
    known = due.filter(pc.is_valid(due["arrived_at_us"]))
    served = {name: known[name].to_pylist() for name in COMPARED}
    offline = _offline(known, feature_store)
    skews = compare_features(served, offline, tolerance=config.tolerance)
    progress.update("recompute served features", 1, 1)
    audit = SkewAudit(
        until=until,
        compared=known.num_rows,
        strangers=due.num_rows - known.num_rows,
        pending=requests.num_rows - due.num_rows,
        behind=_behind(due, feature_store),
        mismatch={name: skew.rate for name, skew in skews.items()},
        examples=tuple(
            example for name in COMPARED for example in _examples(name, skews[name], known, served, offline, config)
        ),
        report=audits_dir / run / "skew.html",
    )
    write_text(audits_dir / run / "skew.html", skew_page(audit))
    _publish(run, audit, config, tracker)
    return audit


def _offline(known: pa.Table, feature_store: FeatureStoreClient) -> dict[str, list[Any]]:
    """Return the features of the rows that were served, as the offline store has them."""
    knowledge_us = pc.max_element_wise(known["arrived_at_us"], known["event_timestamp_us"])
    asked = pa.table(
        {
            "row_id": pa.array(range(known.num_rows), pa.int64()),
            "user_id": known["user_id"],
            "as_of": knowledge_us.cast(pa.int64()).cast(TIMESTAMP),
        }
    )
    features = feature_store.user_features(asked)
    offline = {name: features[name].to_pylist() for name in COMPARED}
    ttl = feature_store.time_to_live("user_activity")
    expired = np.flatnonzero(_ages_us(known) > ttl // timedelta(microseconds=1)) if ttl else np.array([], np.int64)
    for name in ACTIVITY_FEATURES:
        for place in expired.tolist():
            offline[name][place] = None
    return offline


def _ages_us(known: pa.Table) -> np.ndarray:
    """Return how old each served row was at its request, int64 microseconds."""
    requested_us = known["requested_at"].cast(TIMESTAMP).cast(pa.int64()).to_numpy()
    return np.asarray(requested_us - known["event_timestamp_us"].to_numpy(), np.int64)


def _behind(due: pa.Table, feature_store: FeatureStoreClient) -> float:
    """Return the share of the requests whose user had newer events by then than the row that answered."""
    if not due.num_rows:
        return 0.0
    return feature_store.requests_behind(due.select(["user_id", "requested_at", "arrived_at_us"])) / due.num_rows


def _examples(
    name: str,
    skew: FeatureSkew,
    known: pa.Table,
    served: dict[str, list[Any]],
    offline: dict[str, list[Any]],
    config: SkewConfig,
) -> list[SkewExample]:
    return [
        SkewExample(
            feature=name,
            user_id=known["user_id"][place].as_py(),
            requested_at=_moment(known["requested_at"][place]),
            served=str(served[name][place])[-_SHOWN_CHARACTERS:],
            offline=str(offline[name][place])[-_SHOWN_CHARACTERS:],
        )
        for place in skew.different[: config.examples]
    ]


def _moment(value: pa.Scalar) -> datetime:
    moment: datetime = value.as_py()
    return moment


def _publish(run: str, audit: SkewAudit, config: SkewConfig, tracker: ExperimentTracker) -> None:
    with tracker.step(run, STEP) as log:
        log.params(config.model_dump())
        log.metrics(
            {
                **{f"skew.{name}": share for name, share in audit.mismatch.items()},
                "skew.behind": audit.behind,
                "skew.compared": audit.compared,
                "skew.pending": audit.pending,
                "skew.strangers": audit.strangers,
            }
        )
        log.text(skew_page(audit), "skew.html")

"""A copy of the label, planted where no point-in-time join may find it, and one where it must."""

import tempfile
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.config import FeatureStoreConfig
from pipelines.errors import DataError
from pipelines.schemas import TIMESTAMP
from pipelines.stores.feast_settings import import_feast, open_feature_store
from pipelines.stores.offline_engine import EMBEDDED, feature_source
from pipelines.stores.point_in_time import TIME

Join = Callable[[Any, pa.Table, Sequence[str]], pa.Table]
"""A join such as `join_features`: store, entities, features."""
_MOMENT = timedelta(microseconds=1)
_DAY = timedelta(days=1)
PLANTED = {
    # view: event time and arrival, relative to the row's moment
    "canary_known": (timedelta(0), timedelta(0)),
    "canary_future": (_MOMENT, -_DAY),
    "canary_late": (-_DAY, _MOMENT),
}
"""The label as a feature: known at the row's moment, from a microsecond later, and from a day before it but told a
microsecond after it."""


def check_canary(
    moments: pa.Array,
    labels: pa.Array,
    *,
    folder: Path,
    join: Join,
    engine: FeatureStoreConfig = EMBEDDED,
) -> int:
    """Plant copies of the label, join them as features are joined, and require that none comes through.

    Feast's registry of the features, their files and the online store are not touched; what is planted lies in a
    temporary folder below `folder` and is gone afterwards.

    Args:
        moments: timestamp[us, UTC], the moment of each row.
        labels: string, the label of each row, not null.
        engine: What joins the features.

    Returns:
        Copies planted.

    Raises:
        DataError: a copy from the future came through, or the one that was known did not: the join decides nothing.
    """
    rows = pa.table({"canary_id": pa.array([str(number) for number in range(len(labels))]), TIME: moments})
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".canary-", dir=folder) as temporary:
        store = _planted(Path(temporary), rows, labels, engine)
        joined = join(store, rows, [f"{view}:{view}_label" for view in PLANTED])
    through = {view: len(labels) - joined[f"{view}_label"].null_count for view in PLANTED}
    if not joined["canary_known_label"].combine_chunks().equals(labels):
        raise DataError(
            f"The leak canary is blind: of {len(labels):,} labels that were known, the point-in-time join brought "
            f"{through['canary_known']:,}. Nothing may be trained on it; report it as a bug of the offline store."
        )
    for view, what in {"canary_future": "from after its time", "canary_late": "that arrived after its time"}.items():
        if through[view]:
            raise DataError(
                f"The point-in-time join leaks: {through[view]:,} of {len(labels):,} training rows were given a label "
                f"{what} (planted as `{view}`). Nothing may be trained on it: use an offline store that honours "
                "both cut-offs."
            )
    return len(PLANTED) * len(labels)


def _planted(folder: Path, rows: pa.Table, labels: pa.Array, engine: FeatureStoreConfig) -> Any:
    """Return a feature store of its own whose views give each row its label."""
    import_feast()
    from feast import Entity, FeatureView, Field, ValueType
    from feast.types import String

    canary = Entity(name="canary", join_keys=["canary_id"], value_type=ValueType.STRING)
    views = []
    for view, (happened, arrived) in PLANTED.items():
        path = folder / f"{view}.parquet"
        planted = {
            "canary_id": rows["canary_id"],
            "event_timestamp": pc.add(rows[TIME], pa.scalar(happened, pa.duration("us"))).cast(TIMESTAMP),
            "created_timestamp": pc.add(rows[TIME], pa.scalar(arrived, pa.duration("us"))).cast(TIMESTAMP),
            f"{view}_label": labels,
        }
        pq.write_table(pa.table(planted), path)
        source = feature_source(engine.offline_store, f"{view}_file", path)
        fields = [Field(name="canary_id", dtype=String), Field(name=f"{view}_label", dtype=String)]
        views.append(FeatureView(name=view, entities=[canary], ttl=timedelta(0), schema=fields, source=source))
    store = open_feature_store(folder, None, engine=engine)
    store.apply([canary, *views])
    return store

"""Step: compute the features of users and items from the validated tables, only for days that are new or touched."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from pipelines.config import FeatureConfig
from pipelines.progress import Progress
from pipelines.schemas import FeatureBuild
from pipelines.stores.feature_builder import DayEvents, FeatureBuilder
from pipelines.stores.feature_files import FeatureFiles, FeatureManifest
from pipelines.stores.files import text_sha256
from pipelines.stores.table_store import TableStore, arrival_day

_FORMAT = 3
"""Raise it when the queries mean something else, so that old files are built again."""


def build_features(
    *, tables: TableStore, features_dir: Path, config: FeatureConfig, until: datetime, progress: Progress
) -> FeatureBuild:
    """Write one Parquet file per arrival day and feature file, from all events that arrived up to `until`.

    Only days whose events are new or changed are computed, and those after them: what was known of a user on a day
    builds on the day before. Returns at once where nothing changed. Killed at any moment and run again, it ends in
    the same state.

    Raises:
        DataError: there are no tables yet.
    """
    files = FeatureFiles(features_dir)
    tables_fingerprint = tables.fingerprint()
    cut_off = min(until, tables.accepted_until() or until)
    settings = text_sha256(str(_FORMAT), config.model_dump_json())
    fingerprint = text_sha256(settings, tables_fingerprint, cut_off.astimezone(UTC).isoformat())
    done = files.find()
    if done is not None and done.fingerprint == fingerprint:
        return _record(done, done.build)

    before = files.last_state()
    if before is None or before.settings != settings:
        serial = before.build if before else 0
        before = FeatureManifest(fingerprint="", tables_fingerprint="", settings=settings, until=cut_off, build=serial)
    wanted = _wanted_days(tables, cut_off)
    kept = _kept(before, wanted)
    build = FeatureBuilder(tables, files, config, kept, cut_off)
    days = build.days({day: events for day, events in wanted.items() if day not in kept.days}, progress)
    prices = build.prices()
    manifest = kept.model_copy(
        update={
            "complete": True,
            "fingerprint": fingerprint,
            "tables_fingerprint": tables_fingerprint,
            "until": cut_off,
            "build": build.number if days or prices else before.build,
            "days": {**kept.days, **days},
            "prices": dict(sorted({**kept.prices, **prices}.items())),
            "base_day": build.base_day,
            "base_build": build.base_build,
        }
    )
    files.replace(manifest, kept)
    return _record(manifest, before.build, len(days))


def _record(manifest: FeatureManifest, build_before: int, days_built: int = 0) -> FeatureBuild:
    return FeatureBuild(
        until=manifest.until,
        rows=manifest.rows,
        fingerprint=manifest.fingerprint,
        build=manifest.build,
        days_built=days_built,
        touched_since=manifest.touched_since(build_before),
    )


def _wanted_days(tables: TableStore, cut_off: datetime) -> dict[str, DayEvents]:
    """Return the arrival days up to the cut-off, oldest first."""
    last = arrival_day(cut_off)
    accepted_until = tables.accepted_until()
    cut = accepted_until is not None and cut_off < accepted_until
    return {
        day: DayEvents(
            path=tables.event_file(day),
            rows=file.rows,
            source=f"{file.sha256} {cut_off.astimezone(UTC).isoformat()}" if cut and day == last else file.sha256,
        )
        for day, file in tables.event_days().items()
        if day <= last
    }


def _kept(before: FeatureManifest, wanted: Mapping[str, DayEvents]) -> FeatureManifest:
    """Return the state before, reduced to the days before the first one that changed."""
    changed = [
        day
        for day in before.days.keys() | wanted.keys()
        if day not in wanted or day not in before.days or before.days[day].source != wanted[day].source
    ]
    first = min(changed, default="9999")
    base_stays = before.base_day is not None and before.base_day < first
    return before.model_copy(
        update={
            "days": {day: files for day, files in before.days.items() if day < first},
            "base_day": before.base_day if base_stays else None,
        }
    )

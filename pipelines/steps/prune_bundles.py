"""Step: remove old bundles from this disk; the registry keeps its copies."""

import shutil
from collections.abc import Collection
from datetime import datetime
from pathlib import Path

from pipelines.config import DeploymentConfig
from pipelines.errors import BundleError
from pipelines.inference.manifest import Manifest, read_manifest
from pipelines.places import Places
from pipelines.rollout.retention import reasons_to_keep
from pipelines.schemas import PrunedBundles
from pipelines.steps.build_bento import BENTO
from pipelines.stores.model_registry import ModelRegistry
from pipelines.stores.new_items_store import remove_new_items
from pipelines.stores.rollout_file import read_plan
from pipelines.stores.serving_pointer import read_pointer


def prune_bundles(*, registry: ModelRegistry, places: Places, config: DeploymentConfig, now: datetime) -> PrunedBundles:
    """Remove what no policy keeps: the folder of the bundle, the items beside it and its Bentos.

    Never removed: the live bundle and the one before it, the champion and the one before it, the challenger, what a
    shadow or canary runs, and what the registry has no copy of. A rollback to a removed bundle fetches it again. Safe
    to run twice.

    Raises:
        BundleError: the pointer or the plan of the rollout cannot be read; nothing is removed then.
    """
    found = _bundles(places.bundles)
    kept = reasons_to_keep(
        {bundle: manifest.created_at for bundle, manifest in found.items()},
        in_use=_in_use(registry, places),
        champions=[version.bundle for version in registry.champions()],
        registered=[version.bundle for version in registry.versions()],
        keep_champions=config.keep_champions,
        keep_days=config.keep_days,
        now=now,
    )
    removed = sorted(found.keys() - kept.keys())
    for bundle in removed:
        remove_new_items(places.new_items, bundle)
        leaving = places.bundles / f".{bundle}.removed"
        (places.bundles / bundle).rename(leaving)  # nobody opens half of it
        shutil.rmtree(leaving)
    for bento in _bentos_of(removed, places.bentoml):
        shutil.rmtree(bento)
    return PrunedBundles(
        removed=tuple(removed), freed_mib=round(sum(found[bundle].size_mib for bundle in removed), 1), kept=kept
    )


def _bundles(folder: Path) -> dict[str, Manifest]:
    """Return the bundles by id, also those of other versions; what is none, or was never finished, is left alone."""
    found = {}
    for path in sorted(folder.glob("[!.]*")):
        try:
            found[path.name] = read_manifest(path, any_format=True)
        except BundleError:
            continue
    return found


def _bentos_of(bundles: Collection[str], bentoml_home: Path) -> list[Path]:
    """Return the Bentos that carry one of the bundles."""
    found = []
    for bento in sorted((bentoml_home / "bentos" / BENTO).glob("*/")):
        try:
            if read_manifest(bento / "src" / "bundle", any_format=True).bundle_id in bundles:
                found.append(bento)
        except BundleError:
            continue
    return found


def _in_use(registry: ModelRegistry, places: Places) -> dict[str, str]:
    live, plan = read_pointer(places.current_bundle), read_plan(places.rollout)
    champion, before, challenger = registry.champion(), registry.previous_champion(), registry.challenger()
    uses = {
        "live before": live.previous if live else None,
        "challenger": challenger.bundle if challenger else None,
        "champion before": before.bundle if before else None,
        "shadow": plan.shadow.bundle if plan.shadow else None,
        "canary": plan.canary.bundle if plan.canary else None,
        "champion": champion.bundle if champion else None,
        "live": live.bundle if live else None,
    }
    return {bundle: use for use, bundle in uses.items() if bundle is not None}

"""`headrace shadow` and `headrace canary`: aliases and tags in the registry, and their copy beside the pointer.

The registry says what is to be tried; the service, which has no registry, reads the copy and follows it within a
second. What the guard of a service stopped comes back the same way, as a file, and is kept in the registry by the next
command that looks.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Literal

from pipelines.errors import BundleError, ConfigError, DataError
from pipelines.inference.manifest import read_manifest, verify_files
from pipelines.places import Places
from pipelines.rollout.plan import CANARY, SHADOW, CanaryStop, RolloutPlan, Trial
from pipelines.stores.model_registry import ModelRegistry, ModelVersion
from pipelines.stores.rollout_file import read_plan, read_stop, write_plan
from pipelines.stores.serving_pointer import read_pointer

Kind = Literal["shadow", "canary"]
STOPPED = "canary_stopped"
"""Tag of a version whose canary the guard stopped: when and why."""


def start_trial(
    kind: Kind,
    bundle: str,
    share: float,
    *,
    registry: ModelRegistry,
    places: Places,
    now: datetime,
    prepare: Callable[[str], None] = lambda _: None,
) -> Trial:
    """Have a registered bundle tried; with another share, the same trial goes on.

    Args:
        kind: How it is tried.
        bundle: Its id.
        share: Of the requests for a shadow, of the users for a canary; in (0, 1].
        registry: Where the trial is written down.
        places: Where the service reads of it.
        now: The moment.
        prepare: Puts the items that arrived since beside the bundle.

    Raises:
        DataError: the bundle is not registered.
        ConfigError: it is the live one, or the share is not one.
        BundleError: its files are incomplete or were changed.
    """
    if not 0 < share <= 1:
        raise ConfigError(f"The share of the {kind} is {share:g}: it must be above 0 and at most 1.")
    version = registry.find(bundle)
    if version is None:
        known = ", ".join(found.bundle for found in registry.versions()) or "none"
        raise DataError(f"Bundle {bundle} is not registered (registered are: {known}): name one of those.")
    live = read_pointer(places.current_bundle)
    if live is not None and live.bundle == bundle:
        raise ConfigError(f"Bundle {bundle} is live already: name another one as the {kind}.")
    if not (places.bundles / bundle).is_dir():
        registry.fetch(version.version, places.bundles)
    verify_files(places.bundles / bundle, read_manifest(places.bundles / bundle))
    prepare(bundle)
    running = _trial(kind, registry.holder(kind))
    goes_on = running is not None and running.bundle == bundle and _stop_of(kind, running, places) is None
    if not goes_on:
        registry.tag(version.version, f"{kind}_started_at", now.isoformat())
    registry.tag(version.version, f"{kind}_share", f"{share:g}")
    if kind == CANARY and not goes_on:
        registry.tag(version.version, STOPPED, "")
    registry.give_alias(kind, version.version)
    plan = follow_registry(registry, places)
    trial = plan.shadow if kind == SHADOW else plan.canary
    assert trial is not None  # noqa: S101 - it was just planned
    return trial


def end_trial(kind: Kind, *, registry: ModelRegistry, places: Places) -> None:
    """Have nothing tried any more; safe to repeat."""
    registry.take_alias(kind)
    follow_registry(registry, places)


def follow_registry(registry: ModelRegistry, places: Places) -> RolloutPlan:
    """Keep in the registry what a guard stopped, then copy what is planned there for the service.

    What is live already is not tried any more.
    """
    live = read_pointer(places.current_bundle)
    planned: dict[str, Trial] = {}
    for kind in (SHADOW, CANARY):
        holder = registry.holder(kind)
        trial = _trial(kind, holder)
        if trial is None or holder is None:
            continue
        stop = _stop_of(kind, trial, places)
        if stop is not None:
            registry.tag(holder.version, STOPPED, f"{stop.stopped_at.isoformat()}: {stop.reason}")
        if stop is not None or (live is not None and live.bundle == trial.bundle):
            registry.take_alias(kind)
        else:
            planned[kind] = trial
    plan = RolloutPlan(shadow=planned.get(SHADOW), canary=planned.get(CANARY))
    if plan != _written_plan(places):
        write_plan(places.rollout, plan)
    return plan


def _written_plan(places: Places) -> RolloutPlan | None:
    try:
        return read_plan(places.rollout)
    except BundleError:
        return None  # a broken one is replaced


def _trial(kind: str, holder: ModelVersion | None) -> Trial | None:
    """Return what the tags of a version say about its trial.

    Raises:
        ConfigError: they cannot be read.
    """
    if holder is None:
        return None
    share, started_at = (holder.tags.get(f"{kind}_{name}", "") for name in ("share", "started_at"))
    try:
        started = datetime.fromisoformat(started_at)
        identity = f"{holder.bundle}-{started:%Y%m%dT%H%M%S}"
        return Trial(id=identity, bundle=holder.bundle, share=float(share), started_at=started)
    except ValueError:
        raise ConfigError(
            f"Version {holder.version} has the alias {kind}, but its tags {kind}_share ({share!r}) and "
            f"{kind}_started_at ({started_at!r}) are not a share above 0 and a time: run `headrace {kind} "
            f"{holder.bundle} --share 0.05`, or `headrace {kind} --off`."
        ) from None


def _stop_of(kind: str, trial: Trial, places: Places) -> CanaryStop | None:
    return read_stop(places.canary_stops, trial.id) if kind == CANARY else None

"""`headrace rollback`: the pointer first, because users wait; then the registry, which takes seconds to open."""

import time
from typing import Any

from pipelines.errors import DataError, StoreError
from pipelines.stores.serving_pointer import ServingPointer, read_pointer, write_pointer
from pipelines.wiring import Wiring, after_rollback, run_step


def roll_back(to: str | None, wiring: Wiring | None = None) -> str:
    """Go back to an earlier champion and wait until the running services answer from it.

    Args:
        to: Bundle id; None means the champion before.
        wiring: The stores to use; without it, those of the environment.

    Returns:
        A sentence for the person.

    Raises:
        DataError: there is no earlier champion, or `to` was never the champion; what was live is live.
        BundleError: the bundle is incomplete, or a service cannot open it; what was live is live.
        StoreError: the service answers from the bundle, but the registry could not be told.
    """
    began = time.monotonic()
    wiring = wiring or Wiring.from_environment()
    live = read_pointer(wiring.places.current_bundle)
    target = to or (live.before[-1] if live is not None and live.before else None)
    is_known = live is not None and target in live.before
    if live is None or target is None or not is_known or not (wiring.places.bundles / target).is_dir():
        target = str(run_step("rollback_champion", wiring=wiring, to=to)["champion"])
        deployed = run_step("deploy_bundle", wiring=wiring, bundle=target, known=True, at_once=True)
    else:
        deployed = run_step("deploy_bundle", wiring=wiring, bundle=target, known=True, at_once=True)
        _tell_registry(wiring, target, live)
    answered_s = time.monotonic() - began
    after_rollback(wiring, target)
    return _sentence(deployed, answered_s)


def _tell_registry(wiring: Wiring, target: str, live: ServingPointer) -> None:
    try:
        run_step("rollback_champion", wiring=wiring, to=target)
    except DataError:
        write_pointer(wiring.places.current_bundle, live)
        raise
    except StoreError as error:
        raise StoreError(
            f"Bundle {target} is live again, but it does not have the champion alias yet: {error} Then run `headrace "
            f"rollback --to {target}` again, or the next deployment brings {live.bundle} back."
        ) from error


def _sentence(deployed: dict[str, Any], answered_s: float) -> str:
    services = len(deployed["services"])
    if not services:
        return f"Bundle {deployed['bundle']} is champion and live again, after {deployed['previous']}; no service runs."
    return (
        f"Bundle {deployed['bundle']} is champion and live again, after {deployed['previous']}: "
        f"{services} running service{'s' * (services != 1)} answered from it {deployed['swap_s']:.1f} s after the "
        f"pointer moved; {answered_s:.1f} s with the registry."
    )

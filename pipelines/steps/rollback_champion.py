"""Step: give the champion alias back to the champion before."""

from pipelines.errors import DataError
from pipelines.schemas import PromotionDecision
from pipelines.stores.model_registry import ModelRegistry

ROLLED_BACK = "rolled_back_to"
"""Tag of a version that was taken out of service by hand; the gate does not let it in again by itself."""
NOT_DEPLOYED = "not_deployed_because"
"""Tag of a champion that could not go live."""


def rollback_champion(*, registry: ModelRegistry, to: str | None = None) -> PromotionDecision:
    """Move the champion alias back; `deploy_bundle` then makes the service answer from it.

    The version that is left is marked, so that the next training on the same tables does not promote it again.

    With `to`, running it twice gives the same state. Without, each call goes one champion further back.

    Args:
        to: Bundle id of an earlier champion; None means the one before the present one.

    Raises:
        DataError: there is no earlier champion, or `to` was never the champion.
    """
    champion = registry.champion()
    if to is None:
        target = registry.previous_champion()
        if target is None:
            known = f"bundle {champion.bundle} is the first champion" if champion else "there is no champion yet"
            raise DataError(f"There is nothing to roll back to: {known}. Train and promote a challenger instead.")
    else:
        target = registry.find(to)
        if target is None:
            known = ", ".join(version.bundle for version in registry.versions()) or "none"
            raise DataError(f"Bundle {to} is not registered (registered are: {known}): name one of those.")
    registry.restore_champion(target.version)
    registry.tag(target.version, ROLLED_BACK, "")
    if champion and champion.version != target.version:
        registry.tag(champion.version, ROLLED_BACK, target.bundle)
    before = champion.bundle if champion else "none"
    return PromotionDecision(
        run=target.run,
        bundle=target.bundle,
        promoted=True,
        reasons=(f"rolled back by hand from {before}",),
        champion=target.bundle,
    )


def withdraw_champion(bundle: str, reason: str, *, registry: ModelRegistry) -> None:
    """Give the alias back to the champion before, if `bundle` holds it and could not go live.

    The registry says what should be live: a bundle that is refused should not be. The first champion keeps the alias.

    Args:
        bundle: The bundle that was refused.
        reason: Why; it stays with the version.
    """
    champion = registry.champion()
    if champion is None or champion.bundle != bundle:
        return
    registry.tag(champion.version, NOT_DEPLOYED, reason)
    before = registry.previous_champion()
    if before is not None:
        registry.restore_champion(before.version)

"""Which old bundles stay on the disk."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta


def reasons_to_keep(
    bundles: Mapping[str, datetime],
    *,
    in_use: Mapping[str, str],
    champions: Sequence[str],
    registered: Sequence[str],
    keep_champions: int,
    keep_days: int,
    now: datetime,
) -> dict[str, str]:
    """Return the bundles that stay, each with the reason; the others may go.

    Args:
        bundles: When each bundle was made.
        in_use: Bundles that are needed as they are, with what for.
        champions: Bundles that were champions, the newest last.
        registered: Bundles of which the registry holds a copy; others always stay.
        keep_champions: Champions that stay, the newest.
        keep_days: Days for which every bundle stays.
        now: The moment.
    """
    newest = set(list(champions)[-keep_champions:])
    kept = {}
    for bundle, made_at in bundles.items():
        if bundle in in_use:
            kept[bundle] = in_use[bundle]
        elif bundle not in registered:
            kept[bundle] = "the registry has no copy"
        elif bundle in newest:
            kept[bundle] = f"one of the last {keep_champions} champions"
        elif now - made_at < timedelta(days=keep_days):
            kept[bundle] = f"younger than {keep_days} days"
    return kept

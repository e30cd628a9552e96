"""Exploration: now and then a slot shows an item from further down, with a chance that is known and logged.

What was shown can then be judged as if another order had been shown, by weighting each item with one over its
propensity (Swaminathan & Joachims, Counterfactual risk minimization, 2015).
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Exploration:
    """Which slots are explored, and how often."""

    share: float
    """Chance that a slot is explored, in [0, 1]."""
    positions: tuple[int, ...]
    """The slots, positions in the list from 1."""
    pool: int
    """Next candidates among which an explored slot is drawn, each with the same chance."""


@dataclass(frozen=True)
class ExploredSlots:
    """What became of the slots of one answer."""

    items: dict[int, int]
    """Slot to what it shows instead; only the explored ones."""
    propensities: dict[int, float]
    """Slot to the chance that it shows what it shows; slots that are not here always show it."""


def explore(slots: Sequence[int], reserve: Sequence[int], share: float, seed: str | None) -> ExploredSlots:
    """Draw what the slots show.

    Each slot is explored with chance `share`, whatever the others do, and then shows one of the reserve that no earlier
    slot shows. Drawn without replacement, each of `r` items has the chance 1/r to be in a given slot, so the propensity
    of an item from the reserve is share / r, and that of what the slot shows otherwise 1 - share.

    Args:
        slots: Any numbers; of more slots than reserve only the first ones are explored.
        reserve: Distinct items that are not shown otherwise.
        seed: The same seed gives the same draw; None draws nothing and gives the propensities alone.
    """
    left, items, propensities = list(reserve), dict[int, int](), dict[int, float]()
    for slot in slots[: len(reserve)]:
        if seed is not None and _chance(seed, "explored", slot) < share:
            items[slot] = left.pop(int(_chance(seed, "drawn", slot) * len(left)))
            propensities[slot] = share / len(reserve)
        else:
            propensities[slot] = 1 - share
    return ExploredSlots(items, propensities)


def _chance(seed: str, purpose: str, slot: int) -> float:
    """Return a number in [0, 1) that the seed decides, the same on every machine and version."""
    digest = hashlib.blake2b(f"{seed}/{purpose}/{slot}".encode(), digest_size=6).digest()
    return int.from_bytes(digest) / 2**48

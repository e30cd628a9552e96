"""Which users a canary answers: the same ones for as long as it lasts, others for the next canary."""

import hashlib

_STEPS = 2**64


def is_assigned(user_id: str, canary: str, share: float) -> bool:
    """Tell whether a user belongs to the share that a canary answers.

    The users of a share are among those of every larger share of the same canary.

    Args:
        user_id: The pseudonym.
        canary: Id of the canary; another id gives an independent choice of users.
        share: In [0, 1].
    """
    digest = hashlib.sha256(f"{canary}\0{user_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * _STEPS

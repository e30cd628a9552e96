"""Which bundles are tried beside the live one, and what became of a canary."""

from datetime import datetime

from pydantic import Field

from pipelines.schemas import Record

SHADOW = "shadow"
CANARY = "canary"


class Trial(Record):
    """A bundle that is tried on a share of the traffic."""

    id: str
    """Names this trial; a canary with another id is answered to other users."""
    bundle: str
    share: float = Field(gt=0, le=1)
    """Of the requests for a shadow, of the users for a canary."""
    started_at: datetime


class RolloutPlan(Record):
    """What the service shall try."""

    shadow: Trial | None = None
    canary: Trial | None = None


class CanaryStop(Record):
    """A canary that the guard stopped."""

    id: str
    bundle: str
    stopped_at: datetime
    reason: str
    answers: int
    """Answers of the canary until then."""

"""What goes out, for the OpenAPI description; a test holds real answers against it."""

from pydantic import BaseModel, ConfigDict, Field


class Answer(BaseModel):
    """What every answer carries."""

    model_config = ConfigDict(extra="forbid", strict=True)

    request_id: str = Field(description="The `X-Request-ID` of the request, or one that was made for it.")
    model_version: str = Field(description="The bundle that answered.")
    degraded: bool = Field(description="Whether something was missing that the answer usually rests on.")
    degraded_because: list[str] | None = Field(default=None, description="What was missing; absent otherwise.")


class FoundItem(BaseModel):
    """One item of an answer: what the catalog says of it, and its score."""

    model_config = ConfigDict(extra="allow", strict=True)

    item_id: str
    title: str
    category: str | None = None
    brand: str | None = None
    price: float | None = None
    currency: str | None = None
    score: float


class FoundItems(Answer):
    """Items, best first."""

    items: list[FoundItem]
    personalized: bool = Field(description="Whether the user's history counted.")
    timings_ms: dict[str, float] | None = Field(default=None, description="Time per stage, where it was asked for.")


class AcceptedEvents(Answer):
    """Events that are on the disk."""

    accepted: int


class AcceptedItems(Answer):
    """Items, or items taken back, that are on the disk and count in every answer within a second."""

    accepted: int


class Reloaded(Answer):
    """Which bundle answers now."""

    changed: bool = Field(description="Whether it is another one, or has other items, than before.")


class Problem(BaseModel):
    """Why a request was not answered."""

    model_config = ConfigDict(extra="forbid", strict=True)

    error: str = Field(description="One sentence: what was found, what is allowed, what to do.")

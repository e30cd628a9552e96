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
    propensity: float | None = Field(
        default=None, description="Chance of the item to be at its position, where slots are explored."
    )
    rules: list[str] | None = Field(default=None, description="Business rules that touched it, where asked for.")


class PageOfItems(BaseModel):
    """Where a page that was asked for by cursor stands."""

    model_config = ConfigDict(extra="forbid", strict=True)

    first_position: int = Field(description="Position of its first item in the list, from 1.")
    bundle_changed: bool = Field(
        description="Whether another bundle answers than the page before: this is its best of what was not shown yet."
    )


class FoundItems(Answer):
    """Items, best first."""

    items: list[FoundItem]
    personalized: bool = Field(description="Whether the user's history counted.")
    cursor: str | None = Field(default=None, description="Asks for the next page; absent on the last one.")
    page: PageOfItems | None = Field(default=None, description="Where this page stands, where it is not the first.")
    rules: list[str] | None = Field(default=None, description="Business rules that touched it, where asked for.")
    timings_ms: dict[str, float] | None = Field(default=None, description="Time per stage, where it was asked for.")


class ExplainedEvent(BaseModel):
    """An event of the user's own history."""

    model_config = ConfigDict(extra="forbid", strict=True)

    item_id: str
    title: str
    event_type: str
    days_ago: float
    attention: float = Field(description="Share of the attention that the user tower paid to it.")


class ExplainedItem(BaseModel):
    """Why an item is shown, or is not."""

    model_config = ConfigDict(extra="forbid", strict=True)

    item_id: str
    title: str
    shown: bool
    why: str
    rank: int | None = Field(description="Place by score, from 1, before rules and the like; null for no candidate.")
    generators: list[str] = Field(description="Who proposed it.")
    parts: dict[str, float] = Field(description="What each generator says of it, in [0, 1].")
    contributions: dict[str, float] = Field(description="What its score would lose without each part.")
    rules: list[str] = Field(description="Business rules that touched it.")
    position: int | None = None
    score: float | None = None
    propensity: float | None = Field(default=None, description="Chance of the item to be at its position.")


class ExplainedAnswer(BaseModel):
    """Which answer is explained."""

    model_config = ConfigDict(extra="forbid", strict=True)

    request_id: str | None = Field(description="Null where the question was asked anew.")
    call: str
    at: str
    first_position: int
    items_wanted: int


class Explanation(Answer):
    """How an answer came about."""

    explains: ExplainedAnswer
    personalized: bool
    history: list[ExplainedEvent] = Field(description="Events that the user tower attended to most.")
    rules: list[str] = Field(description="Business rules that touched the answer.")
    items: list[ExplainedItem]


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

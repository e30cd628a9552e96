"""Bodies of the calls, and errors in one sentence."""

from typing import Annotated, Any, Literal, TypeVar

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipelines.schemas import EVENT_TYPES

MAX_ID_CHARACTERS = 256
MAX_CURSOR_CHARACTERS = 16_384
ContextName = Annotated[str, Field(min_length=1, max_length=64)]
ContextValue = Annotated[str, Field(max_length=256)]
_SHOWN = 60
B = TypeVar("B", bound="Body")


class RequestError(Exception):
    """A request that cannot be answered; `status` is its HTTP status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Body(BaseModel):
    """Base of all bodies: exact types, and unknown fields are refused."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class FiltersBody(Body):
    """What an answer is limited to."""

    categories: list[str] = Field(default=[], max_length=100)
    brands: list[str] = Field(default=[], max_length=100)
    min_price: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    max_price: float | None = Field(default=None, ge=0, allow_inf_nan=False)


class AnswerBody(Body):
    """What every call that answers items takes."""

    k: int = Field(default=10, ge=1)
    filters: FiltersBody | None = None
    cursor: str | None = Field(default=None, min_length=1, max_length=MAX_CURSOR_CHARACTERS)
    """The `cursor` of the page before; every other field but `k` has to be the same."""
    context: dict[ContextName, ContextValue] = Field(
        default_factory=dict, max_length=20, json_schema_extra={"default": {}}
    )
    """What business rules may ask of the moment, such as `page` or `device`."""
    rules: bool = False
    """Whether the answer says which business rules touched it."""
    timings: bool = False


class SearchBody(AnswerBody):
    """`POST /search`."""

    query: str
    user_id: str | None = Field(default=None, min_length=1, max_length=MAX_ID_CHARACTERS)


class RecommendBody(AnswerBody):
    """`POST /recommend`."""

    user_id: str = Field(min_length=1, max_length=MAX_ID_CHARACTERS)
    seed_items: list[str] = Field(default_factory=list, max_length=50, json_schema_extra={"default": []})


class SimilarBody(AnswerBody):
    """`POST /similar`."""

    item_id: str = Field(min_length=1, max_length=MAX_ID_CHARACTERS)
    kind: Literal["similar", "goes_with"] = "similar"
    other_categories: bool = False
    """Whether items of the item's own category are left out."""


class ExplainBody(Body):
    """`POST /explain`: an answer by its request id, or one item for a user, a query, or both."""

    request_id: str | None = Field(default=None, min_length=1, max_length=MAX_ID_CHARACTERS)
    user_id: str | None = Field(default=None, min_length=1, max_length=MAX_ID_CHARACTERS)
    query: str | None = Field(default=None, min_length=1, max_length=1_000)
    item_id: str | None = Field(default=None, min_length=1, max_length=MAX_ID_CHARACTERS)


class EventBody(Body):
    """One event; the user id is raw and becomes a pseudonym before anything is kept."""

    user_id: str = Field(min_length=1, max_length=MAX_ID_CHARACTERS)
    event_type: Literal["impression", "click", "view", "cart", "purchase", "rating", "search"]
    item_id: str | None = Field(default=None, min_length=1, max_length=MAX_ID_CHARACTERS)
    query: str | None = Field(default=None, min_length=1, max_length=1_000)
    session_id: str | None = Field(default=None, min_length=1, max_length=MAX_ID_CHARACTERS)
    position: int | None = Field(default=None, ge=0, lt=2**31)
    propensity: float | None = Field(default=None, gt=0, le=1)
    value: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    event_id: str | None = Field(default=None, min_length=1, max_length=MAX_ID_CHARACTERS)
    event_timestamp: AwareDatetime | None = None


class EventsBody(Body):
    """`POST /events`."""

    events: list[EventBody] = Field(min_length=1)


class ItemBody(Body):
    """One item as it is now, in the contract's form; a field that is left out is none. `updated_at` is the arrival."""

    item_id: str = Field(min_length=1, max_length=MAX_ID_CHARACTERS)
    title: str = Field(min_length=1)
    description: str | None = None
    category: str | None = None
    brand: str | None = None
    price: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    currency: str | None = None
    image: str | None = None
    attributes: dict[str, str] | None = None
    available: bool = True


class ItemsBody(Body):
    """`PUT /items`: one item or more; one alone may also be the body itself."""

    items: list[ItemBody] = Field(min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _one_alone(cls, given: Any) -> Any:
        return {"items": [given]} if isinstance(given, dict) and "item_id" in given and "items" not in given else given


class DeleteItemBody(Body):
    """`DELETE /items/{item_id}`: the id is in the path."""

    item_id: str = Field(min_length=1, max_length=MAX_ID_CHARACTERS)


class ReloadBody(Body):
    """`POST /admin/reload`: nothing is to be said; the body may be empty."""


assert set(EventBody.model_fields["event_type"].annotation.__args__) == set(EVENT_TYPES)  # type: ignore[union-attr]  # noqa: S101


def parse(kind: type[B], raw: bytes) -> B:
    """Read a body.

    Raises:
        RequestError: 400 where it is not a JSON object, 422 where a field is wrong; names the first problem.
    """
    try:
        return kind.model_validate_json(raw)
    except ValidationError as error:
        raise _request_error(kind, error) from None


def parse_field(kind: type[B], field: str, value: str) -> B:
    """Read a body of one field, which came in the path.

    Raises:
        RequestError: 422 where it is wrong.
    """
    try:
        return kind.model_validate({field: value})
    except ValidationError as error:
        raise _request_error(kind, error) from None


def _request_error(kind: type[Body], error: ValidationError) -> RequestError:
    """Return the first problem as a sentence."""
    first = error.errors(include_url=False, include_context=False)[0]
    more = error.error_count() - 1
    fields = ", ".join(_fields(kind))
    if first["type"] == "json_invalid":
        return RequestError(400, f"The body is not valid JSON ({first['msg']}): send an object with {fields}.")
    if not first["loc"]:
        return RequestError(400, f"The body is {_shown(first['input'])}: send a JSON object with {fields}.")
    where = ".".join(str(part) for part in first["loc"])
    also = f" ({more} more problem{'s' if more > 1 else ''})" if more else ""
    if first["type"] == "extra_forbidden":
        known = ", ".join(_fields_around(kind, first["loc"]))
        return RequestError(422, f"`{where}` is not a field of this call (known: {known}): leave it out{also}.")
    if first["type"] == "missing":
        return RequestError(422, f"`{where}` is missing: add it{also}.")
    return RequestError(422, f"`{where}`: {first['msg']}, found {_shown(first['input'])}: change it{also}.")


def _fields_around(kind: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """Return the fields that the object at the error would know."""
    inner = {"filters": FiltersBody, "events": EventBody, "items": ItemBody}
    return _fields(inner.get(str(location[0]), kind) if len(location) > 1 else kind)


def _fields(kind: type[BaseModel]) -> list[str]:
    """Return the fields of a body, its own before those that all answers share."""
    return sorted(kind.model_fields, key=lambda name: name in AnswerBody.model_fields)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}… ({len(text):,} characters)"

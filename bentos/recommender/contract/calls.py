"""The calls of the service, one row each: what the HTTP side, the OpenAPI description and the limits go by."""

from dataclasses import dataclass
from typing import Literal

from bentos.recommender.contract.answer_schemas import (
    AcceptedEvents,
    AcceptedItems,
    Answer,
    Explanation,
    FoundItems,
    Reloaded,
)
from bentos.recommender.contract.requests import (
    Body,
    DeleteItemBody,
    EventsBody,
    ExplainBody,
    ItemsBody,
    RecommendBody,
    ReloadBody,
    SearchBody,
    SimilarBody,
)
from pipelines.stores.api_keys import KeyScope

LaneName = Literal["answers", "writes", "admin"]
_KIB = 2**10


@dataclass(frozen=True)
class Call:
    """One call: a method of `Answers` that takes a parsed body and returns what goes out as JSON."""

    name: str
    """Name of the method of `Answers`, and of the call in metrics."""
    body: type[Body]
    answer: type[Answer]
    """What goes out, for the description; answers are not checked against it while serving."""
    method: Literal["POST", "PUT", "DELETE"] = "POST"
    path: str = ""
    """Empty for `/NAME`; what follows the `/` of a path that ends with `/{FIELD}` is that field of the body."""
    status: int = 200
    scope: KeyScope = "serve"
    """What a key has to allow."""
    lane: LaneName = "answers"
    """Whose budget it uses; `writes` always run in threads of their own, as they wait for the disk."""
    max_body_bytes: int = 64 * _KIB
    statuses: tuple[int, ...] = ()
    """What else it may answer, beside what every call may."""

    @property
    def route(self) -> str:
        """The path."""
        return self.path or f"/{self.name}"

    @property
    def path_field(self) -> str | None:
        """Field of the body that comes from the path."""
        return self.route.rpartition("/{")[2].removesuffix("}") if self.route.endswith("}") else None


CALLS = (
    Call("search", SearchBody, FoundItems),
    Call("recommend", RecommendBody, FoundItems, statuses=(404,)),
    Call("similar", SimilarBody, FoundItems, statuses=(404,)),
    Call("explain", ExplainBody, Explanation, statuses=(404,)),
    Call(
        "events",
        EventsBody,
        AcceptedEvents,
        status=202,
        scope="write",
        lane="writes",
        max_body_bytes=2 * _KIB * _KIB,
    ),
    Call(
        "put_items",
        ItemsBody,
        AcceptedItems,
        method="PUT",
        path="/items",
        status=202,
        scope="write",
        lane="writes",
        max_body_bytes=2 * _KIB * _KIB,
    ),
    Call(
        "delete_item",
        DeleteItemBody,
        AcceptedItems,
        method="DELETE",
        path="/items/{item_id}",
        status=202,
        scope="write",
        lane="writes",
    ),
    Call("reload", ReloadBody, Reloaded, path="/admin/reload", scope="admin", lane="admin", statuses=(409,)),
)

"""What the serving bench asks: known users at random, some of them for the first time after an event, and queries."""

import calendar
import random
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import orjson

from pipelines.benchmarks.http_load import Answer, closed_loop, described, http_request
from pipelines.benchmarks.index_recall import History
from pipelines.errors import StoreError

if TYPE_CHECKING:
    from pipelines.inference.bundle import Bundle

USERS = 1_000
HISTORY = 50
"""Events of each user."""
FIRST_VISITS = 0.1
"""Share of the requests that are the first of their user after an event of theirs."""
CACHED_QUERIES = 200
_BASKET = 5
_BASKET_DAYS = 3
_CALL_EVENTS = 500
_VISITED_SHARE = 0.2
"""Share of the users, at least, whose last event was followed by a visit."""
_SEED = 13
_TRIES, _TRY_AGAIN_S = 3, 0.5
_TIME = "%Y-%m-%dT%H:%M:%SZ"


class Traffic:
    """Users with histories, and requests about them."""

    def __init__(self, bundle: "Bundle", port: int, *, users: int = USERS, seed: int = _SEED) -> None:
        """Take the catalogue; `make_users` brings the users into the service."""
        self.port = port
        self._bundle = bundle
        self._chooser = random.Random(seed)  # noqa: S311 - a benchmark's input
        self._popularity = _cumulative(bundle.popularity.tolist())
        self._queries = _distinct_queries(bundle.titles, self._chooser)
        self.cached = [next(self._queries) for _ in range(CACHED_QUERIES)]
        self.users = [f"bench-{number}" for number in range(users)]
        self._least_visited = max(1, round(_VISITED_SHARE * users))
        self._fresh: list[str] = []
        self._visited: list[str] = []
        self._acting = ""
        self.visits = self.first_visits = 0

    def make_users(self) -> None:
        """Give every user a history of baskets, popular items more often; then look whether the service knows them.

        Raises:
            StoreError: an event was refused, or a user is answered as a stranger.
        """
        now = time.time()
        self._post_events([event for user in self.users for event in self._history(user, now)])
        for user in self.users:
            self._require_known(user)
        for query in self.cached:
            ask(self.port, "search", {"query": query})
        self._visited = list(self.users)

    def _require_known(self, user: str) -> None:
        """Ask for a user until the answer is theirs: on a busy machine one may come from what is in memory alone."""
        for tries_left in reversed(range(_TRIES)):
            try:
                require_personal(ask(self.port, "recommend", {"user_id": user}))
                return
            except StoreError:
                if not tries_left:
                    raise
                time.sleep(_TRY_AGAIN_S)

    def renew(self, count: int) -> None:
        """Have so many users, at most, wait for a first visit after an event; what is missing of them has one now."""
        self._chooser.shuffle(self._visited)
        missing = max(0, min(count - len(self._fresh), len(self._visited) - self._least_visited))
        users, self._visited = self._visited[:missing], self._visited[missing:]
        self._post_events([self.event(user) for user in users])
        self._fresh += users

    def visit_known(self, *, rounds: int = 1, clients: int = 1) -> None:
        """Ask for everybody, as a service has that ran for a while; nobody waits for a first visit then.

        Args:
            rounds: How often; where there are several workers, each should have met each user.
            clients: Connections.
        """
        self._visited, self._fresh = [*self._visited, *self._fresh], []
        for _ in range(rounds):
            self._chooser.shuffle(self._visited)
            requests = [http_request("recommend", {"user_id": user}) for user in self._visited]
            closed_loop(self.port, each_of(requests), lambda _: None, clients=clients)

    @property
    def new_queries(self) -> Iterator[str]:
        """Queries that nobody asked before."""
        return self._queries

    def user(self) -> str:
        """Return the user who asks next."""
        is_first = bool(self._fresh) and self._chooser.random() < FIRST_VISITS
        self.visits += 1
        self.first_visits += is_first
        if not is_first:
            return self._visited[self._chooser.randrange(len(self._visited))]
        user = self._fresh.pop()
        self._visited.append(user)
        return user

    def recommend(self, _: int) -> bytes:
        """A recommendation for a known user."""
        return http_request("recommend", {"user_id": self.user()})

    def event_then_recommend(self, index: int) -> bytes:
        """An event of a known user, and then, at odd places, a recommendation for them."""
        if index % 2 == 0:
            self._acting = self._visited[self._chooser.randrange(len(self._visited))]
            return http_request("events", {"events": [self.event(self._acting)]})
        return http_request("recommend", {"user_id": self._acting})

    def search_cached(self, _: int) -> bytes:
        """A personalized search for a query that was asked before."""
        return http_request("search", {"query": self._chooser.choice(self.cached), "user_id": self.user()})

    def search_new(self, _: int) -> bytes:
        """A personalized search for a query that nobody asked before."""
        return http_request("search", {"query": next(self._queries), "user_id": self.user()})

    def one_event(self, _: int) -> bytes:
        """One event of a known user."""
        return http_request("events", {"events": [self.event(self._chooser.choice(self.users))]})

    def event(self, user: str) -> dict[str, Any]:
        """Return an event of a user that happens now."""
        return {"user_id": user, "event_type": "view", "item_id": self.item()}

    def history_of(self, user: str, now: float) -> History:
        """Return such a history as the online store has it."""
        events = list(self._history(user, now))[::-1]
        times = [calendar.timegm(time.strptime(event["event_timestamp"], _TIME)) for event in events]
        return History([event["item_id"] for event in events], [event["event_type"] for event in events], times)

    def _history(self, user: str, now: float) -> Iterator[dict[str, Any]]:
        for number in range(HISTORY):
            basket = 1 + number // _BASKET
            at = time.strftime(_TIME, time.gmtime(now - basket * _BASKET_DAYS * 86_400))
            yield {"user_id": user, "event_type": "purchase", "item_id": self.item(), "event_timestamp": at}

    def item(self) -> str:
        """Return the id of an item, popular ones more often."""
        return self._chooser.choices(self._bundle.item_ids, cum_weights=self._popularity)[0]

    def _post_events(self, events: Sequence[dict[str, Any]]) -> None:
        for start in range(0, len(events), _CALL_EVENTS):
            ask(self.port, "events", {"events": events[start : start + _CALL_EVENTS]})


def for_seconds(seconds: float, make: Callable[[int], bytes | None]) -> Callable[[int], bytes | None]:
    """Return a source of requests that ends after so long."""
    until = time.perf_counter() + seconds
    return lambda index: make(index) if time.perf_counter() < until else None


def each_of(requests: Sequence[bytes]) -> Callable[[int], bytes | None]:
    """Return a source of requests that were made beforehand."""
    return lambda index: requests[index] if index < len(requests) else None


def ask(port: int, call: str, body: Any, *, method: str = "POST") -> dict[str, Any]:
    """Send one request and return its answer.

    Raises:
        StoreError: the answer is not 2xx.
    """
    found: list[Answer] = []
    closed_loop(port, each_of([http_request(call, body, method=method)]), found.append, clients=1, timeout_s=30)
    if not found[0].is_ok:
        raise StoreError(f"/{call} answered {described(found[0])}")
    answer: dict[str, Any] = orjson.loads(found[0].body)
    return answer


def require_personal(answer: dict[str, Any]) -> None:
    """Look into an answer that is timed: it must be of the kind that the bench says it times.

    Raises:
        StoreError: it is degraded, empty, or the same for everybody.
    """
    if answer["degraded"] or not answer["items"] or not answer["personalized"]:
        raise StoreError(f"A known user is answered as a stranger: {orjson.dumps(answer).decode()[:300]}")


def _cumulative(popularity: Sequence[float]) -> list[float]:
    """Return running sums of popularity + 1, so that every item may be drawn."""
    total, sums = 0.0, []
    for value in popularity:
        total += value + 1
        sums.append(total)
    return sums


def _distinct_queries(titles: Sequence[str], chooser: random.Random) -> Iterator[str]:
    """Yield queries, all different: up to three words of a title and one of another, in any order."""
    seen: set[str] = set()
    while True:
        words = [word.strip(",.") for word in chooser.choice(titles).split()]
        other = chooser.choice(chooser.choice(titles).split() or ["new"])
        words = [*chooser.sample(words, min(3, len(words))), other]
        chooser.shuffle(words)
        query = " ".join(words)
        if query in seen or not query.strip():
            query = f"{query} {len(seen)}".strip()
        seen.add(query)
        yield query

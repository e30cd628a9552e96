"""`headrace demo`: a loop if there is no champion yet, the service, and three requests that show what it does."""

import json
import os
import shlex
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.airflow_home import stop_groups
from pipelines.errors import ConfigError, StoreError
from pipelines.inference.manifest import is_of_another_version
from pipelines.loop import live_bundle, run_loop
from pipelines.places import HOME_VARIABLE, Places
from pipelines.ports import refuse_taken_port
from pipelines.wiring import QUIET

if TYPE_CHECKING:
    from rich.console import Console

READY_TIMEOUT_S = 120.0
REQUEST_TIMEOUT_S = 10.0
_RAW_IDS = range(1, 100_000)
"""Raw user ids that are tried: the default data numbers its households from 1."""
_CARTED = 3
"""Items that the demo puts into the cart."""


def run_demo(
    places: Places,
    *,
    port: int,
    exit_after: bool,
    user: str | None,
    query: str | None,
    console: "Console",
    environment: Mapping[str, str] = os.environ,
) -> None:
    """Loop if needed, serve, run three requests, print them with their answers; then serve until Ctrl-C.

    Args:
        exit_after: Stop after the requests.
        user: Raw user id to recommend for; by default somebody with a history.
        query: What to search for; by default a category that users buy often.

    Raises:
        ConfigError: the port is taken, or no known user was found and none was named.
        StoreError: a step of the loop failed, the service did not start, or a request failed.
    """
    refuse_taken_port(port, "headrace demo --port")
    live = live_bundle(places)
    if live is not None and is_of_another_version(places.bundles / live):
        console.print(f"Another version of Headrace wrote the live bundle {live}: its successor is trained.")
        live = None
    if live is None:
        run_loop(places, parameters={}, console=console, environment=environment)
        live = live_bundle(places)
        if live is None:
            raise StoreError(
                "The loop ended without a champion: the gate said no (the reasons are above). "
                "`headrace loop --force` promotes the challenger all the same."
            )
    else:
        console.print(f"Bundle {live} is live already: no training (`headrace loop` refreshes it).")
    asked_user, asked_query = user or known_user(places), query or known_query(places)
    with service(places, port=port, environment=environment) as process:
        console.print(f"Serving bundle {live} on http://127.0.0.1:{port}")
        try_requests(f"http://127.0.0.1:{port}", user=asked_user, query=asked_query, console=console)
        if exit_after:
            return
        console.print(
            "Serving until Ctrl-C. In other terminals: `make airflow` (the DAGs), `make mlflow` (runs and pictures).",
            soft_wrap=True,
        )
        code = process.wait()
        raise StoreError(f"The service ended with exit code {code}: the last lines of {_log(places)} say why.")


def try_requests(base: str, *, user: str, query: str, console: "Console") -> None:
    """Search, recommend, send events and recommend again; print each as a `curl` line with its answer.

    Raises:
        StoreError: a request failed.
    """
    _show(console, "1. A search", base, "/search", {"query": query, "k": 5})
    before = _show(console, "2. A recommendation", base, "/recommend", {"user_id": user, "k": 5})
    shown = {item["item_id"] for item in before["items"]}
    found = _post(base, "/search", {"query": query, "k": 20})["items"]
    carted = [item["item_id"] for item in found if item["item_id"] not in shown][:_CARTED]
    # What was just bought is not offered again, so the next answer differs even where taste outweighs the cart.
    bought = [item["item_id"] for item in before["items"][:1]]
    events = [{"user_id": user, "event_type": "purchase", "item_id": item} for item in bought]
    events += [{"user_id": user, "event_type": "cart", "item_id": item} for item in carted]
    title = f"3. They buy the first of these and put {len(carted)} of the items found into the cart"
    _show(console, title, base, "/events", {"events": events})
    after = _show(console, "   and the recommendation changes", base, "/recommend", {"user_id": user, "k": 5})
    left_out = [item for item in bought if item not in {item["item_id"] for item in after["items"]}]
    new = [item for item in after["items"] if item["item_id"] not in shown]
    if [item["item_id"] for item in after["items"]] == [item["item_id"] for item in before["items"]]:
        console.print("   The recommendation stayed the same.\n")
    else:
        console.print(
            f"   {len(new)} of {len(after['items'])} items are new; {len(left_out)} just bought is left out.\n"
        )


def curl_line(url: str, body: Mapping[str, Any]) -> str:
    """Return the request as a line for a shell; the key, where one is needed, stays in its variable."""
    key = ' -H "X-API-Key: $HEADRACE_API_KEY"' if os.environ.get("HEADRACE_API_KEY") else ""
    return f"curl -s {url}{key} -H 'Content-Type: application/json' -d {shlex.quote(json.dumps(body))}"


def known_user(places: Places) -> str:
    """Return the raw id of a user with a long history, found by trying ids: the tables hold pseudonyms only.

    Raises:
        ConfigError: none of the ids tried is in the tables.
    """
    from pipelines.pseudonyms import Pseudonymizer, load_pseudonym_key

    with _tables(places) as connection:
        rows = connection.execute(
            "SELECT user_id FROM events WHERE item_id IS NOT NULL GROUP BY user_id ORDER BY count(*) DESC LIMIT 500"
        ).fetchall()
    wanted = {pseudonym for (pseudonym,) in rows}
    pseudonymizer = Pseudonymizer(load_pseudonym_key(places.pseudonym_key, create=False))
    for raw in map(str, _RAW_IDS):
        if pseudonymizer.pseudonym(raw) in wanted:
            return raw
    raise ConfigError("No user with a history was found by number: name one, `headrace demo --user ID`.")


def known_query(places: Places) -> str:
    """Return the category that most users have bought from of those with at least 50 items, as a search text."""
    with _tables(places) as connection:
        row = connection.execute(
            """
            SELECT lower(category) FROM items JOIN events USING (item_id) WHERE category IS NOT NULL
            GROUP BY category HAVING count(DISTINCT item_id) >= 50
            ORDER BY count(DISTINCT user_id) DESC, category LIMIT 1
            """
        ).fetchone()
        if row is None:
            row = connection.execute("SELECT title FROM items ORDER BY item_id LIMIT 1").fetchone()
    return str(row[0]) if row else "something good"


@contextmanager
def _tables(places: Places) -> Iterator[Any]:
    from pipelines.stores.table_store import TableStore

    store = TableStore(places.tables, quarantine=places.quarantine, ingested=places.ingested)
    connection = store.connect()
    try:
        yield connection
    finally:
        connection.close()


@contextmanager
def service(
    places: Places, *, port: int, environment: Mapping[str, str] = os.environ
) -> Iterator["subprocess.Popen[bytes]"]:
    """Run `headrace serve` beside this process, ready to answer; it ends with the block.

    Raises:
        StoreError: it ended, or was not ready within two minutes.
    """
    log_file = _log(places)
    log_file.parent.mkdir(parents=True, exist_ok=True)
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            [str(Path(sys.executable).parent / "headrace"), "serve", "--port", str(port)],
            env={**environment, **QUIET, HOME_VARIABLE: str(places.home)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _await_ready(f"http://127.0.0.1:{port}/readyz", process, log_file)
        yield process
    finally:
        stop_groups([process])


def _await_ready(url: str, process: "subprocess.Popen[bytes]", log_file: Path) -> None:
    deadline = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            last = _last_line(log_file)
            raise StoreError(f"The service ended with exit code {process.returncode}: {last} (log: {log_file})")
        try:
            with urllib.request.urlopen(url, timeout=2) as answer:  # noqa: S310 - our own address
                if answer.status == 200:
                    return
        except OSError:
            pass
        time.sleep(0.25)
    raise StoreError(f"The service was not ready within {READY_TIMEOUT_S:.0f} s: the last lines of {log_file} say why.")


def _last_line(path: Path) -> str:
    lines = [line.strip() for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "it printed nothing"


def _log(places: Places) -> Path:
    return places.home / "serving" / "service.log"


def _post(base: str, call: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """Send one request and return its answer.

    Raises:
        StoreError: the service did not answer, or refused the request.
    """
    headers = {"Content-Type": "application/json"}
    if key := os.environ.get("HEADRACE_API_KEY"):
        headers["X-API-Key"] = key
    request = urllib.request.Request(f"{base}{call}", json.dumps(body).encode(), headers)  # noqa: S310 - our own address
    try:
        with urllib.request.urlopen(request, timeout=REQUEST_TIMEOUT_S) as answer:  # noqa: S310
            values: dict[str, Any] = json.load(answer)
            return values
    except urllib.error.HTTPError as error:
        raise StoreError(f"{call} answered {error.code}: {error.read().decode(errors='replace')[:500]}") from None
    except OSError as error:
        raise StoreError(f"{call} did not answer: {error}") from None


def _show(console: "Console", title: str, base: str, call: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """Send a request and print it as a `curl` line with the answer below."""
    began = time.perf_counter()
    answer = _post(base, call, body)
    took_ms = 1_000 * (time.perf_counter() - began)
    console.print(f"\n{title} ({took_ms:.0f} ms)", style="bold", soft_wrap=True)
    # Printed as it is: a person copies it, so no wrapping and no markup.
    console.print(curl_line(base + call, body), soft_wrap=True, markup=False, style="cyan")
    for line in _answer_lines(answer):
        console.print(line, soft_wrap=True, markup=False)
    return answer


def _answer_lines(answer: Mapping[str, Any]) -> Sequence[str]:
    if "items" not in answer:
        return [f"   {json.dumps(answer)}"]
    return [
        f"   {item.get('score', 0):7.3f}  {item['item_id']:>10}  {item.get('title', '')}" for item in answer["items"]
    ]

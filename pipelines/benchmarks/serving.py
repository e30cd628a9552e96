"""How fast the service answers: the deployed bundle, one worker on one core, load from this process on another.

The service runs on a free port in a home of its own (the bundle and a copy of the online store), so that the
benchmark's users and events never reach the real one. For each case:

    one client    closed loop, three rounds: the median latency, and the service's processor time per request from the
                  clocks of its own processes
    capacity      closed loop with many clients: answers a second on the one core
    half of it    open loop, Poisson arrivals: the 99th percentile, counted from when a request was due; beside it what
                  it is for a server that burns as much processor time a request and does nothing else

    recommend known user           1,000 users with 50 events each, at random, a tenth of the requests the first of
                                   their user after an event, which came seconds before
    search cached query            personalized; the query was asked before
    search new query 6-layer int8  personalized; nobody asked the query before, the int8 encoder runs
    search new query small tower   the same with the bundle's query tower, where it has one
    naive                          search with the PyTorch encoder, an exact float product and a full sort, in process

Beside them: one event, and a recommendation right after it. What the service does after an answer, such as preparing
the user for the next one, counts as that answer's processor time. Then a worker's memory that it does not share,
seconds from start to ready, two workers against one, the share of the true nearest 100 items that the index finds, and
what the load generator itself could send.
"""

import gc
import json
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np

from pipelines.benchmarks.http_load import Counting, closed_loop
from pipelines.benchmarks.index_recall import K, asked_vectors, index_recall
from pipelines.benchmarks.process_accounts import memory, on_cores, usable_cores
from pipelines.benchmarks.records import BenchmarkRecord, write_records
from pipelines.benchmarks.service_runs import ServiceRun
from pipelines.benchmarks.serving_bars import (
    NAIVE,
    RECOMMEND,
    SEARCH_CACHED,
    SEARCH_NEW,
    SEARCH_SMALL,
    TWO_RECOMMEND,
    TWO_WORKERS,
    WORKER,
    missed,
    table_with_bars,
)
from pipelines.benchmarks.serving_cases import (
    BENCH,
    CLIENTS,
    EVENT,
    Durations,
    Figures,
    Make,
    measure_case,
    one_client,
    record,
    right_after_an_event,
    saturate,
)
from pipelines.benchmarks.serving_naive import naive_rounds
from pipelines.benchmarks.serving_traffic import FIRST_VISITS, USERS, Traffic, each_of, for_seconds
from pipelines.benchmarks.trivial_server import generator_alone
from pipelines.errors import ConfigError
from pipelines.places import Places
from pipelines.pseudonyms import KEY_VARIABLE

if TYPE_CHECKING:
    from pipelines.inference.bundle import Bundle

GENERATOR = "load generator alone"
_MEETINGS = 8
"""Rounds after which each of two workers has met almost every user."""
_NAIVE_REQUESTS = 20
_RECALL_OF = 100
"""Queries, and as many users."""


def bench_serving(
    *, json_file: Path | None = None, durations: Durations | None = None, users: int = USERS
) -> list[str]:
    """Time the deployed bundle, print a table with the bars and write the records.

    Args:
        json_file: Where the records go; None writes none.
        durations: How long each part is measured.
        users: Known users.

    Returns:
        What misses its bar, one sentence a figure.

    Raises:
        ConfigError: nothing is deployed, or the features were never materialized.
        StoreError: the service did not start, or an answer was not what is to be timed.
    """
    from pipelines.inference.bundle import load_bundle

    durations = durations or Durations()
    cores = usable_cores()
    ours, theirs = ([cores[0]], [cores[-1]]) if len(cores) > 1 else (None, None)
    with deployed_copy() as (places, environment):
        folder = next(places.bundles.iterdir())
        bundle = load_bundle(folder)
        data = f"bundle {bundle.bundle_id}, {bundle.n_items:,} items"
        click.echo(f"{BENCH}: {data}; {_where(cores)}", err=True)
        traffic = Traffic(bundle, 0, users=users)
        gc.collect()
        gc.freeze()  # a collection in the middle of a phase would be a latency of the service's
        records: list[BenchmarkRecord] = []
        with ServiceRun(places, environment, cores=cores, worker_count=2) as two:
            records += _two_workers(two, traffic, durations, data)
        with on_cores(ours), ServiceRun(places, environment, cores=theirs) as one:
            ready_s = one.start()
            traffic.port = one.port
            traffic.visit_known()
            has_tower = (folder / "query_tower").is_dir()
            cases: dict[str, Make] = {
                RECOMMEND: traffic.recommend,
                SEARCH_CACHED: traffic.search_cached,
                (SEARCH_SMALL if has_tower else SEARCH_NEW): traffic.search_new,
            }
            measured = [measure_case(case, one, traffic, make, durations, cores=theirs) for case, make in cases.items()]
            extra = [
                right_after_an_event(one, traffic, durations),
                one_client(EVENT, one, traffic, traffic.one_event, durations),
            ]
            records = [record(data, WORKER, "ready_s", ready_s, "s"), *records]
        if has_tower:
            without_query_tower(folder)
            with on_cores(ours), ServiceRun(places, environment, cores=theirs) as one:
                one.start()
                traffic.port = one.port
                traffic.visit_known()
                measured.append(measure_case(SEARCH_NEW, one, traffic, traffic.search_new, durations, cores=theirs))
        else:
            click.echo(f"{SEARCH_SMALL}: the bundle has no query tower (`headrace compress` makes one)", err=True)
        records += _recall(bundle, traffic, data)
        generator = generator_alone(durations.generator_s, CLIENTS, theirs)
        naive = _naive(bundle, traffic, durations)
    rates = {figures.case: figures.capacity.rate for figures in measured if figures.capacity}
    ones = {TWO_RECOMMEND: rates[RECOMMEND], TWO_WORKERS: rates[SEARCH_SMALL if has_tower else SEARCH_NEW]}
    twos = {one.case: one.value for one in records if one.metric == "rps"}
    records = [
        *(record for figures in (*measured, *naive, *extra) for record in figures.records(data)),
        *records,
        *(record(data, case, "over_one", twos[case] / rate, "times") for case, rate in ones.items()),
        record(data, GENERATOR, "rps", generator.rate, "1/s"),
    ]
    click.echo(table_with_bars(records))
    click.echo(
        f"{users:,} known users, {traffic.first_visits / max(1, traffic.visits):.0%} of their requests the first after "
        f"an event; p99 is at half of the capacity, Poisson arrivals, from when a request was due; {_where(cores)}; "
        "two workers on all cores with the load generator beside them"
    )
    if json_file is not None:
        write_records(records, json_file)
    return missed(records)


def _two_workers(service: ServiceRun, traffic: Traffic, durations: Durations, data: str) -> list[BenchmarkRecord]:
    """Make the users, measure what two workers answer, and what memory each has to itself."""
    service.start()
    traffic.port = service.port
    traffic.make_users()
    traffic.visit_known(rounds=_MEETINGS, clients=CLIENTS)
    found = []
    for case, make in ((TWO_RECOMMEND, traffic.recommend), (TWO_WORKERS, traffic.search_new)):
        alone = Counting()
        closed_loop(service.port, for_seconds(durations.round_s, make), alone, clients=1)
        count = int(durations.capacity_s * 2e3 / alone.tally(durations.round_s).percentile_ms(50))
        traffic.renew(int(FIRST_VISITS * count))  # before requests are made, which name those who wait for a visit
        made = each_of([make(index) for index in range(count)])  # to make them takes the cores that the workers need
        saturated = saturate(service, traffic, made, durations.capacity_s, expected=0)
        found += [*saturated.costs(data, case), record(data, case, "rps", saturated.tally.rate, "1/s")]
    used = [memory(worker) for worker in service.workers]
    return [
        *found,
        record(data, WORKER, "memory_uss_mib", max(one.uss for one in used), "MiB"),
        record(data, WORKER, "memory_pss_mib", max(one.pss for one in used), "MiB"),
    ]


def _recall(bundle: "Bundle", traffic: Traffic, data: str) -> list[BenchmarkRecord]:
    """Compare the index that the service uses with a product with every vector."""
    from pipelines.stores.vector_index_files import indexed

    now = time.time()
    queries = [next(traffic.new_queries) for _ in range(_RECALL_OF)]
    users = [traffic.history_of(user, now) for user in traffic.users[:_RECALL_OF]]
    index, vectors = indexed(bundle).vector_index, np.asarray(bundle.item_vectors)
    found = {
        kind: index_recall(index, vectors, asked) for kind, asked in asked_vectors(bundle, queries, users, now).items()
    }
    cases = {"index": np.concatenate([*found.values()])} | {f"index, {kind}": shares for kind, shares in found.items()}
    return [record(data, case, f"recall@{K}", float(shares.mean()), "share") for case, shares in cases.items()]


def _naive(bundle: "Bundle", traffic: Traffic, durations: Durations) -> list[Figures]:
    found = naive_rounds(bundle, traffic.new_queries, rounds=durations.rounds, requests=_NAIVE_REQUESTS)
    if not found:
        return []
    return [Figures(NAIVE, [float(np.median(latencies)) for latencies, _ in found], [cpu for _, cpu in found])]


@contextmanager
def deployed_copy() -> Iterator[tuple[Places, dict[str, str]]]:
    """Give a home of its own with the deployed bundle and the online store as it is, and the environment for it.

    Raises:
        ConfigError: nothing is deployed, or the features were never materialized.
    """
    from pipelines.stores.serving_pointer import read_pointer, write_pointer

    places = Places.from_environment()
    pointer = read_pointer(places.current_bundle)
    if pointer is None:
        raise ConfigError(f"Nothing was deployed in {places.home}: run `headrace loop` first.")
    if not (places.feast / "registry.db").is_file():
        raise ConfigError(f"There is no online store in {places.feast}: run `headrace materialize_features` first.")
    with tempfile.TemporaryDirectory(prefix="headrace-bench-") as name:
        copy = Places(Path(name))
        shutil.copytree(places.feast, copy.feast)
        folder = copy.bundles / pointer.bundle
        shutil.copytree(pointer.folder, folder)
        write_pointer(
            copy.current_bundle, pointer.model_copy(update={"folder": folder, "previous": None, "before": ()})
        )
        environment = {**os.environ, KEY_VARIABLE: secrets.token_hex(32)}
        environment.pop("HEADRACE_API_KEY", None)
        environment.pop("HEADRACE_BUNDLE", None)
        yield copy, environment


def without_query_tower(folder: Path) -> None:
    """Take the query tower out of a bundle: its 6-layer encoder reads the queries from then on."""
    shutil.rmtree(folder / "query_tower")
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    manifest["files"] = {
        name: entry for name, entry in manifest["files"].items() if not name.startswith("query_tower/")
    }
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")


def _where(cores: Sequence[int]) -> str:
    if len(cores) > 1:
        return f"one worker on core {cores[-1]}, the load generator on core {cores[0]}"
    return "one core for the worker and the load generator: nothing is pinned"

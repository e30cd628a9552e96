"""A bundle answers before it goes live: in this process, and in one of its own."""

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest

from bentos.recommender.rehearsal import rehearse
from pipelines.config import ServingConfig
from pipelines.errors import BundleError, StoreError
from pipelines.inference.manifest import read_manifest
from pipelines.steps.deploy_bundle import rehearse_beside
from pipelines.stores.served_requests import KnownUser, ServedRequest
from tests.toys.event_tables import day
from tests.toys.toy_bundle import ITEMS, write_toy_bundle

PROJECT = Path(__file__).resolve().parents[2]
ANN = KnownUser(item_ids=["c"], event_types=["view"], event_times=[7], activity={})


def asked(call: str, body: dict, user: KnownUser | None = None, answered: int = 1) -> ServedRequest:
    return ServedRequest(requested_at=day(1), call=call, body=body, user=user, answered=answered)


REQUESTS = [
    asked("search", {"query": "red apple", "k": 2}),
    asked("search", {"query": "milk"}, ANN),
    asked("recommend", {"k": 3}, ANN),
    asked("similar", {"item_id": "a", "kind": "goes_with"}),
    asked("search", {"query": "bread", "filters": {"categories": ["none"]}}, answered=0),
]


def test_it_answers_derived_and_kept_requests(tmp_path):
    write_toy_bundle(tmp_path / "b1")
    told: list[str] = []
    gone = asked("similar", {"item_id": "sold out for ever"})
    found = rehearse(tmp_path / "b1", [*REQUESTS, gone], serving=ServingConfig(), tell=told.append)
    assert list(found.checked) == [
        "files",
        "search 'rye bread'",
        "recommend to a stranger",
        "recommend after d",
        "similar to d",
    ]
    n_files = len(read_manifest(tmp_path / "b1").files)
    assert n_files > 10
    assert found.checked["files"] == f"{n_files} files have the SHA-256 of the manifest"
    assert found.checked["search 'rye bread'"] == "5 items"
    assert (found.replayed, found.left_out) == (5, 1)
    assert 0 < found.median_ms <= found.p95_ms
    assert told[0] == "the bundle b1 is open"
    assert told[-1] == "6 of 6 kept requests were asked"


def test_a_bundle_that_answers_nothing_is_refused(tmp_path):
    sold_out = ITEMS.set_column(ITEMS.column_names.index("available"), "available", [np.array([False] * 6)])
    write_toy_bundle(tmp_path / "b1", items=sold_out)
    with pytest.raises(BundleError, match=r"search 'red apple' with 0 items.*The live bundle stays"):
        rehearse(tmp_path / "b1", [], serving=ServingConfig())


def test_nothing_found_where_the_live_bundle_found_something_is_refused(tmp_path):
    write_toy_bundle(tmp_path / "b1")
    lost = asked("search", {"query": "bread", "filters": {"categories": ["none"]}}, answered=4)
    with pytest.raises(BundleError, match=r"finds nothing for a kept request to /search .*the live one found 4 items"):
        rehearse(tmp_path / "b1", [lost], serving=ServingConfig())


def test_a_changed_file_is_refused(tmp_path):
    write_toy_bundle(tmp_path / "b1")
    (tmp_path / "b1" / "metrics.json").write_text("{}")
    with pytest.raises(BundleError, match=r"metrics\.json .* was changed"):
        rehearse(tmp_path / "b1", [], serving=ServingConfig())


# In a process of its own


def beside(folder: Path, requests: Path, timeout_s: float = 60.0, **environment: str):
    return rehearse_beside(
        folder,
        requests=requests,
        limit=10,
        timeout_s=timeout_s,
        project_dir=PROJECT,
        environment={**os.environ, **environment},
    )


@pytest.mark.slow
def test_the_process_reads_the_kept_requests_and_reports(tmp_path):
    write_toy_bundle(tmp_path / "b1")
    folder = tmp_path / "requests" / "2026-01-02"
    folder.mkdir(parents=True)
    lines = [json.dumps(request.model_dump(mode="json")) for request in REQUESTS]
    (folder / "service.jsonl").write_text("\n".join(lines) + "\n")
    assert beside(tmp_path / "b1", tmp_path / "requests").replayed == len(REQUESTS)


@pytest.mark.slow
def test_the_process_says_why_it_refuses(tmp_path):
    write_toy_bundle(tmp_path / "b1")
    (tmp_path / "b1" / "encoder.onnx").write_bytes(b"no model")
    with pytest.raises(BundleError, match=r"encoder\.onnx .* was changed"):
        beside(tmp_path / "b1", tmp_path / "requests")


@pytest.mark.slow
def test_a_bundle_that_hangs_is_given_up_with_what_it_had_done(tmp_path):
    write_toy_bundle(tmp_path / "b1")
    requests = tmp_path / "requests" / "2026-01-02"
    requests.mkdir(parents=True)
    os.mkfifo(requests / "service.jsonl")  # a read that never ends
    began = time.monotonic()
    with pytest.raises(BundleError, match=r"did not finish its rehearsal within 8 s \(nothing was done\)"):
        beside(tmp_path / "b1", tmp_path / "requests", timeout_s=8)
    assert time.monotonic() - began < 30


@pytest.mark.slow
def test_a_setting_that_is_wrong_is_said(tmp_path):
    write_toy_bundle(tmp_path / "b1")
    with pytest.raises(BundleError, match=r"HEADRACE_CONFIG=nowhere: no such file"):
        beside(tmp_path / "b1", tmp_path / "requests", HEADRACE_CONFIG="nowhere")


@pytest.mark.slow
def test_a_process_that_ends_without_an_answer_is_worth_a_retry(tmp_path):
    broken = tmp_path / "bentos" / "recommender" / "rehearsal.py"  # a checkout in which something is missing
    broken.parent.mkdir(parents=True)
    for package in broken.parents[:2]:
        (package / "__init__.py").touch()
    broken.write_text("import bentos.nothing")
    with pytest.raises(StoreError, match=r"ended with exit code 1: .*bentos.*run `headrace deploy_bundle` again"):
        rehearse_beside(tmp_path / "b1", requests=tmp_path, limit=1, timeout_s=60, project_dir=tmp_path, environment={})

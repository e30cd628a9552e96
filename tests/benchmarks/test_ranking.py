"""The ranking benchmark on a made-up shop."""

import json

import numpy as np
import pytest

from pipelines.benchmarks.ranking import bench_ranking, questions, recall
from pipelines.benchmarks.synthetic_shop import make_shop, write_shop_bundle
from pipelines.errors import ConfigError
from pipelines.inference.bundle import load_bundle


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shop") / "b1"
    write_shop_bundle(make_shop(items=400, users=1, words=60, seed=1), folder, dim=16, seed=1)
    return folder


def test_every_case_is_timed_and_the_index_compared_with_all_items(folder, tmp_path, capsys):
    bench_ranking(json_file=tmp_path / "ranking.json", bundle_folder=folder, calls=10, fast_scan_from=1)
    records = json.loads((tmp_path / "ranking.json").read_text())
    found = {(record["case"], record["metric"]): record["value"] for record in records}
    for call in ("recommend", "search", "similar"):
        assert found[f"{call} from scratch", "cpu_ms"] > 0
        assert found[f"{call} again", "cpu_ms"] < found[f"{call} first", "cpu_ms"]
    for who in ("users", "queries", "items"):
        assert found[f"index, {who}", "recall@100"] == 1.0  # few items are all scored
    assert found["search", "first 10 of the full ranking"] == 1.0
    assert found["index", "kept_mib"] > 0
    assert "recommend again" in capsys.readouterr().out
    assert not list(folder.parent.glob(".vector_indexes"))  # the bundle's own index is left alone


def test_recall_counts_items_as_near_as_the_last_one(folder):
    bundle = load_bundle(folder)
    vector = bundle.item_vectors[0]

    class Wrong:
        def nearest(self, vector, k, allowed=None, *, asker="query"):
            rows = np.argsort(-bundle.item_vectors.scores(vector[None])[0], kind="stable")
            return np.append(rows[: k - 2], rows[-2:]), None

    assert recall(bundle.vector_index, bundle, vector, k=20) == 1.0
    assert recall(Wrong(), bundle, vector, k=20) == 0.9


def test_the_same_bundle_is_asked_the_same(folder):
    bundle = load_bundle(folder)
    first, again = questions(bundle, 5), questions(bundle, 5)
    assert first.users == again.users
    assert first.queries == again.queries
    assert all(50 <= len(user.item_ids) <= 200 for user in first.users)
    assert all(user.event_times == sorted(user.event_times) for user in first.users)


def test_without_a_bundle_it_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("HEADRACE_HOME", str(tmp_path))
    with pytest.raises(ConfigError, match="run `headrace loop` first, or name a bundle with --bundle"):
        bench_ranking()

"""`bench recommend` on folders that can be worked out by hand."""

import json
import math

import numpy as np
import pytest

from pipelines.benchmarks.case_store import CaseStore
from pipelines.benchmarks.folder import read_recommend_folder
from pipelines.benchmarks.protocols import recommend_task
from pipelines.benchmarks.recommend import bench_recommend
from pipelines.benchmarks.recommend_baselines import RecommendBaselines, newest, sampled_rows
from pipelines.benchmarks.runs import BenchOptions
from pipelines.progress import SilentProgress
from tests.toys.bench_folders import write_interactions, write_items

BASELINES = "popularity", "item_knn", "directed_cooccurrence", "tfidf"
# Known before the test: b three times, a twice, c once.
EVENTS = [
    *[("ann", item, place) for place, item in enumerate("abc")],
    *[("bob", item, place) for place, item in enumerate("abd")],
    *[("cid", item, place) for place, item in enumerate("bca")],
]


@pytest.fixture
def shop(tmp_path):
    write_items(tmp_path / "shop")
    return write_interactions(tmp_path / "shop", EVENTS)


@pytest.fixture
def bench(tmp_path, tiny_encoder_folder):
    def run(folder, cases=BASELINES, **options):
        chosen = BenchOptions(
            work=tmp_path / "work", cache=tmp_path / "cache", cases=cases, encoder=str(tiny_encoder_folder),
            **{"samples": 100, **options},
        )  # fmt: skip
        return bench_recommend(str(folder), chosen, SilentProgress())

    return run


def value(records, case, metric):
    [found] = [record for record in records if (record.case, record.metric) == (case, metric)]
    return found.value


@pytest.mark.slow
def test_popularity_worked_out_by_hand(bench, shop, capsys):
    records = bench(shop)
    # ann wants c, which is first of c (1), d, e; bob wants d, behind c; cid wants a, first of a (2), d, e
    assert value(records, "popularity", "mrr") == pytest.approx((1 + 1 / 2 + 1) / 3)
    assert value(records, "popularity", "ndcg@10") == pytest.approx((1 + 1 / math.log2(3) + 1) / 3)
    # every item has five events or fewer; b and a make five of six events, so c, d and e are the tail
    assert value(records, "popularity", "cold items.recall@10") == 1
    assert value(records, "popularity", "tail items.ndcg@10") == pytest.approx((1 + 1 / math.log2(3)) / 2)
    assert value(records, "popularity", "coverage") == 4 / 5  # c d e twice, a d e
    said = capsys.readouterr().out
    assert "SHA-1 of the split" in said
    assert "the item that comes first in the catalogue wins" in said
    assert "The whole basket" not in said  # nobody takes anything again
    assert "QUICK" not in said


@pytest.mark.slow
def test_records_and_picture_are_written(bench, shop, tmp_path):
    bench(shop, json_file=tmp_path / "out" / "shop.json")
    records = json.loads((tmp_path / "out" / "shop.json").read_text())
    assert {record["bench"] for record in records} == {"recommend"}
    assert {record["data"] for record in records} == {"shop"}
    assert {record["case"] for record in records} == set(BASELINES)
    assert {"low", "high", "unit", "seeds"} <= set(records[0])
    assert (tmp_path / "out" / "shop.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_quick_run_says_so_everywhere(bench, shop, capsys):
    records = bench(shop, cases=("popularity",), quick=True)
    assert {record.data for record in records} == {"shop, quick"}
    assert "QUICK: a sample" in capsys.readouterr().out


@pytest.mark.slow
def test_baskets_with_repeats_have_a_table_of_their_own(bench, tmp_path, capsys):
    write_items(tmp_path / "baskets")
    events = [
        (user, item, 100 * time) for time in range(10) for user in ("ann", "bob") for item in "abcde"[time % 4 :][:2]
    ]
    folder = write_interactions(tmp_path / "baskets", events, with_pos=False)
    records = bench(folder, cases=("popularity", "own_history"))
    assert value(records, "own_history", "next_basket.recall@10") == 1
    assert "The whole basket" in capsys.readouterr().out


@pytest.mark.slow
def test_where_nobody_takes_anything_new_the_whole_basket_is_left(bench, tmp_path, capsys):
    write_items(tmp_path / "again")
    events = [(user, "abcde"[time % 5], 100 * time) for time in range(20) for user in ("ann", "bob")]
    folder = write_interactions(tmp_path / "again", events, with_pos=False)
    records = bench(folder, cases=("popularity", "own_history"), json_file=tmp_path / "again.json")
    assert (tmp_path / "again.png").exists()
    assert {"next_basket.recall@10", "coverage"} <= {record.metric for record in records}
    assert not {"recall@10", "ndcg@10", "short histories.ndcg@10"} & {record.metric for record in records}
    said = capsys.readouterr().out
    assert "The whole basket" in said
    assert "Items new to the user" not in said


@pytest.mark.slow
def test_other_titles_are_measured_again(bench, shop):
    before = value(bench(shop, cases=("tfidf",)), "tfidf", "mrr")
    assert value(bench(shop, cases=("tfidf",)), "tfidf", "mrr") == before
    write_items(shop, title=["red tea", "red tea", "cup", "green tea", "red tea"])
    assert value(bench(shop, cases=("tfidf",)), "tfidf", "mrr") != before


def test_choices_are_made_without_the_test(shop, tmp_path):
    """The same folder with other last items chooses the same weights."""
    chosen = []
    for name, events in (
        ("one", EVENTS),
        ("two", [(user, "e" if place == 2 else item, place) for user, item, place in EVENTS]),
    ):
        write_items(tmp_path / name)
        task = recommend_task(read_recommend_folder(write_interactions(tmp_path / name, events)))
        store = CaseStore(tmp_path / "work" / name)
        baselines = RecommendBaselines(task, lambda: np.eye(5, dtype=np.float32), store, SilentProgress())
        chosen.append([baselines.describe(case) for case in baselines.names])
    assert chosen[0] == chosen[1]
    assert chosen[0][-1].startswith("hybrid_untrained = 1 · item_knn + ")


def test_what_was_chosen_is_kept(shop, tmp_path):
    task = recommend_task(read_recommend_folder(shop))
    store = CaseStore(tmp_path / "work")
    store.write_note("baseline-choices", {"hybrid_knn_tfidf": {"item_knn": 1.0, "tfidf": 0.7}})
    baselines = RecommendBaselines(task, lambda: np.eye(5, dtype=np.float32), store, SilentProgress())
    assert baselines.describe("hybrid_knn_tfidf") == "hybrid_knn_tfidf = 1 · item_knn + 0.7 · tfidf"


def test_a_sample_is_spread_over_all_rows(shop):
    rows = recommend_task(read_recommend_folder(shop)).test
    assert sampled_rows(rows, 2).users.tolist() == [0, 2]
    assert sampled_rows(rows, 3) is rows


def test_the_newest_days_count_from_the_newest_event(tmp_path):
    write_items(tmp_path)
    events = [("u", item, day * 86_400) for day, item in enumerate("abcde")]
    known = recommend_task(read_recommend_folder(write_interactions(tmp_path, events))).known_before_test
    assert newest(known, 2).items.tolist() == [2, 3]
    assert newest(known, None) is known

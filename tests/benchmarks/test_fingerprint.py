"""What results are kept by: the same data the same digits, any other data others."""

from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.benchmarks.fingerprint import recommend_fingerprint, search_fingerprint
from pipelines.benchmarks.folder import read_recommend_folder, read_search_folder
from pipelines.benchmarks.protocols import recommend_task, search_split
from pipelines.benchmarks.runs import BenchOptions
from pipelines.config import EvaluationConfig, HeadraceConfig, TrainingConfig
from tests.toys.bench_folders import ITEM_IDS, TITLES, write_interactions, write_items, write_judgements

EVENTS = [(user, item, 10 * place) for user in ("ann", "bob") for place, item in enumerate("abcd")]
QUERIES = [(f"tea {number}", "abcde"[number % 5], float(number % 3)) for number in range(30)]


def recommended(folder, events=EVENTS, event_type=None, **columns):
    write_items(folder, **columns)
    table = {"event_type": event_type} if event_type else {}
    return recommend_task(read_recommend_folder(write_interactions(folder, events, **table)))


def searched(folder, judgements=QUERIES, **columns):
    return search_split(read_search_folder(write_judgements(write_items(folder, **columns), judgements)))


OTHER_ITEMS = [
    pytest.param({"title": ["blue tea", *TITLES[1:]]}, id="a title"),
    pytest.param({"description": ["hot", *[""] * 4]}, id="a description"),
    pytest.param({"category": ["tea", *[""] * 4]}, id="a category"),
    pytest.param({"brand": ["tea", *[""] * 4]}, id="a brand"),
    pytest.param({"price": [1.0, *[None] * 4]}, id="a price"),
    pytest.param({"image": ["tea", *[""] * 4]}, id="a picture"),
    pytest.param({"item_id": [*ITEM_IDS[:4], "z"]}, id="an id"),
]


@pytest.mark.parametrize("columns", OTHER_ITEMS)
def test_other_items_ask_the_same_questions_but_are_other_data(tmp_path, columns):
    events = [event for event in EVENTS if event[1] != "e"]
    before, after = recommended(tmp_path / "before", events), recommended(tmp_path / "after", events, **columns)
    assert before.sha1 == after.sha1
    assert recommend_fingerprint(before) != recommend_fingerprint(after)
    judged = [row for row in QUERIES if row[1] != "e"]
    found = [search_fingerprint(searched(tmp_path / name, judged, **to)) for name, to in (("p", {}), ("q", columns))]
    assert found[0] != found[1]


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"events": [("ann", "b", 0), ("ann", "a", 10), *EVENTS[2:]]}, id="older ones in another order"),
        pytest.param({"events": [("ann", "a", 5), *EVENTS[1:]]}, id="another time"),
        pytest.param({"events": [*EVENTS, ("cid", "a", 1)]}, id="a user who is asked nothing"),
        pytest.param({"event_type": ["view", *["purchase"] * 7]}, id="an event type"),
    ],
)
def test_other_events_ask_the_same_questions_but_are_other_data(tmp_path, changes):
    before, after = recommended(tmp_path / "before"), recommended(tmp_path / "after", **changes)
    assert before.sha1 == after.sha1
    assert recommend_fingerprint(before) != recommend_fingerprint(after)


def test_the_same_data_have_the_same_digits(tmp_path):
    assert recommend_fingerprint(recommended(tmp_path / "a")) == recommend_fingerprint(recommended(tmp_path / "b"))
    assert search_fingerprint(searched(tmp_path / "a")) == search_fingerprint(searched(tmp_path / "b"))


def test_a_grade_counts_to_its_last_digit(tmp_path):
    other = [(query, item, grade + 1e-9 * (place == 7)) for place, (query, item, grade) in enumerate(QUERIES)]
    before, after = searched(tmp_path / "a"), searched(tmp_path / "b", other)
    assert before.sha1 == after.sha1
    assert search_fingerprint(before) != search_fingerprint(after)


def test_a_text_does_not_move_into_the_next_unseen(tmp_path):
    one, two = (
        recommended(tmp_path / "-".join(brand), brand=[*brand, "", "", ""]) for brand in (("ab", "c"), ("a", "bc"))
    )
    assert recommend_fingerprint(one) != recommend_fingerprint(two)


def test_results_are_kept_by_data_encoders_and_the_settings_of_the_model():
    options = BenchOptions(work=Path("work"), cache=Path("cache"))
    folder = options.folder("search", "shop", "ab" * 20, "1")
    assert folder.parent == Path("work")
    assert folder.name.startswith("search-shop-abababababab-")
    others = [
        options.folder("search", "shop", "ab" * 20, "2"),
        replace(options, encoder="other").folder("search", "shop", "ab" * 20, "1"),
        replace(options, image_encoder="eyes").folder("search", "shop", "ab" * 20, "1"),
        replace(options, quick=True).folder("search", "shop", "ab" * 20, "1"),
    ]
    assert len({folder, *others}) == 5
    named = replace(options, encoder=TrainingConfig().encoder)
    assert named.folder("search", "shop", "ab" * 20, "1") == folder
    other = HeadraceConfig(training=TrainingConfig(tower_steps=7))
    assert options.folder("search", "shop", "ab" * 20, "1", other) not in (folder, *others)
    elsewhere = HeadraceConfig(evaluation=EvaluationConfig(search_queries=7))
    assert options.folder("search", "shop", "ab" * 20, "1", elsewhere) == folder

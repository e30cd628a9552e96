"""(query, item) pairs from the catalogue and from the search log."""

from datetime import UTC, datetime

import duckdb
import numpy as np
import pytest

from pipelines.errors import DataError
from pipelines.inference.new_items import item_text
from pipelines.training.catalog import load_catalog, standardized_log
from pipelines.training.catalog_queries import catalog_pairs, catalog_query
from pipelines.training.judged_queries import JudgedQueries
from pipelines.training.search_pairs import logged_pairs, pair_source

CUT = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture
def connection():
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute(
        """
        CREATE TABLE items AS SELECT * FROM (VALUES
            ('b', 'Potato chips, 11 oz', NULL, 'Snacks', 'Own', 2.0),
            ('a', 'Red apples', 'Crisp.', 'Fruit', NULL, 8.0),
            ('c', 'Tea', NULL, NULL, NULL, NULL)
        ) t(item_id, title, description, category, brand, price)
        """
    )
    connection.execute(
        """
        CREATE TABLE events AS SELECT * REPLACE (event_timestamp::TIMESTAMPTZ AS event_timestamp,
            created_timestamp::TIMESTAMPTZ AS created_timestamp) FROM (VALUES
            ('e1', 'purchase', 'a', NULL, TIMESTAMP '2026-02-01 00:00:00', TIMESTAMP '2026-02-01 00:00:00'),
            ('e2', 'purchase', 'a', NULL, TIMESTAMP '2026-02-01 00:00:00', TIMESTAMP '2026-03-02 00:00:00'),
            ('e3', 'purchase', 'b', NULL, TIMESTAMP '2026-03-01 00:00:00', TIMESTAMP '2026-03-01 00:00:00'),
            ('e4', 'click', 'b', ' Chips ', TIMESTAMP '2026-02-02 00:00:00', TIMESTAMP '2026-02-02 00:00:00'),
            ('e5', 'impression', 'a', 'chips', TIMESTAMP '2026-02-02 00:00:00', TIMESTAMP '2026-02-02 00:00:00'),
            ('e6', 'click', 'gone', 'chips', TIMESTAMP '2026-02-02 00:00:00', TIMESTAMP '2026-02-02 00:00:00')
        ) t(event_id, event_type, item_id, query, event_timestamp, created_timestamp)
        """
    )
    return connection


def test_catalog_counts_only_what_had_happened_and_arrived(connection):
    catalog = load_catalog(connection, CUT)
    assert catalog.item_ids == ["a", "b", "c"]
    assert catalog.event_counts.tolist() == [1.0, 1.0, 0.0]
    assert catalog.texts[0] == "Red apples. Crisp."
    assert [catalog.category_names[number] for number in catalog.categories] == ["Fruit", "Snacks", ""]
    assert catalog.log_prices.tolist() == pytest.approx([1.0, -1.0, 0.0])


def test_catalog_without_items_says_what_to_run(connection):
    connection.execute("DELETE FROM items")
    with pytest.raises(DataError, match="run `headrace ingest_tables`"):
        load_catalog(connection, CUT)


def test_text_is_title_and_description():
    assert item_text("Tea", None) == "Tea"
    assert item_text("Tea", "Green.") == "Tea. Green."


def test_missing_and_free_prices_count_as_average():
    assert standardized_log(np.array([np.nan, 0.0, 1.0])).tolist() == [0.0, 0.0, 0.0]


def test_same_generator_state_gives_the_same_query():
    queries = [catalog_query("Potato chips, 11 oz", "Snacks", np.random.default_rng(7)) for _ in range(2)]
    assert queries[0] == queries[1]


def test_query_is_made_of_the_words_of_title_and_category():
    allowed = set("potatochips11ozsnacks ")
    for seed in range(50):
        query = catalog_query("Potato chips, 11 oz", "Snacks", np.random.default_rng(seed))
        assert query
        assert set(query) <= allowed


def test_title_without_a_word_gives_no_query():
    assert catalog_query("!!!", "Snacks", np.random.default_rng(0)) == ""


def test_logged_pairs_are_choices_of_known_items_before_the_cut(connection):
    catalog = load_catalog(connection, CUT)
    queries, rows = logged_pairs(connection, catalog, CUT)
    assert (queries, rows.tolist()) == (["chips"], [1])


def test_a_long_search_log_gives_half_of_the_pairs(connection):
    catalog = load_catalog(connection, CUT)
    draw = pair_source(catalog, ["typed by a person"] * 200, np.full(200, 2))
    queries, rows = draw(10, np.random.default_rng(0))
    assert len(queries) == len(rows) == 10
    assert queries.count("typed by a person") == 5
    assert rows[5:].tolist() == [2] * 5


def test_a_short_search_log_is_left_out(connection):
    catalog = load_catalog(connection, CUT)
    queries, _ = pair_source(catalog, ["typed by a person"] * 199, np.full(199, 2))(10, np.random.default_rng(0))
    assert "typed by a person" not in queries


def judged(n: int) -> JudgedQueries:
    return JudgedQueries([f"judged {number}" for number in range(n)], [np.array([1])] * n, [np.array([1.0])] * n)


@pytest.mark.parametrize(
    ("n_judged", "n_logged", "expected"),
    [
        pytest.param(99, 0, (8, 0, 0), id="too few judged queries"),
        pytest.param(100, 0, (4, 4, 0), id="judged queries give half"),
        pytest.param(100, 200, (4, 2, 2), id="judged and logged ones share that half"),
        pytest.param(1_000, 0, (0, 8, 0), id="with many nothing is made up"),
        pytest.param(1_000, 200, (0, 4, 4), id="with many the log still gives its part"),
    ],
)
def test_judged_logged_and_made_up_queries_share_a_batch(connection, n_judged, n_logged, expected):
    catalog = load_catalog(connection, CUT)
    draw = pair_source(catalog, ["typed by a person"] * n_logged, np.full(n_logged, 2), judged(n_judged))
    queries, rows = draw(8, np.random.default_rng(0))
    from_judged = sum(query.startswith("judged") for query in queries)
    from_log = queries.count("typed by a person")
    assert (len(rows) - from_judged - from_log, from_judged, from_log) == expected


def test_pairs_name_touched_items_more_often(connection):
    catalog = load_catalog(connection, CUT)
    _, rows = catalog_pairs(catalog, 3_000, np.random.default_rng(0))
    counts = np.bincount(rows, minlength=3)
    assert counts[0] > 1.2 * counts[2]

from collections import Counter
from collections.abc import Sequence

import pytest

from pipelines.config import TrainingSetConfig
from pipelines.features.baskets import (
    baskets_sql,
    daily_baskets_sql,
    older_rows_sql,
    replay_rows,
    seen_items_sql,
    split_by_time,
    training_rows_sql,
)
from pipelines.stores.sql import open_duckdb
from tests.toys.event_tables import day, event, events_table


def baskets(events: list[dict], start: float = 0, end: float = 1000) -> list[dict]:
    with open_duckdb() as connection:
        connection.register("events", events_table(events))
        found = connection.sql(baskets_sql(), params={"start": day(start), "end": day(end)}).to_arrow_table()
    return sorted(found.to_pylist(), key=lambda row: (row["bought_at"], row["user_id"]))


def rows(events: list[dict], *, validation: float, test: float, max_train: int = 99, max_eval: int = 99) -> list[dict]:
    with open_duckdb() as connection:
        connection.register("events", events_table(events))
        found = connection.sql(baskets_sql(), params={"start": day(0), "end": day(1000)}).to_arrow_table()
        connection.register("baskets", found)
        parameters = {
            "validation_start": day(validation),
            "test_start": day(test),
            "max_train_rows": max_train,
            "max_eval_rows": max_eval,
        }
        return connection.sql(training_rows_sql(), params=parameters).to_arrow_table().to_pylist()


def one_basket_a_day(days: int) -> list[dict]:
    return [event("u", f"item-{number:02d}", day(number + 0.5)) for number in range(days)]


def daily(days, baskets: int = 1_000) -> list[tuple]:
    return [(day(number), baskets) for number in days]


def test_baskets_are_counted_by_day():
    events = [
        event("u", "a", day(1.1), session="s"),
        event("u", "b", day(1.1), session="s"),
        event("u", "a", day(1.2)),
        event("v", "a", day(1.2)),
        event("v", "a", day(3), kind="view"),
        event("v", "a", day(4.9)),
    ]
    with open_duckdb() as connection:
        connection.register("events", events_table(events))
        assert connection.execute(daily_baskets_sql()).fetchall() == [(day(1), 3), (day(4), 1)]


def test_a_window_with_too_few_baskets_grows_back_over_the_gap():
    config = TrainingSetConfig(window_days=30, validation_days=5, test_days=7, min_eval_rows=25)
    split = split_by_time([*daily(range(60), baskets=10), (day(90), 1)], config)
    assert (split.test_start, split.test_end) == (day(57), day(91))  # 1 + 3 * 10 baskets
    assert split.validation_start == day(52)


def test_a_window_never_grows_beyond_a_tenth_of_all_baskets():
    config = TrainingSetConfig(window_days=30, validation_days=1, test_days=1, min_eval_rows=1_000)
    split = split_by_time(daily(range(100), baskets=1), config)
    assert (split.validation_start, split.test_start, split.test_end) == (day(80), day(90), day(100))


def test_the_split_is_whole_days_and_ends_with_the_day_of_the_newest_purchase():
    split = split_by_time(daily(range(100)), TrainingSetConfig(window_days=30, validation_days=5, test_days=7))

    assert (split.train_start, split.validation_start, split.test_start, split.test_end) == (
        day(58),
        day(88),
        day(93),
        day(100),
    )


def test_a_session_is_one_basket_at_the_time_of_its_first_purchase():
    found = baskets(
        [
            event("u", "b", day(1), session="s"),
            event("u", "a", day(1.01), session="s"),
            event("u", "c", day(1), session="other"),
            event("v", "a", day(1), session="s"),
        ]
    )

    assert {(row["user_id"], row["session_id"]): row["target_item_ids"] for row in found} == {
        ("u", "s"): ["a", "b"],
        ("u", "other"): ["c"],
        ("v", "s"): ["a"],
    }
    assert {row["bought_at"] for row in found} == {day(1)}


def test_without_a_session_the_purchases_of_one_moment_are_a_basket():
    found = baskets([event("u", "a", day(1)), event("u", "b", day(1)), event("u", "c", day(2))])

    assert [row["target_item_ids"] for row in found] == [["a", "b"], ["c"]]


def test_an_item_bought_twice_in_a_basket_is_one_target():
    assert baskets([event("u", "a", day(1), number=1), event("u", "a", day(1), number=2)])[0]["target_item_ids"] == [
        "a"
    ]


def test_new_items_are_those_the_user_never_bought_before():
    found = baskets(
        [
            event("u", "a", day(1)),
            event("v", "b", day(1)),
            event("u", "b", day(2), kind="view"),
            event("u", "a", day(3)),
            event("u", "b", day(3)),
            event("u", "a", day(4)),
        ]
    )

    assert [(row["user_id"], row["new_item_ids"]) for row in found] == [
        ("u", ["a"]),
        ("v", ["b"]),
        ("u", ["b"]),  # seen, and bought by somebody else, but not by this user
        ("u", []),
    ]


def test_items_bought_before_the_window_are_not_new_in_it():
    [basket] = baskets([event("u", "a", day(1)), event("u", "a", day(5))], start=4)

    assert basket["new_item_ids"] == []


def test_views_are_no_baskets():
    assert baskets([event("u", "a", day(1), kind="view")]) == []


def test_every_basket_is_in_the_part_of_its_time_and_rows_are_numbered_by_time():
    found = rows(one_basket_a_day(10), validation=6, test=8)

    assert [row["split"] for row in found] == ["train"] * 6 + ["validation"] * 2 + ["test"] * 2
    assert [row["row_id"] for row in found] == list(range(10))
    assert [row["target_item_ids"] for row in found] == [[f"item-{number:02d}"] for number in range(10)]


def test_a_row_is_as_of_the_microsecond_before_its_basket():
    [row] = rows([event("u", "a", day(1))], validation=6, test=8)

    assert (day(1) - row["as_of"]).total_seconds() == 1e-6


def test_the_newest_training_rows_stay():
    found = rows(one_basket_a_day(10), validation=6, test=8, max_train=2)

    assert [row["target_item_ids"][0] for row in found if row["split"] == "train"] == ["item-04", "item-05"]


@pytest.mark.parametrize(
    ("most", "kept"),
    [
        pytest.param(12, list(range(12)), id="as many as there are"),
        pytest.param(6, [0, 2, 4, 6, 8, 10], id="every second"),
        pytest.param(4, [0, 3, 6, 9], id="every third"),
        pytest.param(1, [0], id="one"),
    ],
)
def test_evaluation_rows_are_spread_evenly(most, kept):
    found = rows(one_basket_a_day(12), validation=0, test=0, max_eval=most)

    assert [int(row["target_item_ids"][0][-2:]) for row in found] == kept


@pytest.mark.parametrize("most", range(1, 15))
def test_never_more_evaluation_rows_than_asked_and_never_fewer_than_possible(most):
    found = rows(one_basket_a_day(13), validation=0, test=6, max_eval=most)

    assert Counter(row["split"] for row in found) == {"validation": min(most, 6), "test": min(most, 7)}


def test_seen_items_are_all_that_was_bought_before_in_any_window():
    with open_duckdb() as connection:
        events = [
            event("u", "old", day(1)),
            event("u", "looked at", day(2), kind="view"),
            event("u", "a", day(3)),
            event("u", "old", day(4)),
            event("v", "b", day(4)),
        ]
        connection.register("events", events_table(events))
        connection.register(
            "baskets", connection.sql(baskets_sql(), params={"start": day(3), "end": day(9)}).to_arrow_table()
        )
        parameters = {"validation_start": day(3.5), "test_start": day(3.5), "max_train_rows": 9, "max_eval_rows": 9}
        connection.register("rows", connection.sql(training_rows_sql(), params=parameters).to_arrow_table())
        found = connection.sql(seen_items_sql()).fetchall()

    assert found == [(1, ["a", "old"]), (2, [])]  # row 0 is a training row; v had bought nothing


def samples(old_rows: int, replay: int, seeds: Sequence[str], baskets: int) -> list[list[dict]]:
    """Return a sample of the older baskets for each seed; every user bought once, a day apart."""
    events = [event(f"u{number:02d}", "a", day(number)) for number in range(baskets)]
    fixed = {"start": day(0), "end": day(baskets), "replay_rows": replay, "old_rows": old_rows}
    with open_duckdb() as connection:
        connection.register("events", events_table(events))
        return [
            connection.sql(older_rows_sql(), params={**fixed, "seed": seed}).to_arrow_table().to_pylist()
            for seed in seeds
        ]


def sampled(old_rows: int, replay: int, seed: str, baskets: int = 40) -> dict[str, set[str]]:
    """Return the users of a sample by split."""
    (rows,) = samples(old_rows, replay, [seed], baskets)
    assert [row["row_id"] for row in rows] == list(range(len(rows)))
    assert [row["as_of"] for row in rows] == sorted(row["as_of"] for row in rows)
    assert all(row["replayed"] == (row["split"] == "train") for row in rows)
    return {split: {row["user_id"] for row in rows if row["split"] == split} for split in ("train", "old")}


def test_the_replayed_sample_depends_on_the_seed_and_what_is_measured_does_not():
    first = sampled(3, 10, "1")
    assert (len(first["train"]), len(first["old"])) == (10, 3)
    assert first["train"].isdisjoint(first["old"])
    assert sampled(3, 10, "1") == first
    other = sampled(3, 10, "2")
    assert other["train"] != first["train"]
    assert other["old"] == first["old"]


def test_at_most_a_tenth_is_kept_for_measuring_and_no_more_is_replayed_than_there_is():
    found = sampled(500, 500, "1")
    assert (len(found["train"]), len(found["old"])) == (36, 4)


def test_a_smaller_sample_is_part_of_a_larger_one_and_newcomers_push_out_few():
    assert sampled(0, 10, "1")["train"] < sampled(0, 20, "1")["train"]
    assert len(sampled(0, 20, "1")["train"] & sampled(0, 20, "1", baskets=42)["train"]) >= 18


@pytest.mark.slow
def test_every_older_basket_has_the_same_chance_to_be_replayed():
    drawn = Counter(row["user_id"] for rows in samples(0, 5, [str(seed) for seed in range(100)], 10) for row in rows)
    assert len(drawn) == 10
    # 50 of 100 on average; four deviations of a binomial are 20.
    assert all(abs(count - 50) < 20 for count in drawn.values())


@pytest.mark.parametrize(
    ("new", "share", "replayed"),
    [(100, 0.0, 0), (100, 0.5, 100), (100, 0.2, 25), (0, 0.5, 0)],
)
def test_replayed_rows_are_the_share_of_all_rows(new, share, replayed):
    assert replay_rows(new, share) == replayed

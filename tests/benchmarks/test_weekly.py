"""A shop of three users and five items, week by week."""

import numpy as np
import pytest

from pipelines.benchmarks.folder import ItemTable, RecommendFolder
from pipelines.benchmarks.weekly import WEEK_S, WeeklyShop, reservoir, some_users, weekly_shop

DAY_S = 86_400
# user, day, item, basket
LINES = [
    (0, 0.5, 0, 0),
    (0, 0.5, 1, 0),
    (0, 8.0, 0, 1),
    (0, 8.0, 2, 1),
    (1, 1.0, 1, 2),
    (1, 15.0, 3, 3),
    (2, 9.0, 2, 4),
]


def folder() -> RecommendFolder:
    users, days, items, baskets = (np.array(column) for column in zip(*LINES, strict=True))
    names = [f"item {number}" for number in range(5)]
    return RecommendFolder(
        name="toy",
        items=ItemTable(
            item_ids=list("abcde"),
            titles=names,
            texts=names,
            categories=["Fruit", "", "Fruit", "Dairy", ""],
            brands=[""] * 5,
            prices=np.array([1.0, 2.0, np.nan, 4.0, 8.0]),
            images=[""] * 5,
        ),
        user_ids=["u", "v", "w"],
        users=users.astype(np.int64),
        rows=items.astype(np.int64),
        times=(days * DAY_S).astype(np.int64),
        positions=None,
        baskets=baskets.astype(np.int64),
        event_types=np.array(["purchase"] * len(LINES)),
    )


@pytest.fixture
def shop() -> WeeklyShop:
    return weekly_shop(folder())


def test_baskets_stand_in_the_order_of_time(shop):
    assert shop.start_s == 0
    assert (shop.times / DAY_S).tolist() == [0.5, 1.0, 8.0, 9.0, 15.0]
    assert shop.users.tolist() == [0, 1, 0, 2, 1]
    assert shop.weeks.tolist() == [0, 0, 1, 1, 2]
    assert [target.tolist() for target in shop.targets] == [[0, 1], [1], [0, 2], [2], [3]]
    assert shop.in_weeks(1, 3).tolist() == [2, 3, 4]


def test_what_was_bought_before_a_basket_holds_nothing_of_the_basket(shop):
    assert [shop.bought_before(basket).tolist() for basket in range(5)] == [[], [], [0, 1], [], [1]]


def test_a_catalogue_holds_what_was_sold_by_then(shop):
    catalog = shop.catalog(8 * DAY_S)
    assert catalog.item_ids == ["a", "b"]
    assert catalog.event_counts.tolist() == [1, 2]
    assert catalog.category_names == ["", "Fruit"]
    assert shop.catalog_rows(9 * DAY_S).tolist() == [0, 1, 2, -1, -1]
    whole = shop.catalog(8 * DAY_S, everything=True)
    assert whole.item_ids == list("abcde")
    assert whole.event_counts.tolist() == [1, 2, 0, 0, 0]


def test_popularity_counts_half_after_two_weeks(shop):
    assert shop.popularity(int(14.5 * DAY_S))[0] == pytest.approx(0.5 + 0.5 ** (6.5 / 14))
    assert shop.popularity(0).tolist() == [0] * 5


def test_rows_know_new_items_from_old_and_drop_what_the_catalogue_lacks(shop):
    rows = shop.training_rows(np.array([2, 4]), shop.catalog_rows(8 * DAY_S))
    assert rows.user_ids == ["u", "v"]
    assert [target.tolist() for target in rows.targets] == [[0], []]
    assert [new.tolist() for new in rows.new_targets] == [[], []]
    known = shop.training_rows(np.array([2, 4]), np.arange(5))
    assert [new.tolist() for new in known.new_targets] == [[2], [3]]
    assert [seen.tolist() for seen in known.seen] == [[0, 1], [1]]
    history, types, times = known.histories[0]
    assert (history.tolist(), types, times.tolist()) == ([0, 1], ["purchase"] * 2, [43_200, 43_200])
    assert known.as_of_s.tolist() == [8 * DAY_S, 15 * DAY_S]


def test_some_users_keep_all_their_purchases():
    fewer = some_users(folder(), 2, seed=0)
    assert len(fewer.user_ids) == 2
    for number, name in enumerate(fewer.user_ids):
        own = folder().rows[folder().users == "uvw".index(name)]
        assert fewer.rows[fewer.users == number].tolist() == own.tolist()
    assert some_users(folder(), None, seed=0).user_ids == ["u", "v", "w"]
    assert len(weekly_shop(fewer).times) in (3, 4)


def test_the_reservoir_is_a_part_of_the_stream_in_its_order_and_grows_steadily():
    stream = np.arange(10, 110)
    drawn = reservoir(stream, 20, seed=1)
    assert len(drawn) == len(set(drawn.tolist()) & set(stream.tolist())) == 20
    assert (np.diff(drawn) > 0).all()
    assert reservoir(stream, 20, seed=1).tolist() == drawn.tolist()
    assert reservoir(stream, 20, seed=2).tolist() != drawn.tolist()
    assert reservoir(stream, 500, seed=1).tolist() == stream.tolist()
    assert set(reservoir(stream, 10, seed=1)) < set(drawn)
    assert len(reservoir(np.array([], np.int64), 5, seed=1)) == len(reservoir(stream, 0, seed=1)) == 0


def test_a_week_has_seven_days(shop):
    assert shop.week_start_s(2) == 14 * DAY_S == 2 * WEEK_S

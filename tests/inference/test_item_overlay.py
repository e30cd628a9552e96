"""Items that change beside an open bundle: answers are those of a bundle that was made with them."""

import numpy as np
import pytest

from pipelines.config import ServingConfig
from pipelines.inference.bundle import Bundle, load_bundle
from pipelines.inference.bundle_writing import default_texts
from pipelines.inference.item_overlay import ItemOverlay
from pipelines.ranking.answers import recommend, search, similar
from pipelines.ranking.filtering import Filters, allowed_items
from pipelines.retrieval.lexical import LexicalIndex
from tests.toys.toy_bundle import bought, one_hot, write_backward_tower, write_toy_bundle

SERVING = ServingConfig(exclude_purchased_days=0)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Bundle:
    folder = tmp_path_factory.mktemp("bundles") / "b1"
    write_toy_bundle(folder)
    return load_bundle(folder)


def item(item_id: str, title: str, **more) -> dict:
    return {"item_id": item_id, "title": title, "available": True, **more}


def with_changes(bundle: Bundle, *states: dict) -> Bundle:
    overlay = ItemOverlay(bundle)
    overlay.apply(states)
    overlay.embed(100)
    return overlay.bundle()


def found(bundle: Bundle, query: str, k: int = 6, filters: Filters | None = None) -> list[str]:
    ranking = search(bundle, query, k=k, now_s=0.0, serving=SERVING, filters=filters)
    return [bundle.item_ids[row] for row, score in zip(ranking.rows, ranking.scores, strict=True) if score > 0]


def test_a_new_item_is_found_by_its_words_and_by_its_meaning_recommended_and_similar(bundle):
    now = with_changes(bundle, item("g", "rye milk"))
    assert (bundle.n_items, now.n_items, now.row_of("g"), bundle.row_of("g")) == (6, 7, 6, None)
    assert found(now, "rye milk")[0] == "g"
    np.testing.assert_allclose(now.item_vectors[6], one_hot("rye milk"), atol=1e-6)
    ranking = search(now, "rye milk", k=1, now_s=0.0, serving=SERVING)
    assert {name: part[0] for name, part in ranking.parts.items()} == pytest.approx({"lexical": 1.0, "dense": 1.0})
    liked = recommend(now, bought("e"), k=3, now_s=100.0, serving=SERVING)
    assert "g" in [now.item_ids[row] for row in liked.rows]
    assert now.item_ids[similar(now, "e", k=1, serving=SERVING).rows[0]] == "g"
    embedding, _ = now.user_embedding(bought("g"), now_s=100.0)
    np.testing.assert_allclose(embedding, one_hot("rye milk"), atol=1e-3)
    assert found(bundle, "rye milk")[0] == "d"  # the bundle itself stays


def test_a_word_that_no_item_had_is_found_and_forgotten_again(bundle):
    overlay = ItemOverlay(bundle)
    overlay.apply([item("g", "quince")])
    assert bundle.lexical.scores("quinces").max() == 0
    now = overlay.bundle()
    assert np.flatnonzero(now.lexical.scores("quinces")).tolist() == [6]
    assert now.lexical.understood("quince").unknown_share == 0
    for number in range(1_000):  # the same item again and again
        overlay.apply(
            [item("g", f"name{'abcdefghij'[number % 10]}{'abcdefghij'[number // 10 % 10]}{chr(97 + number // 100)}x")]
        )
    assert np.flatnonzero(overlay.bundle().lexical.scores("quince")).tolist() == []
    assert len(overlay.bundle().lexical.vocabulary) < len(bundle.lexical.vocabulary) + 100
    assert overlay.changed == 1


def test_the_old_words_of_a_changed_title_no_longer_find_it(bundle):
    now = with_changes(bundle, item("d", "oat milk", category="Dairy"))
    assert "d" not in found(now, "rye")
    assert set(found(now, "oat milk")[:2]) == {"d", "e"}
    assert now.display[3] == {
        "item_id": "d",
        "title": "oat milk",
        "category": "Dairy",
        "brand": None,
        "price": None,
        "currency": None,
    }
    assert now.popularity[3] == bundle.popularity[3]
    assert now.links.of("item_to_item", 3)[0].tolist() == [0, 5]


def test_filters_see_a_changed_price_category_and_brand(bundle):
    now = with_changes(
        bundle, item("a", "red apple", category="Offers", brand="New", price=9.0), item("g", "red pear", price=1.5)
    )
    assert found(now, "red", filters=Filters(categories=("offers",))) == ["a"]
    assert found(now, "red", filters=Filters(brands=("new",))) == ["a"]
    assert found(now, "red", filters=Filters(min_price=8.0)) == ["a"]
    assert found(now, "red", filters=Filters(max_price=2.0)) == ["g"]
    assert found(now, "red", filters=Filters(categories=("Fruit",))) == []
    assert {name: rows.tolist() for name, rows in now.category_rows.items()} == {
        "fruit": [1, 2],
        "bakery": [3, 5],
        "dairy": [4],
        "offers": [0],
    }
    assert bundle.category_rows["fruit"].tolist() == [0, 1, 2]
    assert now.facts.log_prices[[0, 6]].tolist() == pytest.approx(np.log([9.0, 1.5]).tolist())
    assert now.facts.n_kinds == (int(now.facts.categories.max()) + 1, int(now.facts.brands.max()) + 1)
    assert now.facts.categories[0] not in bundle.facts.categories
    assert now.facts.categories[1:6].tolist() == bundle.facts.categories[1:].tolist()


def test_unavailable_deleted_and_sent_again(bundle):
    overlay = ItemOverlay(bundle)
    overlay.apply([item("d", "rye bread") | {"available": False}, item("g", "rye milk")])
    overlay.embed(10)
    assert found(overlay.bundle(), "rye") == ["g"]
    overlay.apply([{"item_id": "g", "deleted": True}, {"item_id": "nobody knows", "deleted": True}])
    now = overlay.bundle()
    assert found(now, "rye") == []
    assert "g" not in [now.item_ids[row] for row in recommend(now, bought("e"), k=9, now_s=9.0, serving=SERVING).rows]
    assert now.n_items == 7
    overlay.apply([item("g", "rye oat"), item("d", "rye bread")])
    overlay.embed(10)
    assert set(found(overlay.bundle(), "rye")) == {"g", "d"}
    assert overlay.bundle().n_items == 7


def test_lexical_scores_are_those_of_an_index_with_the_same_rarities(bundle):
    """Whatever is sent for the texts that are there already, their scores stay."""
    states = [item(*pair, category=category) for *pair, category in zip(*_columns(bundle), strict=True)]
    states = [{**state, "brand": brand} for state, brand in zip(states, bundle.items["brand"].to_pylist(), strict=True)]
    now = with_changes(bundle, *states)
    exact = LexicalIndex.build(default_texts(bundle.items))
    for query in ("red", "apple fruit", "rye bread bakery", "milk"):
        np.testing.assert_allclose(now.lexical.scores(query), exact.scores(query), rtol=2e-2)
        np.testing.assert_array_equal(now.lexical.item_words[np.arange(6)] >= 0, exact.item_words >= 0)


def _columns(bundle: Bundle) -> list[list]:
    return [bundle.items[name].to_pylist() for name in ("item_id", "title", "category")]


def test_a_known_item_that_keeps_its_title_keeps_its_vector_and_a_price_alone_needs_no_other_bundle(bundle):
    overlay = ItemOverlay(bundle)
    known = dict(bundle.display[3])
    assert not overlay.apply([known | {"available": True, "price": 99.0}])
    assert (overlay.changed, overlay.pending) == (0, 0)
    now = overlay.bundle()
    assert (now.prices[3], now.display[3]["price"], now.facts.log_prices[3]) == (99.0, 99.0, np.log(99.0))
    assert overlay.apply([known | {"available": False}])
    assert not overlay.apply([known | {"available": False}])
    assert overlay.apply([known | {"available": True, "category": "Offers"}])
    assert (overlay.changed, overlay.pending) == (1, 0)
    np.testing.assert_array_equal(overlay.bundle().item_vectors[3], bundle.item_vectors[3])
    assert overlay.bundle().lexical.scores("offers").argmax() == 3
    assert overlay.apply([known | {"available": True, "title": "oat pear"}])
    assert overlay.pending == 1


def test_a_new_item_is_read_again_where_its_text_changed_and_only_then(bundle):
    overlay = ItemOverlay(bundle)
    overlay.apply([item("g", "rye milk")])
    overlay.apply([{"item_id": "g", "deleted": True}])
    assert overlay.pending == 1  # it may come back as it was
    overlay.embed(1)
    assert overlay.apply([item("g", "rye milk", price=3.0)])
    assert overlay.pending == 0
    overlay.apply([item("g", "rye milk", description="oat")])
    assert overlay.pending == 1
    overlay.give_up(1)
    overlay.apply([item("h", "oat")])
    overlay.give_up(1)
    overlay.apply([item("h", "oat")])
    assert overlay.pending == 1


def test_dense_scores_of_what_did_not_change_stay(bundle):
    now = with_changes(bundle, item("b", "oat bread"), item("g", "rye milk"))
    vector = one_hot("rye milk")
    scores = now.dense_index.scores(vector)
    others = [0, 2, 3, 4, 5]
    np.testing.assert_array_equal(scores[others], bundle.dense_index.scores(vector)[others])
    np.testing.assert_allclose(scores[[1, 6]], [0.0, 1.0], atol=1e-6)
    np.testing.assert_allclose(now.item_vectors.scores(vector[None])[0], scores, atol=5e-3)
    np.testing.assert_array_equal(now.item_vectors[np.array([[0, 1], [6, 2]])][0, 0], bundle.item_vectors[0])


def test_every_array_has_as_many_rows_as_there_are_items_however_many_arrive(bundle):
    overlay = ItemOverlay(bundle)
    seen = [overlay.bundle()]
    for start in range(0, 3_000, 500):
        overlay.apply([item(f"n{number}", "red milk", price=1.0) for number in range(start, start + 500)])
        seen.append(overlay.bundle())
    assert [one.n_items for one in seen] == [6, *range(506, 3_007, 500)]
    for now in seen:
        n = now.n_items
        for part in (
            now.available,
            now.prices,
            now.popularity,
            now.popularity_score,
            now.item_vectors,
            now.facts.brands,
        ):
            assert len(part) == n
        assert len(now.dense_index.scores(one_hot("milk"))) == len(now.lexical.scores("milk")) == n
        assert len(now.trends.of_day(0.0).features) == now.trends.n_items == n
        assert len(now.links) == n
        assert len(allowed_items(now)) == n
        assert now.rows_of([f"n{n - 7}", f"n{n - 6}"]).tolist() == [n - 1, -1] if n > 6 else True
        assert now.items.num_rows == n
    assert overlay.pending == 3_000
    overlay.embed(2_000)
    overlay.embed(2_000)
    assert overlay.pending == 0
    np.testing.assert_allclose(overlay.bundle().item_vectors[3_005], one_hot("red milk"), atol=1e-6)


def test_before_its_vector_is_there_an_item_is_found_by_words_and_keeps_the_vector_it_had(bundle):
    overlay = ItemOverlay(bundle)
    overlay.apply([item("a", "oat milk"), item("g", "rye milk")])
    now = overlay.bundle()
    np.testing.assert_array_equal(now.item_vectors[0], bundle.item_vectors[0])
    assert np.abs(now.item_vectors[6]).max() == 0
    assert now.lexical.scores("rye milk").argmax() == 6
    assert "g" in found(now, "rye milk")
    assert overlay.give_up(1) == ["a"]
    assert overlay.pending == 1


@pytest.fixture(scope="module")
def bundle_with_tower(tmp_path_factory) -> Bundle:
    folder = tmp_path_factory.mktemp("bundles")
    write_toy_bundle(folder / "b1", item_text_tower=write_backward_tower(folder / "tower"))
    return load_bundle(folder / "b1")


def vector_of(overlay: ItemOverlay, item_id: str) -> list[float]:
    now = overlay.bundle()
    return now.item_vectors[now.row_of(item_id)].tolist()


def test_of_many_items_the_small_tower_reads_all_before_the_encoder_reads_one(bundle_with_tower):
    overlay = ItemOverlay(bundle_with_tower)
    overlay.apply([item(name, title) for name, title in (("g", "oat"), ("h", "rye milk"), ("i", "red"))])
    for unread in (1, 0):
        overlay.embed(2)
        assert (overlay.pending, overlay.unread) == (3, unread)
    assert vector_of(overlay, "i") == pytest.approx(one_hot("rye").tolist())  # "red" backwards
    overlay.embed(2)
    assert (overlay.pending, overlay.unread) == (1, 0)
    assert vector_of(overlay, "i") == pytest.approx(one_hot("red").tolist())  # of the shortest first
    assert vector_of(overlay, "h") == pytest.approx(one_hot("red apple").tolist())
    overlay.apply([item("j", "oat")])  # what comes while others wait is not last
    overlay.embed(2)
    assert (overlay.pending, overlay.unread) == (2, 0)
    assert vector_of(overlay, "j") == pytest.approx(one_hot("green").tolist())
    overlay.embed(2)
    assert overlay.pending == 0
    assert vector_of(overlay, "h") == pytest.approx(one_hot("rye milk").tolist())


def test_a_few_items_are_read_by_the_encoder_at_once(bundle_with_tower):
    overlay = ItemOverlay(bundle_with_tower)
    overlay.apply([item("g", "oat"), item("h", "rye milk")])
    overlay.embed(2)
    assert (overlay.pending, overlay.unread) == (0, 0)
    assert vector_of(overlay, "g") == pytest.approx(one_hot("oat").tolist())


def test_where_the_small_tower_fails_the_encoder_reads(bundle_with_tower):
    overlay = ItemOverlay(bundle_with_tower)
    overlay.apply([item("g", "oat"), item("h", "rye milk")])
    assert overlay.give_up(1) == []
    overlay.embed(1)
    assert (overlay.pending, overlay.unread) == (1, 1)
    assert vector_of(overlay, "g") == pytest.approx(one_hot("oat").tolist())
    assert overlay.give_up(1) == ["h"]
    assert (overlay.pending, overlay.unread) == (0, 0)


def test_an_overlay_over_a_bundle_with_items_beside_it(bundle):
    import pyarrow as pa

    from pipelines.inference.new_items import NewItems, embed_items
    from tests.toys.toy_bundle import new_items_table

    items = new_items_table("oat pear")
    texts = default_texts(pa.concat_tables([bundle.items, items]))
    grown = bundle.with_new_items(NewItems(items, embed_items(bundle, items, ["oat pear"]), LexicalIndex.build(texts)))
    now = with_changes(grown, item("oat pear", "rye pear"), item("h", "oat milk"))
    assert (now.n_items, now.row_of("oat pear"), now.row_of("h")) == (8, 6, 7)
    assert found(now, "rye pear")[0] == "oat pear"
    assert found(now, "oat milk")[:1] in (["h"], ["e"])

"""What is carried over when items change gives the answers that remembering nothing gives."""

import numpy as np
import pytest
import torch

from pipelines.benchmarks.synthetic_shop import make_shop, write_shop_bundle
from pipelines.compression.onnx_export import export_ranker
from pipelines.config import ServingConfig
from pipelines.inference.bundle import Bundle, load_bundle
from pipelines.inference.item_overlay import ItemOverlay
from pipelines.inference.preprocessing import Preprocessing, RankerSettings
from pipelines.inference.ranker_features import ranker_features
from pipelines.model.ranker import HEADS, Ranker
from pipelines.ranking.answers import recommend, search, similar
from pipelines.ranking.carried import MOST_CHANGES, ItemChanges
from pipelines.ranking.prepared import Prepared
from tests.toys.toy_bundle import WORDS, bought, write_toy_bundle

DAY_S = 86_400
NOW_S = 100 * DAY_S
SERVING = ServingConfig(candidates=20)


class Catalogue:
    """A bundle whose items change, and what is remembered for it."""

    def __init__(self, bundle: Bundle) -> None:
        self.overlay = ItemOverlay(bundle)
        self.bundle = self.overlay.bundle()
        self.prepared = Prepared(SERVING)

    def change(self, *states: dict) -> None:
        self.overlay.apply(states)
        self.overlay.embed(100)
        self.bundle = self.overlay.bundle()
        self.prepared = self.prepared.carried(ItemChanges(*self.overlay.take_touched()))

    def shown(self, row: int) -> dict:
        return {**self.bundle.display[row], "available": True}


@pytest.fixture(scope="module")
def ranked_bundle(tmp_path_factory) -> Bundle:
    """The toy bundle with a ranker of random weights that sees two items of each generator."""
    folder = tmp_path_factory.mktemp("bundles")
    torch.manual_seed(4)
    features = ranker_features(("item_to_item", "dense"))
    export_ranker(Ranker(len(features), 8), folder / "ranker.onnx")
    settings = RankerSettings(features=features, heads=HEADS, head_weights={"purchase": 1.0}, per_generator=2)
    write_toy_bundle(folder / "toy", preprocessing=Preprocessing(ranker=settings), ranker=folder / "ranker.onnx")
    return load_bundle(folder / "toy")


@pytest.fixture(scope="module")
def shop(tmp_path_factory) -> Bundle:
    folder = tmp_path_factory.mktemp("shop") / "b1"
    write_shop_bundle(make_shop(items=3_000, users=1, words=200, seed=3), folder, dim=16, seed=3)
    return load_bundle(folder)


def random_change(catalogue: Catalogue, dice: np.random.Generator) -> dict:
    """Return a new item, another title, or an item that goes or comes back; prices stay, they count a little later."""
    row = int(dice.integers(catalogue.bundle.n_items))
    title = " ".join(dice.choice(WORDS, 2))
    kind = dice.integers(4)
    if kind == 0:
        return {"item_id": f"new-{catalogue.bundle.n_items}", "title": title, "available": True}
    if kind == 1:
        return {**catalogue.shown(row), "title": title}
    return {"item_id": catalogue.bundle.item_ids[row], "deleted": True} if kind == 2 else catalogue.shown(row)


def test_every_answer_is_that_of_a_bundle_for_which_nothing_is_remembered(ranked_bundle):
    catalogue, dice = Catalogue(ranked_bundle), np.random.default_rng(1)
    users = [bought(*"ad", at=NOW_S - 50 * DAY_S), bought("c", "new-6", at=NOW_S - 9 * DAY_S), bought("e", at=0)]
    queries = ["red apple", "milk", "oat", "rye bread"]
    for step in range(150):
        catalogue.change(*(random_change(catalogue, dice) for _ in range(int(dice.integers(1, 3)))))
        if step % 3 == 2:  # not all is asked for after each change
            continue
        bundle, options = catalogue.bundle, {"k": 5, "now_s": NOW_S, "serving": SERVING}
        for user in users:
            fresh, kept = (recommend(bundle, user, prepared=one, **options) for one in (None, catalogue.prepared))
            assert kept.rows.tolist() == fresh.rows.tolist()
            np.testing.assert_allclose(kept.scores, fresh.scores, atol=1e-6)
        for item_id in ("a", "d", "new-6"):
            if bundle.row_of(item_id) is not None:
                about = {"k": 4, "serving": SERVING}
                fresh, kept = (similar(bundle, item_id, prepared=one, **about) for one in (None, catalogue.prepared))
                assert kept.rows.tolist() == fresh.rows.tolist()
                np.testing.assert_allclose(kept.scores, fresh.scores, atol=1e-6)
        for query in queries:
            vector = bundle.encode_queries([query])[0]
            asked = {"query_vector": vector, "features": users[0], **options}
            fresh, kept = (search(bundle, query, prepared=one, **asked) for one in (None, catalogue.prepared))
            assert kept.rows.tolist() == fresh.rows.tolist()
            np.testing.assert_allclose(kept.scores, fresh.scores, atol=1e-6)


def test_searches_over_many_items_are_those_of_nothing_remembered(shop):
    catalogue, dice = Catalogue(shop), np.random.default_rng(2)
    queries = [" ".join(shop.titles[row].split()[:2]) for row in dice.integers(0, 3_000, 12)]
    for _ in range(30):
        row = int(dice.integers(3_000))
        other = shop.titles[int(dice.integers(3_000))]
        catalogue.change({**catalogue.shown(row), "title": other})
        for query in queries:
            vector = catalogue.bundle.encode_queries([query])[0]
            options = {"k": 10, "now_s": NOW_S, "serving": SERVING, "query_vector": vector}
            fresh, kept = (
                search(catalogue.bundle, query, prepared=one, **options) for one in (None, catalogue.prepared)
            )
            np.testing.assert_allclose(kept.scores, fresh.scores, atol=1e-6)
            assert set(kept.rows.tolist()) == set(fresh.rows.tolist())


def test_what_a_change_does_not_touch_is_not_searched_again(shop):
    catalogue = Catalogue(shop)
    query, row = shop.titles[0], 0
    vector = shop.encode_queries([query])[0]

    def kept():
        return catalogue.prepared.query(catalogue.bundle, query, vector)

    search(catalogue.bundle, query, k=5, now_s=0, serving=SERVING, query_vector=vector, prepared=catalogue.prepared)
    first = kept()
    assert first is not None
    catalogue.change({"item_id": "new", "title": "qwertz", "available": True})
    far = kept()
    catalogue.change({**catalogue.shown(row), "available": False})
    assert far is first
    assert kept() is None
    assert catalogue.prepared.query(catalogue.bundle, query, None) is None


def test_a_known_item_that_comes_back_and_many_changes_start_anew(shop):
    for states in (
        [[{"item_id": shop.item_ids[9], "deleted": True}], [{**shop.display[9], "available": True}]],
        [[{"item_id": f"n{n}", "title": "qwertz", "available": True}] for n in range(MOST_CHANGES + 1)],
        [[{"item_id": f"n{n}", "title": "qwertz", "available": True} for n in range(300)]],
    ):
        catalogue = Catalogue(shop)
        vector = shop.encode_queries(["milk"])[0]
        search(shop, "milk", k=5, now_s=0, serving=SERVING, query_vector=vector, prepared=catalogue.prepared)
        for state in states:
            catalogue.change(*state)
        assert catalogue.prepared.query(catalogue.bundle, "milk", vector) is None


def test_lexical_scores_of_some_items_are_those_of_all(shop):
    catalogue = Catalogue(shop)
    catalogue.change(
        {**catalogue.shown(5), "title": shop.titles[8]}, {"item_id": "n", "title": shop.titles[8], "available": True}
    )
    rows = np.array([0, 5, 8, 3_000])
    for bundle, some in ((shop, rows[:3]), (catalogue.bundle, rows)):
        words = bundle.lexical.query_words(shop.titles[8])
        np.testing.assert_allclose(
            bundle.lexical.scores_at(words, some), bundle.lexical.scores_of(words)[some], rtol=1e-5
        )

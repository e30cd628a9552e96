"""Bundles: written whole, verified when opened, answers worked out by hand."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.compression.combined_tower import write_combined
from pipelines.compression.static_tower import StaticTower, static_tower_model
from pipelines.errors import BundleError, DataError
from pipelines.features.activity import ACTIVITY_FEATURES
from pipelines.inference.bundle import load_bundle
from pipelines.inference.preprocessing import Fusion, Preprocessing, RecommendFusion
from pipelines.retrieval.neighbors import NeighborTable
from tests.toys.toy_bundle import (
    DIM,
    ITEMS,
    WORDS,
    User,
    bought,
    one_hot,
    write_backward_tower,
    write_toy_bundle,
    write_toy_encoder,
    write_toy_tokenizer,
    write_toy_user_tower,
)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles") / "b1"
    write_toy_bundle(folder)
    return load_bundle(folder)


def test_manifest_and_shapes(bundle):
    assert (bundle.bundle_id, bundle.n_items, bundle.dim) == ("b1", 6, DIM)
    assert bundle.manifest.encoder == "toy"
    assert bundle.metrics == {"recall@10": 0.5}
    assert bundle.item_vectors[0].dtype == np.float32
    assert set(bundle.manifest.files) >= {"encoder.onnx", "item_vectors.npy", "lexical/vocab.index.json"}


def test_queries_of_different_length_are_embedded_alone_as_in_a_batch(bundle):
    texts = ["red apple", "milk", "red apple pear bread"]
    np.testing.assert_allclose(bundle.encode_queries(texts), np.stack([one_hot(text) for text in texts]), atol=1e-6)


def test_texts_are_cut_at_max_tokens(tmp_path):
    write_toy_bundle(tmp_path / "b", preprocessing=Preprocessing(max_tokens=2))
    np.testing.assert_allclose(
        load_bundle(tmp_path / "b").encode_queries(["red apple milk"])[0], one_hot("red apple"), atol=1e-6
    )


def test_a_user_embedding_is_made_of_the_known_items(bundle):
    embedding, attention = bundle.user_embedding(bought("a", "unknown", "d"), now_s=100.0)
    np.testing.assert_allclose(embedding, one_hot("red apple rye bread"), atol=1e-3)
    np.testing.assert_allclose(attention, [0.5, 0.0, 0.5])


@pytest.mark.parametrize("user", [User(), bought("unknown")], ids=["no history", "unknown items"])
def test_nothing_known_is_no_embedding(bundle, user):
    assert bundle.user_embedding(user, now_s=0.0) is None


def test_users_are_embedded_alone_as_in_a_batch(bundle):
    users = [bought("a"), User(), bought("b", "c", "d")]
    embeddings, known = bundle.user_embeddings(users, [10.0, 10.0, 10.0])
    assert known.tolist() == [True, False, True]
    assert not embeddings[1].any()
    for index in (0, 2):
        alone = bundle.user_embedding(users[index], 10.0)
        assert alone is not None
        np.testing.assert_allclose(embeddings[index], alone[0], atol=1e-6)


def test_rows_of_items(bundle):
    assert bundle.row_of("c") == 2
    assert bundle.row_of("nope") is None
    assert bundle.rows_of(["f", "nope", "a"]).tolist() == [5, -1, 0]


def test_popularity_is_on_a_log_scale(bundle):
    np.testing.assert_allclose(bundle.popularity_score, [0, 1 / 3, 2 / 3, 1, 0, 0], atol=1e-6)  # log2(1, 2, 4, 8)


def test_dense_index_agrees_with_the_exact_product(bundle):
    vector = one_hot("red apple")
    np.testing.assert_allclose(bundle.dense_index.scores(vector), bundle.item_vectors @ vector, atol=0.01)


def test_a_query_tower_reads_queries_and_the_encoder_items(tmp_path):
    write_toy_bundle(tmp_path / "b", query_tower=write_backward_tower(tmp_path / "tower"))
    bundle = load_bundle(tmp_path / "b")
    assert bundle.encode_items(["red"])[0].tolist() == one_hot(WORDS[0]).tolist()
    assert bundle.encode_queries(["red"])[0].tolist() == one_hot(WORDS[-1]).tolist()
    assert (bundle.manifest.has_query_tower, bundle.manifest.has_item_text_tower) == (True, False)


def test_an_item_text_tower_reads_items_at_first_and_the_encoder_after_it(tmp_path):
    write_toy_bundle(tmp_path / "b", item_text_tower=write_backward_tower(tmp_path / "tower"))
    bundle = load_bundle(tmp_path / "b")
    assert bundle.encode_items(["red"], at_first=True)[0].tolist() == one_hot(WORDS[-1]).tolist()
    assert bundle.encode_items(["red"])[0].tolist() == one_hot(WORDS[0]).tolist()
    assert bundle.encode_queries(["red"])[0].tolist() == one_hot(WORDS[0]).tolist()
    assert (bundle.manifest.has_query_tower, bundle.manifest.has_item_text_tower) == (False, True)


def test_an_item_text_tower_of_another_width_is_refused(tmp_path):
    tower = write_backward_tower(tmp_path / "tower")
    (tower / "model.onnx").write_bytes(static_tower_model(StaticTower(torch.ones(2 + len(WORDS), 3)), pad_id=0))
    with pytest.raises(BundleError, match="item_text_tower of the bundle b gives a vector of shape"):
        write_toy_bundle(tmp_path / "b", item_text_tower=tower)


def write_tower_with_table(folder: Path) -> Path:
    """Write a tower that adds up the words that it finds under two numberings of them."""
    folder.mkdir()
    write_toy_tokenizer(folder / "tokenizer.json")
    write_toy_tokenizer(folder / "table_tokenizer.json", words=WORDS[::-1])
    write_toy_encoder(folder / "model.onnx")
    table = StaticTower(torch.cat([torch.zeros(2, DIM), torch.eye(DIM)]))  # nothing for [PAD] and [UNK]
    write_combined(folder / "model.onnx", static_tower_model(table, pad_id=0), folder / "model.onnx")
    return folder


def test_a_query_tower_may_read_two_vocabularies(tmp_path):
    write_toy_bundle(tmp_path / "b", query_tower=write_tower_with_table(tmp_path / "tower"))
    bundle = load_bundle(tmp_path / "b")
    assert "query_tower/table_tokenizer.json" in bundle.manifest.files
    both = one_hot(f"{WORDS[0]} {WORDS[-1]}").tolist()
    assert bundle.encode_queries([WORDS[0]])[0].tolist() == pytest.approx(both)
    assert bundle.encode_queries([WORDS[0], WORDS[1]])[0].tolist() == pytest.approx(both)


def test_a_query_tower_without_its_second_vocabulary_is_refused(tmp_path):
    tower = write_tower_with_table(tmp_path / "tower")
    (tower / "table_tokenizer.json").unlink()
    with pytest.raises(BundleError, match=r"reads two vocabularies, table_tokenizer\.json is missing"):
        write_toy_bundle(tmp_path / "b", query_tower=tower)


def test_a_second_vocabulary_that_no_model_reads_is_refused(tmp_path):
    tower = write_tower_with_table(tmp_path / "tower")
    write_toy_encoder(tower / "model.onnx")
    with pytest.raises(BundleError, match=r"reads one vocabulary, table_tokenizer\.json is one too many"):
        write_toy_bundle(tmp_path / "b", query_tower=tower)


def test_a_half_precision_encoder_is_for_gpus_only(tmp_path):
    (tmp_path / "half.onnx").write_bytes(b"not a model")  # it would not open, so nobody has tried
    write_toy_bundle(tmp_path / "b", half_encoder=tmp_path / "half.onnx")
    bundle = load_bundle(tmp_path / "b", device="cpu")
    assert "encoder_half.onnx" in bundle.manifest.files
    assert bundle.encode_queries(["red"])[0].tolist() == one_hot("red").tolist()


def test_vectors_are_mapped_into_memory_and_there_once(bundle):
    assert bundle.item_vectors.codes.dtype == np.int8
    assert isinstance(bundle.item_vectors.codes.base, np.memmap)
    assert bundle.manifest.files["dense_index.onnx"].bytes < 2_000


def test_fusion_weights_are_stored(tmp_path):
    chosen = Fusion(recommend=RecommendFusion(dense=0.1, item_to_item=0.2, popularity=0.7))
    write_toy_bundle(tmp_path / "b", preprocessing=Preprocessing(fusion=chosen))
    assert load_bundle(tmp_path / "b").preprocessing.fusion == chosen


@pytest.mark.parametrize(
    "name", ["encoder.onnx", "tokenizer.json", "item_vectors.npy", "items.parquet", "lexical/vocab.index.json"]
)
def test_a_changed_file_is_named(tmp_path, name):
    write_toy_bundle(tmp_path / "b")
    content = bytearray((tmp_path / "b" / name).read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "b" / name).write_bytes(content)
    with pytest.raises(BundleError, match=f"{name} of the bundle .* was changed.*use another bundle"):
        load_bundle(tmp_path / "b")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param(lambda b: (b / "encoder.onnx").unlink(), "encoder.onnx is missing", id="missing file"),
        pytest.param(lambda b: (b / "manifest.json").unlink(), "was not written to the end", id="no manifest"),
        pytest.param(lambda b: (b / "manifest.json").write_text("{"), "is not a manifest", id="broken manifest"),
        pytest.param(lambda b: (b / "manifest.json").write_text('{"format": 9}'), "has format 9", id="other format"),
    ],
)
def test_an_incomplete_bundle_is_refused(tmp_path, damage, message):
    write_toy_bundle(tmp_path / "b")
    damage(tmp_path / "b")
    with pytest.raises(BundleError, match=message):
        load_bundle(tmp_path / "b")


def test_a_bundle_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(BundleError, match="There is no bundle at"):
        load_bundle(tmp_path / "nothing")


@pytest.mark.parametrize(
    "name", ["encoder.onnx", "tokenizer.json", "item_vectors.npy", "popularity.npy", "items.parquet"]
)
def test_an_unreadable_file_is_named_even_without_verification(tmp_path, name):
    write_toy_bundle(tmp_path / "b")
    (tmp_path / "b" / name).write_bytes(b"not what it should be")
    with pytest.raises(BundleError, match=f"{name}.*use another bundle"):
        load_bundle(tmp_path / "b", verify=False)


def test_pickled_arrays_are_never_opened(tmp_path):
    write_toy_bundle(tmp_path / "b")
    np.save(tmp_path / "b" / "popularity.npy", np.array([{"code": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(BundleError, match=r"popularity.npy .*allow_pickle=False"):
        load_bundle(tmp_path / "b", verify=False)


def test_a_tower_without_unit_length_is_refused_and_nothing_is_left(tmp_path):
    tower = write_toy_user_tower(tmp_path / "tower.onnx", gain=2.0)
    with pytest.raises(BundleError, match=r"user_tower.onnx .* length 2.000"):
        write_toy_bundle(tmp_path / "bundles" / "b", user_tower=tower)
    assert list((tmp_path / "bundles").glob("*b*")) == [tmp_path / "bundles" / "b.sources"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"items": ITEMS.slice(0, 5)}, "others.*'items': 5", id="fewer items than vectors"),
        pytest.param({"popularity": np.zeros(7, np.float32)}, "'popularity': 7", id="more counts than items"),
        pytest.param({"item_vectors": np.ones((6, DIM))}, "6 of 6 item vectors .* not of length 1", id="length"),
        pytest.param({"item_vectors": np.full((6, DIM), np.nan)}, "6 of 6 item vectors", id="not a number"),
    ],
)
def test_parts_that_do_not_fit_are_refused(tmp_path, changes, message):
    with pytest.raises(DataError, match=message):
        write_toy_bundle(tmp_path / "b", **changes)
    assert not (tmp_path / "b").exists()


def test_neighbours_that_do_not_exist_are_refused(tmp_path):
    nobody = NeighborTable.from_padded(np.full((6, 2), 6, np.int32), np.ones((6, 2), np.float32))
    with pytest.raises(BundleError, match="points to items that do not exist"):
        write_toy_bundle(tmp_path / "b", neighbors={"item_to_item": nobody})


def test_a_bundle_needs_the_table_that_goes_with_answers_from(tmp_path):
    with pytest.raises(BundleError, match="neighbors/item_to_item is missing"):
        write_toy_bundle(tmp_path / "b", neighbors={"other": NeighborTable.empty(6)})


def test_other_activity_features_than_the_trained_ones_are_refused(tmp_path):
    with pytest.raises(BundleError, match="trained on the activity features shoe_size"):
        write_toy_bundle(tmp_path / "b", preprocessing=Preprocessing(activity_features=("shoe_size",)))
    write_toy_bundle(tmp_path / "good", preprocessing=Preprocessing(activity_features=ACTIVITY_FEATURES))


def test_writing_again_replaces_the_bundle(tmp_path):
    write_toy_bundle(tmp_path / "b", metrics={"recall@10": 0.1})
    write_toy_bundle(tmp_path / "b", metrics={"recall@10": 0.9})
    assert json.loads((tmp_path / "b" / "metrics.json").read_text()) == {"recall@10": 0.9}
    assert load_bundle(tmp_path / "b").metrics == {"recall@10": 0.9}

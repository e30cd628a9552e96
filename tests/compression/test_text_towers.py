"""Distilled towers come nearer to their teacher, and open like any encoder."""

import dataclasses

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from tokenizers import Tokenizer, models

from pipelines.compression.chosen_tower import item_text_tower
from pipelines.compression.combined_tower import write_combined
from pipelines.compression.distillation import Lessons, distil, distillation_loss, make_lessons
from pipelines.compression.half_precision import export_half
from pipelines.compression.measurement import HeldOutQueries
from pipelines.compression.onnx_export import export_encoder
from pipelines.compression.static_tower import StaticTower, rarity_weights, starting_vectors, static_tower_model
from pipelines.compression.study import Study
from pipelines.compression.text_towers import FullModel, build_text_tower, token_batches
from pipelines.compression.variants import parse_variant
from pipelines.compression.vocabulary_pruning import write_pruned_tokenizer
from pipelines.config import CompressionConfig, DistillationConfig
from pipelines.errors import DataError
from pipelines.inference.sessions import open_session
from pipelines.inference.text_encoder import TABLE_TOKENIZER, TOKENIZER, TextEncoder, open_text_tower
from pipelines.model.encoder import EmbeddingCache, encode_texts, load_encoder
from pipelines.progress import SilentProgress

TEXTS = ["red tea", "green tea", "red pot", "green pot", "cup", "a red cup", "tea pot"] * 2
CONFIG = DistillationConfig(steps=40, batch=8, learning_rate=3e-3, static_steps=150, static_batch=14, items_per_text=2)


@pytest.fixture(scope="module")
def full(tiny_encoder_folder):
    encoder, _ = load_encoder(str(tiny_encoder_folder))
    return FullModel(encoder.eval(), tiny_encoder_folder / "tokenizer.json", 16)


@pytest.fixture(scope="module")
def lessons(full, tiny_encoder_folder):
    _, tokenizer = load_encoder(str(tiny_encoder_folder))
    vectors = encode_texts(full.encoder, tokenizer, TEXTS, max_tokens=16, progress=SilentProgress())
    return make_lessons(TEXTS, vectors, vectors[:5], k=3, progress=SilentProgress())


def no_lessons() -> Lessons:
    raise AssertionError("nothing has to be learned")


def build(name, full, lessons, folder):
    folder = build_text_tower(
        parse_variant(name), full, lessons, folder, config=CONFIG, seed=0, progress=SilentProgress()
    )
    return open_text_tower(folder, 16)


def cosines(found, lessons):
    return (found * lessons.vectors).sum(1)


def test_a_lesson_names_what_the_teacher_finds_best_first():
    items = np.eye(3, dtype=np.float32)
    vectors = np.array([[0.6, 0.8, 0], [0, 0.28, 0.96]], np.float32)
    lessons = make_lessons(["one", "two"], vectors, items, k=2, progress=SilentProgress())
    assert lessons.found.tolist() == [[1, 0], [2, 1]]


def test_without_a_text_nothing_is_taught():
    with pytest.raises(DataError, match="no text to distil from"):
        make_lessons([], np.empty((0, 2)), np.eye(2, dtype=np.float32), k=1, progress=SilentProgress())


def test_the_loss_is_zero_for_the_teacher_itself_and_its_parts_add_up():
    teacher, items = torch.eye(2), torch.eye(2)
    assert distillation_loss(teacher, teacher, items, temperature=0.5, ranking_weight=1).item() == pytest.approx(0)
    swapped = teacher.flip(0)  # the cosine is 0, and the log-odds of the two items are 2 and −2 instead of −2 and 2
    share = 1 / (1 + np.exp(-2))
    ranking = share * 2 - (1 - share) * 2
    loss = distillation_loss(swapped, teacher, items, temperature=0.5, ranking_weight=3)
    assert loss.item() == pytest.approx(1 + 3 * ranking, rel=1e-5)


def test_all_layers_in_int8_need_no_lesson_and_read_as_the_full_model(full, lessons, tmp_path):
    tower = build("6-layer int8", full, no_lessons, tmp_path / "t")
    assert cosines(tower.encode(TEXTS), lessons).min() > 0.98


def test_a_domain_vocabulary_changes_no_vector(full, lessons, tmp_path):
    tower = build("6-layer float32 domain vocabulary", full, lambda: lessons, tmp_path / "t")
    assert cosines(tower.encode(TEXTS), lessons).min() == pytest.approx(1, abs=1e-5)
    assert np.isfinite(tower.encode(["zzz 99 unheard-of"])).all()


@pytest.mark.parametrize("name", ["1-layer float32", "1-layer int8", "static"])
def test_a_small_tower_learns_what_the_full_model_says(full, lessons, tmp_path, name):
    tower = build(name, full, lambda: lessons, tmp_path / "t")
    found = cosines(tower.encode(TEXTS), lessons)
    assert found.mean() > 0.95
    assert np.linalg.norm(tower.encode(["never seen"]), axis=1) == pytest.approx(1, abs=1e-4)


def test_two_towers_in_one_give_the_sum_of_their_vectors_each_with_its_own_tokens(full, tmp_path):
    export_encoder(full.encoder, tmp_path / "deep.onnx")
    backwards = list(range(66))[::-1]
    write_pruned_tokenizer(full.tokenizer_file, backwards, tmp_path / TABLE_TOKENIZER)
    torch.manual_seed(0)
    model = static_tower_model(StaticTower(torch.randn(66, 16)), pad_id=65)
    (tmp_path / "table.onnx").write_bytes(model)
    write_combined(tmp_path / "deep.onnx", model, tmp_path / "both.onnx")

    def opened(name, *tokenizers):
        return TextEncoder(open_session(tmp_path / f"{name}.onnx", "cpu"), tokenizers[0], 16, *tokenizers[1:])

    deep = opened("deep", full.tokenizer_file)
    table = opened("table", tmp_path / TABLE_TOKENIZER)
    both = opened("both", full.tokenizer_file, tmp_path / TABLE_TOKENIZER)
    total = deep.encode(TEXTS) + table.encode(TEXTS)
    total /= np.linalg.norm(total, axis=1, keepdims=True)
    assert both.encode(TEXTS) == pytest.approx(total, abs=1e-5)
    assert both.encode(TEXTS[:1]) == pytest.approx(total[:1], abs=1e-5)


def test_a_token_that_the_lessons_have_once_is_known_to_layers_and_not_to_their_table(full, lessons, tmp_path):
    described = full.tokenizer_file.read_text().replace('"9"', '"mug"')  # its only token of more than one letter
    (tmp_path / "tokenizer.json").write_text(described)
    once = dataclasses.replace(lessons, texts=[*TEXTS[:-1], "mug"])
    build(
        "1-layer int8",
        dataclasses.replace(full, tokenizer_file=tmp_path / "tokenizer.json"),
        lambda: once,
        tmp_path / "t",
    )
    known = [Tokenizer.from_file(str(tmp_path / "t" / name)).get_vocab() for name in (TOKENIZER, TABLE_TOKENIZER)]
    assert set(known[0]) - set(known[1]) == {"mug"}


def test_what_the_full_model_says_is_kept_between_runs(full, lessons, tiny_encoder_folder, tmp_path):
    study = Study(
        full=full,
        tokenizer=load_encoder(str(tiny_encoder_folder))[1],
        item_vectors=lessons.item_vectors,
        served_vectors=lessons.item_vectors,
        queries=HeldOutQueries([], [], []),
        lesson_texts=lambda: TEXTS,
        item_texts=TEXTS[:5],
        text_vectors=lessons.item_vectors,
        config=CompressionConfig(distillation=CONFIG),
        seed=0,
        progress=SilentProgress(),
        cache=EmbeddingCache(tmp_path),
    )
    assert study.lessons.vectors == pytest.approx(lessons.vectors, abs=1e-6)
    again = dataclasses.replace(study, tokenizer=None)  # whoever has none reads nothing
    assert again.lessons.vectors.tolist() == study.lessons.vectors.tolist()


def test_a_tower_for_items_learns_each_text_once_and_only_those_that_it_may_see(full):
    vectors = np.eye(4, dtype=np.float32)
    study = Study(
        full=full,
        tokenizer=None,
        item_vectors=vectors[::-1],
        served_vectors=vectors[::-1],
        queries=HeldOutQueries([], [], []),
        lesson_texts=list,
        item_texts=["red tea", "cup", "red tea", "pot"],
        text_vectors=vectors[[0, 1, 0, 3]],
        config=CompressionConfig(distillation=CONFIG),
        seed=0,
        progress=SilentProgress(),
    )
    lessons = study.item_lessons(np.array([0, 2, 3]))
    assert lessons.texts == ["red tea", "pot"]
    np.testing.assert_array_equal(lessons.vectors, vectors[[0, 3]])
    np.testing.assert_array_equal(lessons.item_vectors, vectors[[0, 3]])
    few = dataclasses.replace(study, config=CompressionConfig(distillation=DistillationConfig(texts=2)))
    assert len(few.item_lessons()) == 2 < len(study.item_lessons())


@pytest.mark.parametrize(
    ("setting", "kind"), [("encoder", "WordPiece"), ("6-layer int8", "WordPiece"), ("static", "BPE")]
)
def test_the_encoder_alone_reads_new_items_where_it_should_or_must(full, tmp_path, setting, kind):
    if kind == "BPE":
        Tokenizer(models.BPE()).save(str(tmp_path / "tokenizer.json"))
        full = dataclasses.replace(full, tokenizer_file=tmp_path / "tokenizer.json")
    study = Study(
        full=full,
        tokenizer=None,
        item_vectors=np.eye(4, dtype=np.float32),
        served_vectors=np.eye(4, dtype=np.float32),
        queries=HeldOutQueries([], [], []),
        lesson_texts=list,
        item_texts=["red tea", "cup", "red tea", "pot"],
        text_vectors=np.eye(4, dtype=np.float32),
        config=CompressionConfig(item_text_tower=setting),
        seed=0,
        progress=SilentProgress(),
    )
    assert item_text_tower(study, tmp_path / "towers") is None


def test_what_is_built_is_not_built_again(full, lessons, tmp_path):
    build("static", full, lambda: lessons, tmp_path / "t")
    build("static", full, no_lessons, tmp_path / "t")


def test_distillation_is_the_same_every_time_and_the_loss_falls(full, lessons):
    def run():
        torch.manual_seed(0)
        student = StaticTower(torch.randn(80, 16))
        tokens = token_batches(full.tokenizer_file, 16)
        options = {"config": CONFIG, "steps": 30, "batch": 14, "learning_rate": 5e-2, "seed": 1}
        return distil(student, tokens, lessons, **options, progress=SilentProgress())

    losses = run()
    assert losses == run()
    assert losses[30] < losses[1] / 2


def test_a_token_starts_as_what_its_texts_have_and_others_have_not():
    lists = [np.array([0, 1]), np.array([0, 2])]
    vectors = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)
    start = starting_vectors(lists, vectors, 4)
    weights = rarity_weights(lists, 4)
    assert weights[3] == 1
    assert weights[0] < weights[1] == weights[2] < 1
    assert start[0].tolist() == [0, 0]
    assert start[1] == pytest.approx(np.array([0.5, -0.5]) * weights[1])
    assert start[3].tolist() == [0, 0]


def test_one_text_alone_is_read_as_in_a_batch(full, lessons, tmp_path):
    for name in ("1-layer float32", "static"):
        tower = build(name, full, lambda: lessons, tmp_path / name)
        together = tower.encode(["red tea", "a red cup and a tea pot"])
        assert tower.encode(["red tea"])[0] == pytest.approx(together[0], abs=1e-5)


def test_half_precision_keeps_the_numbers_and_its_inputs(full, lessons, tmp_path):
    export_encoder(full.encoder, tmp_path / "float.onnx")
    export_half(tmp_path / "float.onnx", tmp_path / "half.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "half.onnx", providers=["CPUExecutionProvider"])
    assert session.get_outputs()[0].type == "tensor(float)"
    found = TextEncoder(session, full.tokenizer_file, 16).encode(TEXTS)
    assert cosines(found, lessons).min() > 0.999
    weights = {tensor.data_type for tensor in onnx.load(tmp_path / "half.onnx").graph.initializer if tensor.dims}
    assert onnx.TensorProto.FLOAT16 in weights
    assert onnx.TensorProto.FLOAT not in weights

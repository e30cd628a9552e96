"""What a bench keeps between runs."""

import numpy as np
import pytest

from pipelines.benchmarks.case_store import CaseStore


@pytest.fixture
def store(tmp_path):
    return CaseStore(tmp_path / "bench")


def test_what_is_saved_comes_back(store):
    assert not store.has("tfidf")
    store.save("tfidf", None, {"ranks": np.asarray([1, 2])})
    assert store.load("tfidf")["ranks"].tolist() == [1, 2]


def test_seeds_and_names_are_kept_apart(store):
    store.save("without dense", 0, {"ranks": np.asarray([1])})
    assert not store.has("without dense", 1)
    assert not store.has("without dense")
    assert not store.has("without_dense", 0)  # other name, same letters


def test_a_seed_is_finished_when_all_its_cases_are_there(store):
    store.save("headrace", 0, {"ranks": np.asarray([1])})
    assert store.model_cases(0) is None
    store.finish_model(0, ["headrace", "headrace_dense"])
    assert store.model_cases(0) is None
    store.save("headrace_dense", 0, {"ranks": np.asarray([1])})
    assert store.model_cases(0) == ["headrace", "headrace_dense"]


def test_forgetting_baselines_leaves_the_model(store):
    store.save("tfidf", None, {"ranks": np.asarray([1])})
    store.save("headrace", 0, {"ranks": np.asarray([1])})
    store.forget(["tfidf", "never measured"])
    assert not store.has("tfidf")
    assert store.has("headrace", 0)


def test_forgetting_the_model_leaves_the_baselines(store):
    store.save("tfidf", None, {"ranks": np.asarray([1])})
    store.save("headrace", 0, {"ranks": np.asarray([1])})
    store.finish_model(0, ["headrace"])
    kept = store.model_folder(0) / "checkpoint"
    kept.write_text("half way")
    store.forget_model()
    assert store.has("tfidf")
    assert store.model_cases(0) is None
    assert not store.has("headrace", 0)
    assert not kept.exists()

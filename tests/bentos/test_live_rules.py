"""Rules are taken over when their file changes."""

import gc
import os
import time
import weakref

import pytest

from bentos.recommender.answering.live_rules import LiveRules
from pipelines.errors import ConfigError
from pipelines.inference.bundle import load_bundle
from tests.toys.toy_bundle import write_toy_bundle


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles") / "b1"
    write_toy_bundle(folder)
    return folder


def write(path, *ids: str) -> None:
    """Replace the file, as editors do."""
    text = "".join(f"- {{id: {name}, bury: true}}\n" for name in ids)
    fresh = path.with_suffix(".new")
    fresh.write_text(f"rules:\n{text}", encoding="utf-8")
    os.replace(fresh, path)


def ids(rules, bundle):
    return [rule.id for rule in rules.of(bundle).book.rules]


def test_a_changed_file_is_followed_and_a_broken_one_is_not(tmp_path, folder, caplog):
    path, bundle = tmp_path / "rules.yaml", load_bundle(folder)
    write(path, "first")
    rules = LiveRules(path)
    assert ids(rules, bundle) == ["first"]
    assert rules.of(bundle) is rules.of(bundle)
    assert not rules.refresh()
    write(path, "first", "second")
    assert rules.refresh()
    assert ids(rules, bundle) == ["first", "second"]
    write(path, "same", "same")
    assert not rules.refresh()
    assert ids(rules, bundle) == ["first", "second"]
    assert "The business rules stay as they were" in caplog.text
    assert rules.problem is not None
    path.unlink()
    assert not rules.refresh()
    assert "do not exist" in rules.problem
    write(path)
    assert rules.refresh()
    assert rules.of(bundle) is None
    assert rules.problem is None


def test_it_is_followed_in_the_background(tmp_path, folder):
    path, bundle = tmp_path / "rules.yaml", load_bundle(folder)
    write(path, "first")
    rules = LiveRules(path, interval_s=0.01)
    rules.start()
    try:
        assert ids(rules, bundle) == ["first"]
        write(path, "second")
        for _ in range(500):
            if ids(rules, bundle) == ["second"]:
                break
            time.sleep(0.01)
        assert ids(rules, bundle) == ["second"]
    finally:
        rules.close()


def test_a_wrong_file_at_the_start_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="do not exist"):
        LiveRules(tmp_path / "none.yaml")
    assert LiveRules(None).of(None) is None


def test_a_bundle_that_is_gone_is_let_go(tmp_path, folder):
    path = tmp_path / "rules.yaml"
    write(path, "first")
    rules, bundle = LiveRules(path), load_bundle(folder)
    rules.of(bundle)
    gone = weakref.ref(bundle)
    del bundle
    gc.collect()
    assert gone() is None

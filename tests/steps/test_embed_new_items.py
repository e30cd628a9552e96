"""Items that arrived since the live bundle was made get a vector from what they are."""

import json
from datetime import UTC, datetime

import numpy as np
import pytest

from pipelines.inference.bundle import load_bundle
from pipelines.inference.new_items import item_tower_fields
from pipelines.places import Places
from pipelines.progress import SilentProgress
from pipelines.schemas import EmbeddedItems
from pipelines.steps.embed_new_items import embed_new_items
from pipelines.stores.new_items_store import find_pointer, read_new_items
from pipelines.stores.serving_pointer import ServingPointer, read_pointer, write_pointer
from pipelines.training.item_images import ItemImages
from tests.toys.event_tables import day, event, tables_with
from tests.toys.images import RED, write_color_encoder, write_image
from tests.toys.toy_bundle import DIM, ITEMS, one_hot, write_toy_bundle


@pytest.fixture
def places(tmp_path) -> Places:
    """A home with the toy bundle, which has the items a to f, live."""
    places = Places(tmp_path / "home")
    write_toy_bundle(places.bundles / "b1")
    point_to(places, "b1")
    return places


def point_to(places: Places, bundle: str) -> None:
    write_pointer(
        places.current_bundle,
        ServingPointer(bundle=bundle, folder=places.bundles / bundle, deployed_at=datetime(2026, 3, 1, tzinfo=UTC)),
    )


def embed(places: Places, *items: str, at: float = 1, pictures=None, images=None) -> EmbeddedItems:
    """Bring purchases of these items, whose titles are their ids, and run the step."""
    tables = tables_with(
        places.home,
        [event("u", item, day(at), number=n) for n, item in enumerate(items)],
        until=day(at),
        images=pictures,
    )
    live = read_pointer(places.current_bundle)
    return embed_new_items(
        live.folder if live else None,
        tables=tables,
        new_items=places.new_items,
        progress=SilentProgress(),
        images=images,
    )


def test_nothing_stands_beside_a_bundle_of_another_version_and_the_pipeline_goes_on(places):
    manifest = places.bundles / "b1" / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "format": 1}))
    embedded = embed(places, "rye milk")
    assert (embedded.bundle, embedded.items) == ("b1", 0)
    assert "has format 1" in embedded.left_out
    assert find_pointer(places.new_items, "b1") is None


def test_only_items_that_the_bundle_lacks_are_embedded_and_the_service_can_use_them(places):
    assert embed(places, "a", "rye milk", "oat pear") == EmbeddedItems(bundle="b1", items=2)
    new = read_new_items(places.new_items, "b1")
    assert new is not None
    assert new.items["item_id"].to_pylist() == ["oat pear", "rye milk"]
    np.testing.assert_allclose(new.vectors, [one_hot("oat pear"), one_hot("rye milk")], atol=1e-6)
    grown = load_bundle(places.bundles / "b1").with_new_items(new)
    assert grown.lexical.scores("rye milk").argmax() == grown.row_of("rye milk") == 7


def test_the_same_items_again_write_nothing(places):
    embed(places, "rye milk")
    before = find_pointer(places.new_items, "b1")
    stamp = (places.new_items / "b1.json").stat().st_mtime_ns
    assert embed(places, at=2) == EmbeddedItems(bundle="b1", items=1)
    assert find_pointer(places.new_items, "b1") == before
    assert (places.new_items / "b1.json").stat().st_mtime_ns == stamp


def test_more_items_replace_those_before_whose_files_stay_for_who_reads_them(places):
    folders = []
    for at, item in enumerate(("rye milk", "oat pear", "green bread"), start=1):
        assert embed(places, item, at=at).items == at
        pointer = find_pointer(places.new_items, "b1")
        assert pointer is not None
        folders.append(pointer.folder)
    assert sorted(path.name for path in places.new_items.iterdir() if path.is_dir()) == sorted(folders[1:])


def test_nothing_stands_beside_a_bundle_that_has_every_item(places):
    embed(places, "rye milk")
    renamed = ITEMS.set_column(0, "item_id", [["rye milk", *ITEMS["item_id"].to_pylist()[1:]]])
    write_toy_bundle(places.bundles / "b2", items=renamed)
    point_to(places, "b2")
    assert embed(places, at=2) == EmbeddedItems(bundle="b2", items=0)
    assert read_new_items(places.new_items, "b2") is None
    assert read_new_items(places.new_items, "b1") is not None


def test_before_the_first_bundle_there_is_nothing_to_do(tmp_path):
    places = Places(tmp_path)
    assert embed(places, "rye milk") == EmbeddedItems(bundle=None, items=0)
    assert not places.new_items.exists()


@pytest.mark.parametrize(
    ("learnt_from", "seen"),
    [
        pytest.param("the same", True, id="same encoder"),
        pytest.param("another", False, id="another encoder"),
        pytest.param("", False, id="no pictures"),
    ],
)
def test_a_new_item_is_seen_by_a_bundle_that_has_learnt_from_the_same_encoder(tmp_path, places, learnt_from, seen):
    """What is red is moved far towards the word apple; the other item has no picture."""
    import torch

    from pipelines.compression.onnx_export import export_item_tower
    from pipelines.model.item_tower import ItemTower

    images = ItemImages(str(write_color_encoder(tmp_path / "colors.onnx")), tmp_path, tmp_path / "cache")
    write_image(tmp_path / "red.png", RED, (4, 4))
    known = images.vectors(["red.png"], SilentProgress())
    assert known is not None
    encoder = known.encoder if learnt_from == "the same" else learnt_from
    tower = ItemTower(DIM, 1, 1, 1, 1, image_dim=3 if encoder else 0)
    if encoder:
        with torch.no_grad():
            tower.image.weight.copy_(100 * torch.from_numpy(np.outer(one_hot("apple"), known.vectors[0])))
    export_item_tower(tower, tmp_path / "item_tower.onnx", dim=DIM)
    fields = item_tower_fields([""], [""], np.zeros(1), image_encoder=encoder, image_dim=3 if encoder else 0)
    (tmp_path / "item_tower.json").write_text(fields.model_dump_json())
    write_toy_bundle(
        places.bundles / "b3", more_files={name: tmp_path / name for name in ("item_tower.onnx", "item_tower.json")}
    )
    point_to(places, "b3")

    embed(places, "oat pear", "rye milk", pictures={"rye milk": "red.png"}, images=images)
    new = read_new_items(places.new_items, "b3")
    assert new is not None
    expected = one_hot("apple") if seen else one_hot("rye milk")
    np.testing.assert_allclose(new.vectors, [one_hot("oat pear"), expected], atol=2e-2)

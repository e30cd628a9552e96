"""Vectors of the pictures that a catalogue names: which items have one, what is counted, what is read again."""

from dataclasses import replace

import numpy as np
import pytest

from pipelines.errors import ConfigError
from pipelines.progress import SilentProgress
from pipelines.training.distributed import TrainingGroup
from pipelines.training.item_images import ItemImages
from tests.toys.images import BLUE, RED, write_color_encoder, write_image


class Heard:
    """Remembers what was said last of each stage."""

    def __init__(self):
        self.last = {}

    def update(self, stage, done, total=None, note=""):
        self.last[stage] = (done, total, note)


@pytest.fixture
def images(tmp_path):
    (tmp_path / "pictures").mkdir()
    return ItemImages(str(write_color_encoder(tmp_path / "colors.onnx")), tmp_path / "pictures", tmp_path / "cache")


def unit(*values):
    return np.array(values) / np.linalg.norm(values)


RED_VECTOR = unit((1 - 0.485) / 0.229, -0.456 / 0.224, -0.406 / 0.225)


def test_an_item_has_the_vector_of_its_picture_and_the_others_have_zeros(images):
    write_image(images.folder / "red.png", RED, (4, 4))
    write_image(images.folder / "red.bmp", RED, (4, 4))
    found = images.vectors(["red.png", None, "", "gone.png", "red.bmp"], SilentProgress())
    nothing = np.zeros(3)
    np.testing.assert_allclose(found.vectors, [RED_VECTOR, nothing, nothing, nothing, RED_VECTOR], atol=1e-6)
    assert (found.vectors.dtype, found.dim) == (np.float32, 3)


def test_what_is_left_out_is_counted_by_its_reason(images):
    write_image(images.folder / "a.png", RED)
    (images.folder / "b.png").write_bytes(b"broken")
    heard = Heard()
    images.vectors(["a.png", "b.png", "c.png", "https://shop/d.png", "http://shop/e.png", None], heard)
    assert heard.last["items with an image"] == (
        1,
        5,
        "left out: 1 no files, 2 addresses, which are not fetched, 1 that cannot be read as a picture",
    )


@pytest.mark.parametrize("names", [[], [None, ""], ["gone.png", "https://shop/a.png"], ["broken.png"]])
def test_without_a_readable_picture_there_is_nothing(images, names):
    (images.folder / "broken.png").write_bytes(b"broken")
    assert images.vectors(names, SilentProgress()) is None


def test_without_an_encoder_nothing_is_opened(images):
    write_image(images.folder / "a.png", RED)
    assert replace(images, encoder="none", folder=images.folder / "gone").vectors(["a.png"], SilentProgress()) is None


def test_a_picture_is_encoded_once_whatever_it_is_called(images):
    write_image(images.folder / "a.png", RED, (4, 4))
    (images.folder / "broken.png").write_bytes(b"broken")
    images.vectors(["a.png", "broken.png"], SilentProgress())
    heard = Heard()
    (images.folder / "a.png").rename(images.folder / "b.png")
    write_image(images.folder / "c.png", BLUE, (4, 4))
    again = images.vectors(["b.png", "broken.png", "c.png", "c.png"], heard)
    assert heard.last["item images encoded"] == (1, 1, "")
    np.testing.assert_allclose(again.vectors[0], RED_VECTOR, atol=1e-6)
    assert again.vectors[2].argmax() == again.vectors[3].argmax() == 2


def test_of_two_processes_each_encodes_its_half_and_has_all(images):
    names = [f"{number}.png" for number in range(4)]
    for number, name in enumerate(names):
        write_image(images.folder / name, (60 * number, 0, 0), (4, 4))
    alone, heard = Heard(), []

    class Second(TrainingGroup):
        def wait(self):
            heard.append(alone.last["item images encoded"][0])
            images.vectors(names[:2], SilentProgress())  # meanwhile, the first one

    found = images.vectors_together(names, alone, Second(rank=1, size=2))
    assert heard == [2]
    assert alone.last["item images encoded"][0] == 2
    np.testing.assert_array_equal(found.vectors, images.vectors(names, SilentProgress()).vectors)
    assert found.vectors.any(axis=1).all()


def test_a_folder_that_is_not_there_is_refused(images):
    with pytest.raises(ConfigError, match=r"`training.image_folder` is .*gone, which is no folder"):
        replace(images, folder=images.folder / "gone").vectors(["a.png"], SilentProgress())

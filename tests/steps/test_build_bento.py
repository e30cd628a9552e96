"""Packing a Bento, for real; serving it is tested in tests/bentos."""

import re
import shutil
import tomllib
from pathlib import Path

import pytest

from pipelines.errors import BundleError, ConfigError
from pipelines.steps.build_bento import build_bento
from tests.toys.toy_bundle import write_toy_bundle

PROJECT = Path(__file__).resolve().parents[2]


def names_and_versions(text: str) -> dict[str, str]:
    found = re.findall(r"(?m)^([A-Za-z0-9_.-]+)(?:\[.*?\])?==([^\s;]+)", text)
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in found}


def test_the_bento_takes_the_versions_of_the_constraints_and_all_that_the_service_needs():
    pinned = names_and_versions((PROJECT / "constraints.txt").read_text())
    packed = names_and_versions((PROJECT / "bentos/recommender/requirements.txt").read_text())
    assert {name: pinned[name] for name in packed} == packed
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    needed = {re.split(r"[\[<>=]", line)[0] for line in project["dependencies"] + extras["cpu"] + extras["serving"]}
    assert set(packed) == needed


def test_a_changed_bundle_is_not_packed(tmp_path):
    write_toy_bundle(tmp_path / "bundles" / "b1")
    (tmp_path / "bundles" / "b1" / "metrics.json").write_text("{}")
    with pytest.raises(BundleError, match=r"metrics\.json"):
        build_bento("b1", bundles_dir=tmp_path / "bundles", bentoml_home=tmp_path / "bentoml", project_dir=PROJECT)
    assert not (tmp_path / "bentoml").exists()


def test_a_folder_without_the_service_is_named(tmp_path):
    write_toy_bundle(tmp_path / "bundles" / "b1")
    with pytest.raises(ConfigError, match=r"bentofile.yaml does not exist: give the folder of a Headrace checkout"):
        build_bento("b1", bundles_dir=tmp_path / "bundles", bentoml_home=tmp_path / "bentoml", project_dir=tmp_path)


@pytest.mark.slow
def test_building_twice_is_building_once_and_changed_sources_make_another(tmp_path):
    project = tmp_path / "project"
    for folder in ("bentos", "pipelines"):
        shutil.copytree(PROJECT / folder, project / folder, ignore=shutil.ignore_patterns("__pycache__"))
    write_toy_bundle(tmp_path / "bundles" / "Run_1")

    def build():
        return build_bento(
            "Run_1", bundles_dir=tmp_path / "bundles", bentoml_home=tmp_path / "bentoml", project_dir=project
        )

    first = build()
    assert re.fullmatch(r"headrace:run-1-[0-9a-f]{8}", first.tag)
    assert (first.folder / "src" / "bundle" / "manifest.json").is_file()
    assert (first.folder / "src" / "pipelines" / "inference" / "bundle.py").is_file()
    stamp = (first.folder / "bento.yaml").stat().st_mtime_ns
    assert build() == first
    assert (first.folder / "bento.yaml").stat().st_mtime_ns == stamp
    with (project / "pipelines" / "errors.py").open("a") as file:
        file.write("\n# changed\n")
    assert build().tag != first.tag

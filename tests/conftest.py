"""Fixtures that several folders of tests share."""

import shutil
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def empty_mlflow(tmp_path_factory) -> Path:
    """A folder with an MLflow database that has its tables and nothing else: creating them takes 5 s."""
    from pipelines.stores.mlflow_client import MlflowBackend

    folder = tmp_path_factory.mktemp("empty_mlflow")
    assert MlflowBackend(folder).client
    return folder


@pytest.fixture
def mlflow_folder(empty_mlflow, tmp_path) -> Path:
    """A real, empty MLflow on SQLite for one test."""
    folder = tmp_path / "mlflow"
    folder.mkdir()
    shutil.copy(empty_mlflow / "mlflow.db", folder / "mlflow.db")
    return folder

"""Airflow's own database on one machine."""

import os
import sqlite3

import pytest

from pipelines.airflow_home import airflow_environment, prepare_airflow
from pipelines.places import Places


@pytest.mark.slow
def test_a_database_whose_creation_was_killed_is_made_anew(tmp_path):
    places = Places(tmp_path)
    places.airflow.mkdir(parents=True)
    with sqlite3.connect(places.airflow / "airflow.db") as half:
        half.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
        half.execute("INSERT INTO alembic_version VALUES ('of another time')")
    half.close()
    with (tmp_path / "log").open("w") as log:
        prepare_airflow(places, airflow_environment(places, os.environ), log)
    with sqlite3.connect(places.airflow / "airflow.db") as database:
        assert database.execute("SELECT count(*) FROM dag_run").fetchone() == (0,)
    database.close()

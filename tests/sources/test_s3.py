"""Paths in an S3-compatible store, a real server on this machine."""

import logging

import pytest
from pyarrow.fs import S3FileSystem

from pipelines.errors import ConfigError, DataError
from pipelines.sources.tables import TablesSource
from pipelines.stores.sql import open_duckdb
from tests.toys.catalogue import MAPPING, NOW, write_csv
from tests.toys.postgres_server import free_port

pytestmark = pytest.mark.slow
SETTINGS = {
    "AWS_ACCESS_KEY_ID": "reader",
    "AWS_SECRET_ACCESS_KEY": "secret-word",
    "AWS_DEFAULT_REGION": "eu-central-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@pytest.fixture(scope="module")
def endpoint():
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    port = free_port()
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    server.start()
    yield f"http://127.0.0.1:{port}"
    server.stop()


@pytest.fixture
def bucket(endpoint, tmp_path, monkeypatch):
    """The toy shop's files in a bucket, and a mapping file that names them there."""
    for name, value in (SETTINGS | {"AWS_ENDPOINT_URL": endpoint}).items():
        monkeypatch.setenv(name, value)
    system = S3FileSystem(
        access_key="reader", secret_key="secret-word", endpoint_override=endpoint, allow_bucket_creation=True,
        region="eu-central-1",
    )  # fmt: skip
    system.create_dir("shop")
    mapping = write_csv(tmp_path)
    for file in tmp_path.glob("*.csv"):
        with system.open_output_stream(f"shop/data/{file.name}") as stream:
            stream.write(file.read_bytes())
    with open_duckdb() as connection:
        connection.execute(f"COPY (FROM read_csv('{tmp_path}/sales.csv')) TO '{tmp_path}/sales.parquet'")
    for day in ("2026-01-01", "2026-01-02"):
        with system.open_output_stream(f"shop/days/{day}/sales.parquet") as stream:
            stream.write((tmp_path / "sales.parquet").read_bytes())
    for name in ("items", "sales", "customers"):
        mapping.write_text(mapping.read_text().replace(f"files: {name}.csv", f"files: s3://shop/data/{name}.csv"))
    return mapping


def read(mapping, table):
    with open_duckdb() as connection:
        query = TablesSource(mapping).read(connection, since=None, until=NOW, state={}).queries[table]
        return connection.sql(query).to_arrow_table().to_pylist()


def test_objects_give_the_rows_of_the_same_files(bucket, tmp_path):
    in_bucket = read(bucket, "items")
    assert {row.pop("source") for row in in_bucket} == {"s3://shop/data/items.csv"}
    bucket.write_text(MAPPING)
    here = read(bucket, "items")
    assert {row.pop("source") for row in here} == {"items.csv"}
    assert in_bucket == here


def test_wildcards_match_objects(bucket):
    one = len(read(bucket, "events"))
    bucket.write_text(bucket.read_text().replace("s3://shop/data/sales.csv", "s3://shop/days/*/*.parquet"))
    rows = read(bucket, "events")
    assert len(rows) == 2 * one
    assert {row["source"] for row in rows} == {f"s3://shop/days/2026-01-0{day}/sales.parquet" for day in (1, 2)}


def test_object_that_does_not_exist_is_named(bucket):
    bucket.write_text(bucket.read_text().replace("data/items.csv", "data/item.csv"))
    with pytest.raises(ConfigError, match=r"nothing matches s3://shop/data/item.csv"):
        read(bucket, "items")


def test_store_that_does_not_answer_is_one_sentence(bucket, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(DataError, match=r"cannot be listed .*AWS_ENDPOINT_URL") as failure:
        read(bucket, "items")
    assert "secret-word" not in str(failure.value)
    assert "\n" not in str(failure.value)

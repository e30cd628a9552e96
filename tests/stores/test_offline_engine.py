"""Which engine Feast gets, and that Spark knows what DuckDB knows."""

import importlib.util
import shutil

import pyarrow as pa
import pytest
import yaml

from pipelines.config import PROFILES, FeatureStoreConfig, HeadraceConfig
from pipelines.errors import ConfigError
from pipelines.places import Places
from pipelines.progress import SilentProgress
from pipelines.stores.feature_store import FeatureStoreClient
from pipelines.stores.offline_engine import engine_settings
from tests.stores.test_feature_store import EVENTS, UNTIL, feature_store, questions
from tests.toys.event_tables import day

SPARK = importlib.util.find_spec("pyspark") is not None
needs_spark = pytest.mark.skipif(
    not (SPARK and shutil.which("java")), reason="pyspark or Java is not installed (the extra `spark`)"
)


def test_duckdb_is_the_default():
    assert engine_settings(FeatureStoreConfig()) == {"offline_store": {"type": "duckdb"}}


@pytest.mark.skipif(SPARK, reason="pyspark is installed")
def test_without_pyspark_the_error_names_the_extra():
    with pytest.raises(ConfigError, match=r"pip install .* 'headrace\[spark\]'"):
        engine_settings(FeatureStoreConfig(offline_store="spark"))


def test_profile_of_spark_is_read():
    values = yaml.safe_load((PROFILES / "spark.yaml").read_text(encoding="utf-8"))
    assert HeadraceConfig.model_validate(values).feature_store.offline_store == "spark"


@pytest.mark.slow
@needs_spark
@pytest.mark.filterwarnings("ignore")
def test_spark_joins_and_materializes_as_duckdb_does(tmp_path):
    embedded = feature_store(tmp_path, EVENTS)
    spark = FeatureStoreClient(
        places=Places(tmp_path),
        environment={},
        engine=FeatureStoreConfig(offline_store="spark", spark_conf={"spark.master": "local[2]"}),
    )
    asked = questions(
        ("u", day(2.4)), ("u", day(2.5)), ("v", day(9)), ("stranger", day(9)), ("u", day(0)), ("u", day(60))
    )
    wanted = embedded.user_features(asked)
    assert spark.user_features(asked).to_pylist() == wanted.to_pylist()
    labels = pa.array(["x", "y"])
    assert spark.check_canary(pa.array([day(3), day(4)], pa.timestamp("us", "UTC")), labels) == 6
    assert spark.materialize_items(UNTIL, None, SilentProgress())["item_statistics"] == 3

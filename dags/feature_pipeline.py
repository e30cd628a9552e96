"""When tables and features are refreshed: every hour."""

from datetime import datetime, timedelta
from typing import Any

from airflow.sdk import Asset, dag, task

TABLES = Asset(name="tables", uri="headrace://tables")
FEATURES = Asset(name="features", uri="headrace://features")

DOC = """
### feature_pipeline
Brings new rows in, checks them and refreshes the features that training and the service read.

`ingest_tables` → `validate_tables` (updates the asset *tables*) → `build_features` → `materialize_features`
(updates the asset *features*) → `embed_new_items` (items that the live bundle does not have get a vector from their
text, and the service finds and recommends them at once). An hour in which nothing arrived is fine: every step says so
and ends.

**When it fails**
- *A red task without a retry* is bad data or a wrong setting. Its last log line names the table, the rule, the
  first rows and what to do. Mend the source (or the mapping), then clear the task: nothing half-written is left.
- *A red task after three tries* is a store that does not answer (a lock, a full disk, Feast's online store).
  Mend the store, then clear the task.
- Rejected rows lie in `quarantine/<window>/` below `HEADRACE_HOME`, each with its reason; the Data Docs,
  `great_expectations/index.html`, show every rule.
- Killing a task is safe: run it again.
"""


@dag(
    schedule="@hourly",
    start_date=datetime(2025, 1, 1),
    catchup=False,
    max_active_runs=1,
    default_args={"retries": 2, "retry_delay": timedelta(seconds=30), "owner": "headrace"},
    tags=["headrace"],
    doc_md=DOC,
)
def feature_pipeline() -> None:
    @task
    def ingest_tables() -> dict[str, Any]:
        from pipelines.airflow_tasks import run_task

        return run_task("ingest_tables")

    @task(outlets=[TABLES])
    def validate_tables(window: dict[str, Any]) -> dict[str, Any]:
        from pipelines.airflow_tasks import run_task

        return run_task("validate_tables", run=window["run"])

    @task
    def build_features(validated: dict[str, Any]) -> dict[str, Any]:
        from pipelines.airflow_tasks import run_task

        return run_task("build_features", run=validated["run"])

    @task(outlets=[FEATURES])
    def materialize_features(features: dict[str, Any]) -> dict[str, Any]:
        from pipelines.airflow_tasks import run_task

        return run_task("materialize_features", run=features["run"])

    @task
    def embed_new_items(features: dict[str, Any]) -> dict[str, Any]:
        from pipelines.airflow_tasks import run_task

        return run_task("embed_new_items", run=features["run"])

    embed_new_items(materialize_features(build_features(validate_tables(ingest_tables()))))


feature_pipeline()

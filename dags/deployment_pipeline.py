"""When a champion goes live: as soon as there is a new one."""

from datetime import datetime, timedelta
from typing import Any

from airflow.sdk import Asset, dag, task

CHAMPION = Asset(name="champion", uri="headrace://champion")

DOC = """
### deployment_pipeline
Brings the champion to the service. Woken by the asset *champion*.

`build_bento` (a Bento that contains the bundle, for machines that serve without this disk) → `deploy_bundle` (checks
every file's SHA-256, loads the bundle, asks it questions, and only then moves the pointer that the running service
watches; the service swaps without a failed request).

**When it fails**
- The old bundle goes on serving: the pointer moves last.
- *A red task without a retry* is a bundle that is incomplete or was changed. Its last log line names the file. Train
  again (`training_pipeline` with `force`), or take the previous champion (`rollback`).
- *A red task after three tries* is a store that does not answer. Mend it, then clear the task.
"""


@dag(
    schedule=[CHAMPION],
    start_date=datetime(2025, 1, 1),
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=False,
    default_args={"retries": 2, "retry_delay": timedelta(seconds=30), "owner": "headrace"},
    tags=["headrace"],
    doc_md=DOC,
)
def deployment_pipeline() -> None:
    @task
    def build_bento() -> dict[str, Any]:
        from pipelines.airflow_tasks import run_task

        return run_task("build_bento")

    @task
    def deploy_bundle(bento: dict[str, Any]) -> dict[str, Any]:
        from pipelines.airflow_tasks import run_task

        return run_task("deploy_bundle", bundle=bento["bundle"])

    deploy_bundle(build_bento())


deployment_pipeline()

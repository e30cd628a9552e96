"""When a champion goes live: as soon as there is a new one."""

from datetime import datetime, timedelta
from typing import Any

from airflow.sdk import Asset, dag, task

CHAMPION = Asset(name="champion", uri="headrace://champion")

DOC = """
### deployment_pipeline
Brings the champion to the service. Woken by the asset *champion*.

`build_bento` (a Bento that contains the bundle, for machines that serve without this disk) → `deploy_bundle` (checks
every file's SHA-256, lets the bundle answer kept requests of users in a process of its own, moves the pointer that the
running service watches, and waits until the service answers from it; no request fails) → `prune_bundles` (removes what
`deployment.keep_champions` and `keep_days` do not keep; the registry has copies).

**When it fails**
- The old bundle goes on serving: the pointer moves last, and goes back where the service cannot open the new bundle.
- *A red `deploy_bundle` without a retry* is a bundle that is incomplete, was changed, gives bad answers, is too slow
  (`deployment.max_median_ms`) or hangs (`deployment.trial_timeout_s`). Its last log line says which. The alias is
  back on the champion before. Train again (`training_pipeline` with `force`).
- *A red task after three tries* is a store that does not answer, or a service that did not follow the pointer in
  `deployment.swap_timeout_s`. Mend it, then clear the task.
- *A red `prune_bundles`* removed nothing that is needed; clear it once the registry answers.
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

    @task
    def prune_bundles() -> dict[str, Any]:
        from pipelines.airflow_tasks import run_task

        return run_task("prune_bundles")

    deploy_bundle(build_bento()) >> prune_bundles()


deployment_pipeline()

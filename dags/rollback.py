"""When a champion turns out to be wrong: by hand."""

from datetime import datetime, timedelta
from typing import Any

from airflow.sdk import Param, dag, get_current_context, task

DOC = """
### rollback
Gives the champion alias back and deploys that bundle. Only by hand.

`rollback_champion` (to the previous champion, or to the bundle named by `to`) → `deploy_bundle` (checks its files,
moves the pointer that the running service watches, and waits until the service answers from it). The bundle was live
before, so it does not rehearse; one that was removed from this disk is fetched from the registry.

`headrace models` lists the bundles that `to` may name. `headrace rollback` does the same from a shell, in seconds.

**When it fails**
- `rollback_champion`: there is no earlier champion, or `to` names no registered bundle; its log lists those there are.
- `deploy_bundle`: that bundle's files are incomplete or were changed; its log names the file. What was live stays live.
  Trigger this DAG again with another `to`.
"""


@dag(
    schedule=None,
    start_date=datetime(2025, 1, 1),
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=False,
    default_args={"retries": 2, "retry_delay": timedelta(seconds=10), "owner": "headrace"},
    params={"to": Param("", type="string", description="Bundle id; empty means the previous champion.")},
    tags=["headrace"],
    doc_md=DOC,
)
def rollback() -> None:
    # Never retried: each call without `to` goes one champion further back.
    @task(retries=0)
    def rollback_champion() -> dict[str, Any]:
        from pipelines.airflow_tasks import run_task

        return run_task("rollback_champion", to=get_current_context()["params"]["to"])

    @task
    def deploy_bundle(decision: dict[str, Any]) -> dict[str, Any]:
        from pipelines.airflow_tasks import run_task

        return run_task("deploy_bundle", bundle=decision["champion"], known=True)

    deploy_bundle(rollback_champion())


rollback()

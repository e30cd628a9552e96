"""When what was served is compared with what is known: every day."""

from datetime import datetime, timedelta
from typing import Any

from airflow.sdk import dag, task

DOC = """
### monitoring
Looks at what the service really did.

`audit_skew` recomputes the features of a sample of requests from the offline store, as of the moments at which they
were served, and reports the share that differs, per feature and with examples: in MLflow (`skew.<feature>`) and as a
page below `HEADRACE_HOME`. A difference is a result, not a failure; it should be 0.

**When it fails**
- *A red task after three tries* is a store that does not answer (MLflow, Feast, a lock), or a shop whose features were
  never built: run `feature_pipeline` first. Clear the task then.
- Killing it is safe: the requests stay where they are until they are too old to matter.
"""


@dag(
    schedule="@daily",
    start_date=datetime(2025, 1, 1),
    catchup=False,
    max_active_runs=1,
    default_args={"retries": 2, "retry_delay": timedelta(seconds=30), "owner": "headrace"},
    tags=["headrace"],
    doc_md=DOC,
)
def monitoring() -> None:
    @task
    def audit_skew() -> dict[str, Any]:
        from pipelines.airflow_tasks import run_task

        return run_task("audit_skew")

    audit_skew()


monitoring()

"""When a challenger is trained: daily, and by hand with parameters."""

from datetime import datetime, timedelta
from typing import Any

from airflow.sdk import Asset, Param, dag, get_current_context, task

FEATURES = Asset(name="features", uri="headrace://features")
CHAMPION = Asset(name="champion", uri="headrace://champion")

DOC = """
### training_pipeline
Trains a challenger from the champion on what is new since its receipt and on a sample of older rows, compresses it,
measures it against the champion and the baselines on the same test window, and promotes it if it passes the gate.

`build_training_set` → `check_leaks` → `finetune_model` → `compress_model` → `evaluate_model` → `promote_challenger`
(the gate; updates the asset *champion*, which wakes `deployment_pipeline`).

**Skipped is an answer, not a failure.** `build_training_set` is skipped where nothing is new since the champion was
trained. `promote_challenger` is skipped where the gate says no: the champion stays, and the reasons are in the task's
log, in the run's tags in MLflow and in the evaluation report.

**By hand** ("Trigger", then fill in what you want to change): `window_days`, `encoder_steps`, `tower_steps`, `until`,
a day (UTC) from which on baskets do not count, `from_scratch`, which trains from the pre-trained encoder on the whole
window, and `force`, which trains although nothing is new and promotes although the gate says no.

**When it fails**
- *A red `build_training_set` that names a receipt*: the champion has read that window already. The tables are those of
  an older backup, or settings were changed without new data: trigger the DAG with `from_scratch`.
- *A red `check_leaks`* means that a feature knows what it is to predict. Its last log line names the column; nothing
  was trained. Mend the feature (or the clock of the source that fills it), then trigger the DAG again.
- *Another red task without a retry* is a wrong setting, a broken bundle or unusable data: its last log line says which
  and what to do. Mend it, then clear the task.
- *A red task after three tries* is a store that does not answer (MLflow, Feast, a lock, a full disk).
- Killing a task is safe: cleared, it goes on from the last checkpoint. The champion goes on serving all the while.
"""


@dag(
    schedule="@daily",
    start_date=datetime(2025, 1, 1),
    catchup=False,
    max_active_runs=1,
    default_args={"retries": 2, "retry_delay": timedelta(seconds=30), "owner": "headrace"},
    params={
        "window_days": Param(None, type=["null", "integer"], minimum=1, description="Days of training rows."),
        "encoder_steps": Param(None, type=["null", "integer"], minimum=0, description="Steps that tune the encoder."),
        "tower_steps": Param(None, type=["null", "integer"], minimum=1, description="Steps at most for the towers."),
        "until": Param(None, type=["null", "string"], format="date", description="Take baskets before this day (UTC)."),
        "from_scratch": Param(False, type="boolean", description="Train from zero on the whole window."),
        "force": Param(False, type="boolean", description="Train although nothing is new; promote despite the gate."),
    },
    tags=["headrace"],
    doc_md=DOC,
)
def training_pipeline() -> None:
    @task(inlets=[FEATURES])
    def build_training_set() -> dict[str, Any]:
        from pipelines.airflow_tasks import run_task

        context = get_current_context()
        params = dict(context["params"])
        # The DAG run's id marks a forced run, so that a retried task finds the same training run again.
        force = context["dag_run"].run_id if params.pop("force") else ""
        return run_task("build_training_set", force=force, **params)

    @task
    def check_leaks(training_set: dict[str, Any]) -> dict[str, Any]:
        from pipelines.airflow_tasks import run_task

        return run_task("check_leaks", run=training_set["run"])

    @task
    def finetune_model(checked: dict[str, Any]) -> dict[str, Any]:
        from pipelines.airflow_tasks import run_task

        return run_task("finetune_model", run=checked["run"])

    @task
    def compress_model(trained: dict[str, Any]) -> dict[str, Any]:
        from pipelines.airflow_tasks import run_task

        return run_task("compress_model", run=trained["run"])

    @task
    def evaluate_model(compressed: dict[str, Any]) -> dict[str, Any]:
        from pipelines.airflow_tasks import run_task

        return run_task("evaluate_model", run=compressed["run"])

    @task(outlets=[CHAMPION])
    def promote_challenger(report: dict[str, Any]) -> dict[str, Any]:
        from pipelines.airflow_tasks import run_task

        return run_task("promote_challenger", run=report["run"])

    promote_challenger(evaluate_model(compress_model(finetune_model(check_leaks(build_training_set())))))


training_pipeline()

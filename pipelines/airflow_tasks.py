"""What a DAG's task calls: one step, with its outcome said in Airflow's words."""

from typing import Any


def run_task(step: str, **parameters: Any) -> dict[str, Any]:
    """Run a step inside an Airflow task and return its record.

    Raises:
        AirflowFailException: the data, a setting or a bundle is wrong, or it is a bug. Airflow does not retry it.
        AirflowSkipException: there is nothing to do, or the gate said no.
        StoreError, OSError: a store or the machine did not answer. Airflow retries it.
    """
    from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

    from pipelines.errors import HeadraceError, StoreError
    from pipelines.wiring import NothingNew, run_step

    try:
        record = run_step(step, **parameters)
    except NothingNew as reason:
        raise AirflowSkipException(str(reason)) from None
    except (StoreError, OSError):
        raise
    except HeadraceError as error:
        raise AirflowFailException(f"{step}: {error}") from error
    except Exception as error:  # a bug: a retry only delays its traceback
        raise AirflowFailException(f"{step}: {error!r}") from error
    if record.get("promoted") is False:
        raise AirflowSkipException("The champion stays: " + "; ".join(record["reasons"]))
    return record

"""What MLflow's page shows of our experiment: in its mode for training, with the columns that tell runs apart."""

import json
from collections.abc import Mapping

VIEW = "headrace"
"""Name of the shared view."""
COLUMNS = (
    "attributes.`Created`",
    "params.`kind`",
    "params.`query_tower`",
    "tags.`promotion`",
    "metrics.`recall_at_10`",
    "metrics.`ndcg_at_10`",
    "metrics.`next_basket.recall_at_10`",
    "metrics.`search.ndcg_at_10`",
    "metrics.`gain_over_champion.recall_at_10`",
    "metrics.`recommend_p50_ms`",
    "metrics.`search_p50_ms`",
    "metrics.`memory_mib`",
    "metrics.`size_mib`",
)
_NOTE = """\
One run a training; its steps are the runs below it, its bundle is a version of the model `headrace`.

- `recall_at_10`, `ndcg_at_10`, `mrr`: items that are new to the user; `next_basket.*`: the whole next basket;
  `search.*`: queries. Every item is ranked, on the test window in `test_window`.
- `gain_over_champion.*`: paired with the champion of that time; `.low` and `.high` end the 95 % interval.
- `cold items.*`, `tail items.*`, …: the same metrics of a part of the rows.
- `recommend_p50_ms`, `search_p50_ms`: time of an answer through the packaged bundle; `memory_mib`, `size_mib`: what it
  takes.
- Tags `promotion` and `promotion.reasons`: what the gate decided. The page of the evaluation is an artifact of the
  step `evaluate_model`.
- The run `data` has a point for each window of data that was accepted.
"""

EXPERIMENT_TAGS: Mapping[str, str] = {
    "mlflow.experimentKind": "custom_model_development",
    "mlflow.note.content": _NOTE,
    f"mlflow.sharedViewState.{VIEW}": json.dumps({"selectedColumns": list(COLUMNS)}),
}


def runs_address(server: str, experiment_id: str) -> str:
    """Return the address of the page that compares runs, with our columns."""
    return f"{server}/#/experiments/{experiment_id}/runs?workflowType=machine_learning&viewStateShareKey={VIEW}"

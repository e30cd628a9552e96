"""What a registered bundle takes and gives, as MLflow shows it beside a model version."""

MLMODEL = "MLmodel"
"""File that MLflow looks for in a model's folder."""
FLAVOR = "headrace_bundle"


def bundle_signature(run_id: str, artifact: str) -> str:
    """Return the text of an `MLmodel` file: a query, or what a user did, to items with scores, best first.

    `pipelines.inference.bundle.load_bundle` opens the folder, so there is no other flavor.

    Args:
        run_id: MLflow run that holds the bundle.
        artifact: The bundle's folder among the artifacts of that run.
    """
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema
    from mlflow.types.schema import Array

    signature = ModelSignature(
        inputs=Schema(
            [
                ColSpec("string", "query", required=False),
                ColSpec(Array("string"), "item_ids", required=False),
                ColSpec(Array("string"), "event_types", required=False),
                ColSpec(Array("datetime"), "event_times", required=False),
            ]
        ),
        outputs=Schema([ColSpec("string", "item_id"), ColSpec("string", "title"), ColSpec("double", "score")]),
        params=ParamSchema([ParamSpec("k", "long", 10)]),
    )
    flavors = {FLAVOR: {"loader": "pipelines.inference.bundle.load_bundle"}}
    text: str = Model(artifact_path=artifact, run_id=run_id, flavors=flavors, signature=signature).to_yaml()
    return text

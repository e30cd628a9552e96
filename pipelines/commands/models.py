"""`headrace models`: every version with what it was trained on, how good it is, and what it does now."""

from pydantic import Field

from pipelines.places import Places
from pipelines.rollout.plan import CANARY, SHADOW
from pipelines.schemas import EvaluationReport, Metric, Record
from pipelines.stores.model_registry import CHALLENGER, CHAMPION, ModelRegistry, ModelVersion
from pipelines.stores.service_status import running_services
from pipelines.stores.serving_pointer import read_pointer
from pipelines.training.receipt import Receipt, find_receipt

_OWN = "headrace"
_SHOWN = ("recall@10", "ndcg@10")


class ModelRow(Record):
    """One version."""

    version: str
    bundle: str
    run: str
    aliases: tuple[str, ...]
    roles: tuple[str, ...] = Field(description="What it does now: live, live before, champion, shadow 10 %, pruned, …")
    metrics: dict[str, Metric] = Field(description="Of the evaluation, with intervals.")
    receipt: Receipt | None = Field(description="What training read; null where it left none.")
    decision: str = Field(description="How the gate decided, and what happened since.")
    tags: dict[str, str]


def model_rows(registry: ModelRegistry, places: Places) -> list[ModelRow]:
    """Return every version, oldest first."""
    live = read_pointer(places.current_bundle)
    answering = {service.bundle for service in running_services(places.services)}
    rows = []
    for version in registry.versions():
        folder = places.bundles / version.bundle
        roles = [
            *(["live"] if live and live.bundle == version.bundle else []),
            *(["answering"] if version.bundle in answering else []),
            *(["live before"] if live and live.previous == version.bundle else []),
            *(alias for alias in (CHAMPION, CHALLENGER) if alias in version.aliases),
            *(_share(kind, version) for kind in (SHADOW, CANARY) if kind in version.aliases),
            *([] if folder.is_dir() else ["pruned"]),
        ]
        rows.append(
            ModelRow(
                version=version.version,
                bundle=version.bundle,
                run=version.run,
                aliases=version.aliases,
                roles=tuple(roles),
                metrics=_metrics(registry.report(version.version)),
                receipt=find_receipt(folder) or find_receipt(places.training / version.run / "model"),
                decision=_decision(version),
                tags=version.tags,
            )
        )
    return rows


def as_text(row: ModelRow) -> str:
    """Return two lines for a terminal."""
    metrics = ", ".join(f"{name} {_interval(metric)}" for name, metric in row.metrics.items()) or "not evaluated"
    if row.receipt is None:
        read = "no receipt"
    else:
        receipt = row.receipt
        read = (
            f"read {receipt.since:%Y-%m-%d} to {receipt.until:%Y-%m-%d}, {receipt.read.new_rows:,} new and "
            f"{receipt.read.replayed_rows:,} replayed rows, receipt {receipt.read.fingerprint[:8]}"
        )
    first = f"{row.version:>4}  {row.bundle:<24}  {', '.join(row.roles)}".rstrip()
    return f"{first}\n      {metrics}; {read}\n      {row.decision or 'not decided'}"


def _decision(version: ModelVersion) -> str:
    tags = version.tags
    parts = [
        " ".join(part for part in (tags.get("promotion"), tags.get("promotion_reasons")) if part),
        f"rolled back to {tags['rolled_back_to']}" if tags.get("rolled_back_to") else "",
        f"did not go live: {tags['not_deployed_because']}" if tags.get("not_deployed_because") else "",
        f"canary stopped {tags['canary_stopped']}" if tags.get("canary_stopped") else "",
    ]
    return "; ".join(part for part in parts if part)


def _metrics(report: EvaluationReport | None) -> dict[str, Metric]:
    own = report.metrics.get(_OWN, {}) if report else {}
    return {name: own[name] for name in _SHOWN if name in own}


def _share(kind: str, version: ModelVersion) -> str:
    share = version.tags.get(f"{kind}_share")
    return f"{kind} {float(share):.0%}" if share else kind


def _interval(metric: Metric) -> str:
    if metric.low is None or metric.high is None:
        return f"{metric.value:.4f}"
    return f"{metric.value:.4f} [{metric.low:.4f}, {metric.high:.4f}]"

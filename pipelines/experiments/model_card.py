"""What a registered version is, in a few lines of Markdown, for a person who looks at it in MLflow."""

from collections.abc import Mapping

from pipelines.inference.manifest import Manifest
from pipelines.schemas import EvaluationReport, Metric
from pipelines.training.receipt import Receipt

_OWN = "headrace"
_SHOWN = {
    "recall@10": "recall@10, items new to the user",
    "ndcg@10": "NDCG@10, items new to the user",
    "next_basket.recall@10": "recall@10, whole next basket",
    "search.ndcg@10": "NDCG@10, search",
}


def model_card(manifest: Manifest, receipt: Receipt | None, report: EvaluationReport | None = None) -> str:
    """Return Markdown: what the bundle holds, what training read, how good it was, how to serve it.

    Args:
        receipt: None where training left none.
        report: None before the evaluation.
    """
    origin = f"bundle `{manifest.parent}`" if manifest.parent else f"the pre-trained encoder `{manifest.encoder}`"
    tower = "a smaller query tower" if manifest.has_query_tower else "its int8 encoder"
    first = "a smaller tower reads items that arrive before it; " if manifest.has_item_text_tower else ""
    lines = [
        f"Searches and recommends among {manifest.n_items:,} items. Made {manifest.created_at:%Y-%m-%d} from {origin}; "
        f"{tower} reads queries; {first}{manifest.size_mib:.0f} MiB.",
        _read_rows(receipt),
        *([_measured(report)] if report is not None else []),
        f"To serve it: `headrace deploy_bundle --bundle {manifest.bundle_id}`; to try it on some users: "
        f"`headrace canary {manifest.bundle_id} --share 0.05`.",
    ]
    return "\n\n".join(lines)


def _read_rows(receipt: Receipt | None) -> str:
    if receipt is None:
        return "What training read is unknown: there is no receipt."
    return (
        f"Training read {receipt.read.new_rows:,} new rows of {receipt.since:%Y-%m-%d} to {receipt.until:%Y-%m-%d} and "
        f"replayed {receipt.read.replayed_rows:,} older ones (receipt `{receipt.read.fingerprint[:8]}`)."
    )


def _measured(report: EvaluationReport) -> str:
    window = f"{report.test_start:%Y-%m-%d} to {report.test_end:%Y-%m-%d}"
    own: Mapping[str, Metric] = report.metrics.get(_OWN, {})
    found = [f"{words} **{_interval(own[name])}**" for name, words in _SHOWN.items() if name in own]
    if not found:
        return f"It was not measured on the test window {window}: " + "; ".join(
            finding.words for finding in report.findings
        )
    return f"On the test window {window}, {report.users:,} users, every item ranked: " + "; ".join(found) + "."


def _interval(metric: Metric) -> str:
    if metric.low is None or metric.high is None:
        return f"{metric.value:.4f}"
    return f"{metric.value:.4f} [{metric.low:.4f}, {metric.high:.4f}]"

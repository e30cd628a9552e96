"""What a person reads of a version in MLflow."""

from datetime import UTC, datetime

from pipelines.experiments.model_card import model_card
from pipelines.inference.manifest import FileEntry, Manifest
from pipelines.schemas import EvaluationReport, Finding, Metric
from pipelines.training.receipt import Receipt, RowsRead

MANIFEST = Manifest(
    format=3,
    bundle_id="b2",
    created_at=datetime(2026, 3, 1, tzinfo=UTC),
    parent="b1",
    dim=8,
    n_items=92_331,
    encoder="toy",
    files={"encoder.onnx": FileEntry(sha256="0", bytes=3 * 2**20)},
)
TOWERS = ("query_tower/model.onnx", "item_text_tower/model.onnx")
RECEIPT = Receipt(
    run="b2",
    generation=1,
    parent=None,
    since=datetime(2026, 2, 1, tzinfo=UTC),
    until=datetime(2026, 2, 8, tzinfo=UTC),
    tables_until=datetime(2026, 2, 20, tzinfo=UTC),
    replay_share=0.8,
    read=RowsRead(
        fingerprint="abcdef0123",
        new_rows=1_000,
        replayed_rows=4_000,
        first=None,
        last=None,
        replayed_first=None,
        replayed_last=None,
    ),
    metrics={},
)


def report(metrics, findings=()):
    return EvaluationReport(
        run="b2",
        bundle="b2",
        test_start=datetime(2026, 2, 15, tzinfo=UTC),
        test_end=datetime(2026, 2, 22, tzinfo=UTC),
        users=1_242,
        metrics=metrics,
        latency_ms={},
        report=None,
        findings=findings,
    )


def test_a_version_says_what_it_is_what_it_read_and_how_good_it_was():
    found = report({"headrace": {"recall@10": Metric(value=0.25, low=0.125, high=0.5), "mrr": Metric(value=1)}})
    assert model_card(MANIFEST, RECEIPT, found).split("\n\n") == [
        "Searches and recommends among 92,331 items. Made 2026-03-01 from bundle `b1`; its int8 encoder reads queries; "
        "3 MiB.",
        "Training read 1,000 new rows of 2026-02-01 to 2026-02-08 and replayed 4,000 older ones (receipt `abcdef01`).",
        "On the test window 2026-02-15 to 2026-02-22, 1,242 users, every item ranked: recall@10, items new to the user "
        "**0.2500 [0.1250, 0.5000]**.",
        "To serve it: `headrace deploy_bundle --bundle b2`; to try it on some users: "
        "`headrace canary b2 --share 0.05`.",
    ]


def test_what_is_not_known_is_not_made_up():
    first = MANIFEST.model_copy(update={"parent": None, "files": dict.fromkeys(TOWERS, MANIFEST.files["encoder.onnx"])})
    lines = model_card(first, None).split("\n\n")
    assert (
        "encoder `toy`; a smaller query tower reads queries; a smaller tower reads items that arrive before it;"
        in lines[0]
    )
    assert lines[1] == "What training read is unknown: there is no receipt."
    assert len(lines) == 3
    closed = Finding(name="opens", passed=False, words="the challenger cannot be opened")
    unmeasured = model_card(first, None, report({}, (closed,))).split("\n\n")[2]
    assert (
        unmeasured == "It was not measured on the test window 2026-02-15 to 2026-02-22: the challenger cannot be opened"
    )

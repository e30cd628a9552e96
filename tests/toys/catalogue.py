"""A shop small enough to know by heart: 60 items in 6 categories, 30 users, 1,500 purchases in 60 days.

Items stand in one long row, `item-00` to `item-59`, ten a category. Every user walks along that row: the user with
number u starts at item (u mod 6) * 10 and buys the next items in order, in baskets of 3, 3 and 4, a basket every four
days, 15 baskets, 50 purchases. So what comes next follows from what was bought last, and is always new to the user.
"""

import csv
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipelines.config import PreparationConfig
from pipelines.progress import SilentProgress
from pipelines.pseudonyms import Pseudonymizer
from pipelines.schemas import EVENTS, ITEMS, USERS, IngestedWindow
from pipelines.sources.tables import TablesSource
from pipelines.steps.ingest_tables import ingest_tables
from pipelines.stores.table_store import TableStore

START = datetime(2026, 1, 1, tzinfo=UTC)
NOW = datetime(2026, 3, 2, tzinfo=UTC)
"""The moment after the last purchase: 60 days from START."""
DAYS = 60
N_USERS = 30
KEY = b"the toy shop's pseudonym key"
BASKETS = (3, 3, 4)
NOUNS = {
    "Fruit": "apple pear plum cherry grape melon banana orange lemon fig",
    "Bakery": "bread roll bagel croissant muffin pretzel brioche scone toast bun",
    "Dairy": "milk butter cream yogurt kefir cheddar brie feta gouda quark",
    "Drinks": "water cola tonic cider lemonade coffee tea cocoa soda juice",
    "Household": "soap sponge bleach broom bucket mop candle battery napkin foil",
    "Pets": "kibble leash litter chew collar aquarium birdseed hamster hay brush",
}


def _items() -> list[dict[str, str]]:
    rows = []
    for category, nouns in NOUNS.items():
        for noun in nouns.split():
            number = len(rows)
            rows.append(
                {
                    "sku": f"item-{number:02d}",
                    "name": f"{noun.capitalize()}, {category.lower()}, {100 + number} g",
                    "group": category,
                    "maker": "House" if number % 2 else "Mill",
                    "eur": f"{1 + number / 10:.2f}",
                    "aisle": str(number // 10),
                }
            )
    return rows


def _sales() -> list[dict[str, str]]:
    rows = []
    for user in range(N_USERS):
        item = user % 6 * 10
        for visit in range(15):
            at = START + timedelta(days=4 * visit + user % 4, hours=8 + user % 12, minutes=user)
            for line in range(BASKETS[visit % 3]):
                rows.append(
                    {
                        "line": f"sale-{user:02d}-{visit:02d}-{line}",
                        "customer": f"customer {user}",
                        "receipt": f"receipt-{user:02d}-{visit:02d}",
                        "kind": "purchase",
                        "sku": f"item-{item % 60:02d}",
                        "paid": f"{1 + (item % 60) / 10:.2f}",
                        "at": at.isoformat(),
                    }
                )
                item += 1
    return sorted(rows, key=lambda row: (row["at"], row["line"]))


def _customers() -> list[dict[str, str]]:
    return [{"customer": f"customer {user}", "town": ("Upper", "Lower")[user % 2]} for user in range(N_USERS)]


MAPPING = """\
items:
  files: items.csv
  columns: {item_id: sku, title: name, category: group, brand: maker, price: eur}
  constants: {currency: EUR, updated_at: "2026-01-01T00:00:00+00:00"}
  attributes: [aisle]
events:
  files: sales.csv
  columns:
    event_id: line
    user_id: customer
    session_id: receipt
    event_type: kind
    item_id: sku
    value: paid
    event_timestamp: at
    created_timestamp: at
users:
  files: customers.csv
  columns: {user_id: customer}
  attributes: [town]
"""


def write_csv(folder: Path) -> Path:
    """Write the shop as a stranger would keep it: items.csv, sales.csv, customers.csv; return its mapping file."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in (("items", _items()), ("sales", _sales()), ("customers", _customers())):
        with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    mapping = folder / "mapping.yaml"
    mapping.write_text(MAPPING, encoding="utf-8")
    return mapping


def pseudonymizer() -> Pseudonymizer:
    return Pseudonymizer(KEY)


def user_pseudonym(user: int) -> str:
    """Return the pseudonym of the user with this number, 0 to 29."""
    return pseudonymizer().pseudonym(f"customer {user}")


@dataclass(frozen=True)
class ToyCatalogue:
    """The shop in contract form, users as pseudonyms."""

    items: pa.Table
    events: pa.Table
    users: pa.Table


def toy_catalogue() -> ToyCatalogue:
    names = pseudonymizer()
    items = [
        {
            "item_id": row["sku"],
            "title": row["name"],
            "category": row["group"],
            "brand": row["maker"],
            "price": float(row["eur"]),
            "currency": "EUR",
            "attributes": {"aisle": row["aisle"]},
            "available": True,
            "updated_at": START,
        }
        for row in _items()
    ]
    events = [
        {
            "event_id": row["line"],
            "user_id": names.pseudonym(row["customer"]),
            "session_id": row["receipt"],
            "event_type": row["kind"],
            "item_id": row["sku"],
            "value": float(row["paid"]),
            "event_timestamp": datetime.fromisoformat(row["at"]),
            "created_timestamp": datetime.fromisoformat(row["at"]),
        }
        for row in _sales()
    ]
    users = [
        {"user_id": names.pseudonym(row["customer"]), "attributes": {"town": row["town"]}, "consent": True}
        for row in _customers()
    ]
    return ToyCatalogue(
        pa.Table.from_pylist(items, schema=ITEMS),
        pa.Table.from_pylist(events, schema=EVENTS),
        pa.Table.from_pylist(users, schema=USERS),
    )


class NoEvents:
    """The event log of a service that nobody has used yet."""

    def read(self, since: datetime | None, until: datetime) -> pa.Table:
        return EVENTS.empty_table()

    def read_from(
        self, cursor: Any, until: datetime, *, since: datetime | None = None
    ) -> tuple[list[pa.RecordBatch], dict[str, Any]]:
        return [], dict(cursor or {})


def empty_tables(home: Path) -> TableStore:
    return TableStore(home / "tables", quarantine=home / "quarantine", ingested=home / "ingested")


def toy_window(home: Path, *, until: datetime = NOW, items_mapping: str = "") -> tuple[TableStore, IngestedWindow]:
    """Return a table store below `home` and the shop as its first window, read but not validated.

    Args:
        items_mapping: One more line for the mapping of the items.
    """
    tables = empty_tables(home)
    mapping = write_csv(home / "shop")
    if items_mapping:
        mapping.write_text(MAPPING.replace("events:", f"  {items_mapping}\nevents:"), encoding="utf-8")
    window = ingest_tables(
        TablesSource(mapping),
        tables=tables,
        event_log=NoEvents(),
        pseudonymizer=pseudonymizer(),
        preparation=PreparationConfig(),
        late_days=30,
        until=until,
        progress=SilentProgress(),
    )
    return tables, window


def toy_tables(home: Path, items_mapping: str = "") -> TableStore:
    """Return a table store below `home` that holds the shop. Takes less than a second: nothing is validated."""
    tables, window = toy_window(home, items_mapping=items_mapping)
    tables.accept(window, rejections={})
    return tables

"""Which rows have a key that an earlier row of the same table has, found in little memory."""

import math

import duckdb

from pipelines.stores.sql import scalar
from pipelines.validation.rules import KEYS

_PASS_ROWS = 12_000_000
"""Rows whose hashes are counted at once: about 400 MiB."""


def find_repeats(
    connection: duckdb.DuckDBPyConnection, table: str, relation: str, rows: int, *, pass_rows: int = _PASS_ROWS
) -> None:
    """Fill the relation `repeats` with the `row_id` of each row whose key stands in an earlier row.

    Hashes are counted first, a part of them at a time; the keys themselves are compared only where a hash comes twice.

    Args:
        relation: The table with `row_id`, the place of each row.
        pass_rows: Rows whose hashes are counted at once.
    """
    keys = ", ".join(KEYS[table])
    connection.execute("CREATE OR REPLACE TEMP TABLE suspects (hash UBIGINT)")
    passes = math.ceil(rows / pass_rows)
    for number in range(passes):
        part = f"WHERE hash({keys}) % {passes} = {number}" if passes > 1 else ""
        connection.execute(
            f"INSERT INTO suspects SELECT hash({keys}) FROM {relation} {part} GROUP BY 1 HAVING count(*) > 1"
        )
    found = (
        f"SELECT row_id FROM {relation} WHERE hash({keys}) IN (FROM suspects) "
        f"QUALIFY row_number() OVER (PARTITION BY {keys} ORDER BY row_id) > 1"
    )
    nothing = "SELECT 0::BIGINT AS row_id WHERE false"
    suspected = scalar(connection, "SELECT count(*) FROM suspects")
    connection.execute(f"CREATE OR REPLACE TEMP TABLE repeats AS {found if suspected else nothing}")

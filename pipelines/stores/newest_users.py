"""The newest offline row of users, read straight from the feature files, in batches."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipelines.features.user_state import USER_ROWS
from pipelines.stores.feature_files import FeatureFiles
from pipelines.stores.sql import open_duckdb, quoted_list

_USERS = "users"


def newest_user_rows(
    files: FeatureFiles, user_ids: Sequence[str] | None, *, batch_rows: int, spill: Path
) -> Iterator[list[dict[str, Any]]]:
    """Yield the newest row of each user, as USER_ROWS has it, some at a time.

    Only the base and the days since are read: the cost grows with the users, not with the days.

    Args:
        user_ids: Whom to read; those of whom nothing is known are passed over. None: everybody.
        spill: Folder for what does not fit into memory.
    """
    paths = files.since_base(_USERS, files.load())
    if not paths or (user_ids is not None and not user_ids):
        return
    rows = f"read_parquet({quoted_list(paths)})"
    with open_duckdb(spill=spill) as connection:
        wanted = ""
        if user_ids is not None:
            connection.register("wanted", pa.table({"user_id": pa.array(user_ids, pa.string())}))
            wanted = "SEMI JOIN wanted USING (user_id)"
        newest = f"SELECT user_id, max(arrived_at_us) AS arrived_at_us FROM {rows} {wanted} GROUP BY user_id"
        columns = ", ".join(USER_ROWS.names)
        query = f"SELECT {columns} FROM {rows} SEMI JOIN ({newest}) USING (user_id, arrived_at_us)"
        for batch in connection.sql(query).to_arrow_reader(batch_rows):
            yield batch.to_pylist()


def touched_users(files: FeatureFiles, build: int) -> list[str]:
    """Return the users who have rows that builds after `build` wrote."""
    days = [day for day, made in files.load().days.items() if made.build > build and made.rows.get(_USERS)]
    if not days:
        return []
    paths = [files.day_file(_USERS, day) for day in days]
    with open_duckdb() as connection:
        rows = connection.execute(f"SELECT DISTINCT user_id FROM read_parquet({quoted_list(paths)})").fetchall()
    return [user_id for (user_id,) in rows]

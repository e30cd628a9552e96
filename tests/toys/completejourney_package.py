"""The files of the package behind the default data, with lines made by hand."""

from pathlib import Path

import duckdb

_COLUMNS = {
    "products": "product_id, manufacturer_id, department, brand, product_category, product_type, package_size",
    "transactions": "household_id, basket_id, product_id, quantity, sales_value, transaction_timestamp",
    "demographics": "household_id, age, income, home_ownership, marital_status, household_size, household_comp, "
    "kids_count",
}
_DEMOGRAPHICS = "(900, '65+', NULL, 'Homeowner', 'Married', '2', '2 Adults', '0')"
_PRODUCTS = """
    (1, 69, 'GROCERY', 'Private', 'BAG SNACKS', 'POTATO CHIPS', '11 OZ'),
    (2, 70, 'GROCERY', 'National', 'FLUID MILK PRODUCTS', 'FLUID MILK WHITE ONLY', '1 GA'),
    (4, 72, 'GROCERY', 'National', 'ROLLS', 'ROLLS', NULL)"""


def write_package(folder: Path, transactions: str, more_products: str = "") -> Path:
    """Write products 1, 2 and 4, and the given lines: SQL values in the order of the package's columns.

    The files are sorted by all columns, from the first on.
    """
    products = ", ".join(part for part in (_PRODUCTS, more_products) if part)
    values = {"products": products, "transactions": transactions, "demographics": _DEMOGRAPHICS}
    with duckdb.connect() as connection:
        for name, lines in values.items():
            query = f"FROM (VALUES {lines}) AS t({_COLUMNS[name]}) ORDER BY ALL"
            connection.execute(f"COPY ({query}) TO '{folder / name}.parquet' (FORMAT parquet)")
    return folder

"""The default data as a folder, from a package of three products made by hand."""

import duckdb
import pytest

from pipelines.benchmarks.completejourney_folder import write_folder
from pipelines.benchmarks.folder import read_recommend_folder


@pytest.fixture
def package(tmp_path):
    with duckdb.connect() as connection:
        for name, query in {
            "products": """VALUES
                (1, 69, 'GROCERY', 'Private', 'BAG SNACKS', 'POTATO CHIPS', '11 OZ'),
                (2, 70, 'GROCERY', 'National', 'FLUID MILK PRODUCTS', 'FLUID MILK WHITE ONLY', '1 GA'),
                (4, 72, 'GROCERY', 'National', 'ROLLS', 'ROLLS', NULL)
                AS t(product_id, manufacturer_id, department, brand, product_category, product_type, package_size)""",
            "transactions": """VALUES
                (900, 10, 1, 1, 1.00, TIMESTAMP '2017-01-01 10:00:00'),
                (900, 10, 2, 2, 6.00, TIMESTAMP '2017-01-01 10:00:00'),
                (900, 11, 1, 1, 2.00, TIMESTAMP '2017-03-01 11:00:00'),
                (900, 11, 99, 1, 2.00, TIMESTAMP '2017-03-01 11:00:00'),
                (901, 14, 4, 1, 5.00, TIMESTAMP '2017-11-01 12:00:00'),
                (901, 15, 1, 1, 5.00, TIMESTAMP '2017-12-31 12:00:00')
                AS t(household_id, basket_id, product_id, quantity, sales_value, transaction_timestamp)""",
            "demographics": """VALUES (900, '65+', NULL, 'Homeowner', 'Married', '2', '2 Adults', '0')
                AS t(household_id, age, income, home_ownership, marital_status, household_size, household_comp,
                     kids_count)""",
        }.items():
            connection.execute(f"COPY (FROM ({query})) TO '{tmp_path / name}.parquet' (FORMAT parquet)")
    return tmp_path


def test_baskets_and_items_are_those_of_the_package(package, tmp_path):
    read = read_recommend_folder(write_folder(tmp_path / "made", package))
    assert read.items.item_ids == ["1", "2", "4"]
    assert read.items.titles[0] == "Potato chips, bag snacks, private label, 11 oz"
    assert read.user_ids == ["900", "901"]
    assert read.rows.tolist() == [0, 1, 0, 2, 0]  # product 99 is in no catalogue
    assert read.baskets.tolist() == [0, 0, 1, 2, 3]
    assert read.positions is None


def test_a_price_does_not_tell_what_is_sold_in_a_window(package, tmp_path):
    items = read_recommend_folder(write_folder(tmp_path / "made", package)).items
    assert items.prices[0] > 0
    assert items.prices[2] != items.prices[2]  # first sold in November: none


def test_a_folder_that_is_there_stays(package, tmp_path):
    made = write_folder(tmp_path / "made", package)
    before = (made / "interactions.parquet").stat().st_mtime_ns
    assert write_folder(made, tmp_path / "nowhere") == made
    assert (made / "interactions.parquet").stat().st_mtime_ns == before

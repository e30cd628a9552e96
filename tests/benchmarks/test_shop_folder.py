import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.benchmarks.folder import read_recommend_folder
from pipelines.benchmarks.shop_folder import shop_folder
from pipelines.errors import DataError
from tests.toys.catalogue import write_csv


def test_a_mapping_file_becomes_a_folder(tmp_path):
    mapping = write_csv(tmp_path / "shop")
    folder, name = shop_folder(str(mapping), tmp_path / "work")
    assert name == "mapping"
    found = read_recommend_folder(folder)
    assert (len(found.items), len(found.user_ids), len(found.rows)) == (60, 30, 1_500)
    assert len(set(found.baskets.tolist())) == 30 * 15


def test_invoice_lines_of_online_retail_are_read_through_the_mapping_that_is_kept(tmp_path):
    lines = {
        "InvoiceNo": ["1", "1", "C2", "3"],
        "StockCode": ["10001", "10002", "10001", "POST"],
        "Description": ["RED BAG", "BLUE MUG", "RED BAG", "POSTAGE"],
        "Quantity": [1, 2, -1, 1],
        "InvoiceDate": ["2011-01-03 10:00:00"] * 4,
        "UnitPrice": [1.0, 2.0, 1.0, 5.0],
        "CustomerID": ["7", "7", "7", "8"],
        "Country": ["France"] * 4,
    }
    (tmp_path / "retail").mkdir()
    pq.write_table(pa.table(lines), tmp_path / "retail" / "lines.parquet")
    folder, name = shop_folder(str(tmp_path / "retail"), tmp_path / "work")
    found = read_recommend_folder(folder)
    assert name == "retail"
    assert found.items.titles == ["RED BAG", "BLUE MUG"]
    assert found.user_ids == ["7"]
    assert found.rows.tolist() == [0, 1]


def test_a_folder_in_form_is_taken_as_it_is_and_anything_else_is_a_sentence(tmp_path):
    (tmp_path / "interactions.parquet").touch()
    assert shop_folder(str(tmp_path), tmp_path / "work") == (tmp_path, tmp_path.name)
    with pytest.raises(
        DataError, match=r"nowhere is no data for this bench \(found: nothing\): give a folder with items"
    ):
        shop_folder(str(tmp_path / "nowhere"), tmp_path / "work")

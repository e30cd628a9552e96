"""Till shorthand and what it reads as."""

import pytest

from pipelines.sources.grocery_names import readable_name, readable_size, title


@pytest.mark.parametrize(
    ("shorthand", "name"),
    [
        ("POTATO CHIPS", "potato chips"),
        ("SFT DRNK 2 LITER BTL CARB INCL", "soft drink 2 liter bottle carbonated"),
        ("SFT DRNK SNGL SRV BTL CARB (EX", "soft drink single serve bottle carbonated"),
        ("FRZN MEAT/MEAT DINNERS", "frozen meat and meat dinners"),
        ("NON-CARB JCE(OVER 50% JCE)", "non-carbonated juice over 50% juice"),
        ("CAKES: SHEET", "cakes sheet"),
        ("ELECTRICAL SUPPPLIES", "electrical supplies"),
        ("FRZN SS PREMIUM ENTREES/DNRS/N", "frozen ss premium entrees and dinners"),
        ("DRUG GM", "drug general merchandise"),
        ("(EX", None),
        ("", None),
        (None, None),
    ],
)
def test_readable_name(shorthand, name):
    assert readable_name(shorthand) == name


@pytest.mark.parametrize(
    ("shorthand", "size"),
    [
        ("11 OZ", "11 oz"),
        (".5 OZ", "0.5 oz"),
        ("8/6.75 OZ", "8 x 6.75 oz"),
        ("6-3.5 OZ", "6 x 3.5 oz"),
        ("(72) 5 OZ", "72 x 5 oz"),
        ("12 PK/12 OZ", "12 x 12 oz"),
        ("1/2 GAL", "1/2 gal"),
        ("1 GA", "1 gal"),
        (None, None),
    ],
)
def test_readable_size(shorthand, size):
    assert readable_size(shorthand) == size


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        (
            ("potato chips", "bag snacks", "grocery", "private label", "11 oz"),
            "Potato chips, bag snacks, private label, 11 oz",
        ),
        (("batteries", "batteries", "drug", "national brand", None), "Batteries, national brand"),
        ((None, None, "miscellaneous", "national brand", None), "Miscellaneous, national brand"),
    ],
)
def test_title(parts, text):
    assert title(*parts) == text

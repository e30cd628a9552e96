"""Why an item may not be shown: `allowed_items` for one item, in words."""

from pipelines.inference.bundle import Bundle
from pipelines.ranking.filtering import Filters


def refusal(bundle: Bundle, row: int, filters: Filters | None = None) -> str | None:
    """Return why an item is filtered out, None where it is allowed."""
    if not bundle.available[row]:
        return "it is not available"
    if filters is None:
        return None
    for field, names, (numbers, codes) in (
        ("categories", filters.categories, bundle.categories),
        ("brands", filters.brands, bundle.brands),
    ):
        if names and int(codes[row]) not in [numbers.get(name.casefold(), -2) for name in names]:
            return f"filters.{field}: it is none of them"
    price = float(bundle.prices[row])  # NaN where there is none
    costs = "it has no price" if price != price else f"it costs {price:g}"
    if filters.min_price is not None and not price >= filters.min_price:
        return f"filters.min_price: {costs}"
    if filters.max_price is not None and not price <= filters.max_price:
        return f"filters.max_price: {costs}"
    numbers, codes = bundle.categories
    if int(codes[row]) in [numbers.get(name.casefold(), -2) for name in filters.excluded_categories]:
        return "other_categories: it is of the same category"
    return None

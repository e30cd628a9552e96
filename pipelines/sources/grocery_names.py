"""Readable names from the shorthand of a grocery till.

`SFT DRNK 2 LITER BTL CARB INCL` becomes `soft drink 2 liter bottle carbonated`.
"""

import re

_WORDS = {
    "ACCESS": "accessories", "ADDITI": "additives", "BEERALEMALT": "beer ale malt", "BEV": "beverage", "BG": "bags",
    "BKD": "baked", "BN": "bean", "BRD": "breaded", "BRKFST": "breakfast", "BTL": "bottle", "BTR": "butter",
    "CARB": "carbonated", "CATFD": "cat food", "CHIX": "chicken", "CHOC": "chocolate", "CHOCOL": "chocolate",
    "CHOCOCLATE": "chocolate", "CHP": "chopped", "CKYS": "cookies", "CLEANG": "cleaning", "CND": "canned",
    "CNDY": "candy", "CNTRL": "control", "COFF": "coffee", "CONC": "concentrate", "CRBNTD": "carbonated",
    "CRKR": "crackers", "CRMD": "creamed", "CRYSTL": "crystal", "DECORS": "decor", "DISPOSIBLE": "disposable",
    "DNR": "dinner", "DNRS": "dinners", "DOGFD": "dog food", "DRNK": "drink", "DRNKING": "drinking",
    "DRNKNG": "drinking", "DRNKS": "drinks", "DRP": "drops", "DRSNG": "dressing", "DSH": "dishes", "FD": "food",
    "FEM": "feminine", "FLVR": "flavor", "FLVRD": "flavored", "FRD": "fried", "FRZ": "frozen", "FRZN": "frozen",
    "GDS": "goods", "GM": "general merchandise", "HBC": "health and beauty", "PCKGD": "packaged",
    "GRND": "ground", "HANDKE": "handkerchiefs", "HYGN": "hygiene", "INCL": "", "EXCP": "", "EX": "",
    "EXCL": "", "JCE": "juice", "LIQ": "liquid", "LIQS": "liquids", "LOZNG": "lozenges", "LTR": "lighter",
    "MEMORABLILIA": "memorabilia", "MFG": "manufacturer", "MISC": "miscellaneous", "MIXS": "mixes", "MLK": "milk",
    "MLT": "multi", "MNERAL": "mineral", "MNRL": "mineral", "MX": "mix", "MXS": "mixes", "NDAIRY": "non-dairy",
    "OCCAS": "occasion", "OTYHER": "other", "PAC": "pack", "PK": "pack", "PKG": "package", "PKGD": "packaged",
    "PKLD": "pickled", "PICKLD": "pickled", "PLSTC": "plastic", "PNT": "peanut", "PREM": "premium",
    "PREP": "prepared", "PREPORTND": "preportioned", "PROD": "produce", "PRSLC": "presliced", "PWDR": "powder",
    "PWDRS": "powders", "REFRGRATD": "refrigerated", "REFRIG": "refrigerated", "REG": "regular", "SALD": "salad",
    "SAUS": "sausage", "SAUCESSALSAPICANTEE": "sauces salsa picante", "SFT": "soft", "SGL": "single",
    "SHERBTS": "sherbets",
    "SLC": "sliced", "SNDWCH": "sandwich", "SNGL": "single", "SNKS": "snacks", "SPECILATY": "specialty",
    "SPLY": "supplies", "SPRD": "spread", "SRV": "serve", "SUP": "super", "SUPPPLIES": "supplies",
    "SWEETNERS": "sweeteners", "SYRP": "syrup", "TISS": "tissue", "TORT": "tortilla", "TRSH": "trash",
    "VAC": "vacuum", "VEG": "vegetable", "WHL": "whole", "WHLSM": "wholesome", "WTR": "water",
    "XPCTRNT": "expectorant",
}  # fmt: skip
_CUT_AFTER = 30
"""Characters after which the till cuts a name."""
_UNITS = {"GA": "gal", "LTR": "l", "LITER": "l", "CTN": "carton"}


def readable_name(shorthand: str | None) -> str | None:
    """Spell a category or product type out, in lower case; None where nothing is left."""
    if not shorthand:
        return None
    text = re.sub(r"\([^)]*$", "", shorthand)  # cut inside brackets
    if len(shorthand) >= _CUT_AFTER:
        text = re.sub(r"[ /&-]+[A-Z]{1,2}$", "", text)  # what is left of the word at the cut
    text = re.sub(r"[()]", " ", text.replace("&", " and ").replace("/", " and "))
    text = re.sub(r"\bNON[- ]", "NON_", text)
    words = re.findall(r"[A-Z0-9%'_]+", text.upper())
    spelled = " ".join(_WORDS.get(word, word.lower()) for word in words)
    spelled = re.sub(r"\bnon_(\w+)", lambda match: "non-" + _WORDS.get(match[1].upper(), match[1]), spelled)
    spelled = re.sub(r"\s+", " ", spelled).strip()
    return re.sub(r"^(and )+|( and)+$", "", spelled) or None


def readable_size(shorthand: str | None) -> str | None:
    """Write a package size as people do: `8/6.75 OZ` → `8 x 6.75 oz`, `.5 OZ` → `0.5 oz`."""
    if not shorthand or not (text := shorthand.strip()):
        return None
    text = re.sub(r"^\((\d+)\)\s*", r"\1 x ", text)
    text = re.sub(r"^(\d+)\s*[/-]\s*(\d*\.?\d+ (?:OZ|LB|CT|ML|L|PK))\b", r"\1 x \2", text)
    text = re.sub(r"^(\d+) PK/", r"\1 x ", text)
    text = re.sub(r"(?<![\d])\.(\d)", r"0.\1", text)
    return " ".join(_UNITS.get(word, word.lower()) for word in text.split())


def title(product_type: str | None, category: str | None, department: str, brand: str, size: str | None) -> str:
    """Join the readable parts: `Potato chips, bag snacks, private label, 11 oz`."""
    first = product_type or category or department
    parts = [first]
    if category and category != first:
        parts.append(category)
    parts += [brand] + ([size] if size else [])
    text = ", ".join(parts)
    return text[0].upper() + text[1:]

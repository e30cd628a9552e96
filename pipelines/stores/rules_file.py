"""The file of business rules: YAML that people write."""

from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from pipelines.errors import ConfigError
from pipelines.ranking.business_rules import Cap, ItemCondition, RequestCondition, Rule, RuleBook

_MAX_BYTES = 2**20
_INNER: dict[str, type[BaseModel]] = {"when": RequestCondition, "items": ItemCondition, "cap": Cap}


def read_rules(path: Path) -> RuleBook:
    """Read and check the rules; an empty file has none.

    Raises:
        ConfigError: the file cannot be read, is not YAML, or has a rule that is wrong; names the rule and the field.
    """
    try:
        size = path.stat().st_size
        if size > _MAX_BYTES:
            raise ConfigError(f"The rules {path} have {size:,} bytes, at most {_MAX_BYTES:,} are read: keep fewer.")
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            f"The rules {path} do not exist: write the file, or leave `serving.rules_file` out of the settings."
        ) from None
    except OSError as error:
        raise ConfigError(f"The rules {path} cannot be read ({error.strerror}): mend that.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"The rules {path} are not valid YAML: {error}".replace("\n", " ")) from None
    if values is None:
        return RuleBook()
    if not isinstance(values, dict):
        raise ConfigError(f"The rules {path} hold {type(values).__name__}: write `rules:` and a list of rules below.")
    if "rules" in values and values["rules"] is None:  # all of them are commented out
        values["rules"] = []
    try:
        return RuleBook.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"The rules {path}: {_problem(values, error)}") from None


def _problem(values: dict[str, Any], error: ValidationError) -> str:
    """Say in one sentence what is wrong first, naming the rule by its id where it has one."""
    first = error.errors(include_url=False, include_context=False)[0]
    location = [part for part in first["loc"] if not str(part).startswith(("tuple[", "function-"))]
    where = "the file"
    if len(location) > 1 and location[0] == "rules":
        given = values["rules"][int(location[1])]
        name = given.get("id") if isinstance(given, dict) else None
        where = f"rule {name!r}" if name else f"rule number {int(location[1]) + 1}"
        location = location[2:]
    field = ".".join(str(part) for part in location)
    if first["type"] == "extra_forbidden":
        kind = _INNER.get(str(location[0]), Rule) if len(location) > 1 else Rule if where != "the file" else RuleBook
        return f"{where}: `{field}` is not known (known: {', '.join(kind.model_fields)}): leave it out."
    message = first["msg"].removeprefix("Value error, ")
    if not field:
        return f"{where}: {message}."
    return f"{where}: `{field}`: {message} (found {str(first['input'])[:80]!r})."

"""`headrace keys`."""

import json

import pytest

from bentos.recommender.http.callers import Callers
from pipelines.commands.keys import add, list_all, remove
from pipelines.errors import ConfigError


def test_a_key_is_printed_once_listed_without_its_secret_and_taken_back(tmp_path):
    path, said = tmp_path / "secrets" / "api_keys.json", []
    list_all(path, as_json=False, echo=said.append)
    assert "There are no keys" in said.pop()
    add(path, "shop", scopes=("serve", "write"), rate=50.0, echo=said.append)
    key, advice = said
    assert "not shown again" in advice
    assert path.parent.stat().st_mode & 0o777 == 0o700
    said.clear()

    Callers(path).admit({b"x-api-key": key.encode()}, "10.0.0.7", "write", "events")
    list_all(path, as_json=False, echo=said.append)
    list_all(path, as_json=True, echo=said.append)
    assert said[0].startswith("shop: serve and write, 50 requests/s, since ")
    assert json.loads(said[1])["scopes"] == ["serve", "write"]
    secret = key.split("_", 2)[2]
    assert not [line for line in said if secret in line or "sha256" in line]

    with pytest.raises(ConfigError, match=r"a key named 'shop' already: .*`headrace keys remove shop` first"):
        add(path, "shop", scopes=("serve",), rate=None, echo=said.append)
    for nothing in ("", " ", "a\nb"):
        with pytest.raises(ConfigError, match="is no name for a key: say who will use it"):
            add(path, nothing, scopes=("serve",), rate=None, echo=said.append)
    with pytest.raises(ConfigError, match=r"no key named 'stop' .there are: shop."):
        remove(path, "stop", echo=said.append)
    add(path, "till", scopes=("serve",), rate=None, echo=said.append)
    said.clear()
    remove(path, "till", echo=said.append)
    assert said == ["The key 'till' is not accepted any more."]
    remove(path, "shop", echo=said.append)
    assert said[-1] == "There are no keys any more: the service answers its own machine alone, without a key."
    assert not json.loads(path.read_text())["keys"]

"""Who may call, what for, and how often."""

import json
from datetime import UTC, datetime

import pytest

from bentos.recommender.contract.requests import RequestError
from bentos.recommender.http.callers import Callers, RateLimitedError, TokenBucket
from pipelines.errors import ConfigError
from pipelines.stores.api_keys import add_key, remove_key

NOW = datetime(2026, 3, 1, tzinfo=UTC)
FAR = "10.0.0.7"


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def status(callers: Callers, key: str | None, scope="serve", host: str = FAR, **headers: bytes) -> int:
    found = {name.replace("_", "-").encode(): value for name, value in headers.items()}
    if key is not None:
        found[b"x-api-key"] = key.encode()
    try:
        callers.admit(found, host, scope, "search")
    except RequestError as error:
        return error.status
    return 200


def test_a_key_does_what_its_scopes_say(tmp_path):
    path = tmp_path / "keys.json"
    shop = add_key(path, "shop", scopes=("serve", "write"), now=NOW)
    ops = add_key(path, "ops", scopes=("admin",), now=NOW)
    callers = Callers(path)
    found = {
        (who, scope): status(callers, key, scope)
        for who, key in (("shop", shop), ("ops", ops))
        for scope in ("serve", "write", "admin", None)
    }
    assert found == {
        ("shop", "serve"): 200,
        ("shop", "write"): 200,
        ("shop", "admin"): 403,
        ("shop", None): 200,
        ("ops", "serve"): 403,
        ("ops", "write"): 403,
        ("ops", "admin"): 200,
        ("ops", None): 200,
    }


def test_with_keys_this_machine_needs_one_too(tmp_path):
    key = add_key(tmp_path / "keys.json", "shop", scopes=("serve",), now=NOW)
    callers = Callers(tmp_path / "keys.json")
    assert status(callers, None, host="127.0.0.1") == 401
    assert status(callers, key, host="127.0.0.1") == 200
    assert status(callers, None, authorization=f"Bearer {key}".encode()) == 200
    assert status(callers, None, authorization=f"bearer  {key}".encode()) == 200


@pytest.mark.parametrize(
    "change",
    [
        lambda key: key[:-1],
        lambda key: key + "x",
        lambda key: key.swapcase(),
        lambda key: "hr_",
        lambda key: key.rpartition("_")[0] + "_" + "A" * 43,
    ],
)
def test_a_key_that_is_nearly_right_is_wrong(tmp_path, change):
    key = add_key(tmp_path / "keys.json", "shop", scopes=("serve",), now=NOW)
    assert status(Callers(tmp_path / "keys.json"), change(key)) == 401


def test_the_key_of_the_environment_does_everything_but_administer():
    callers = Callers(None, "right")
    assert [status(callers, "right", scope) for scope in ("serve", "write", "admin")] == [200, 200, 403]
    assert status(callers, "wrong") == 401


def test_only_hashes_are_kept_and_nobody_else_may_read_them(tmp_path):
    key = add_key(tmp_path / "keys.json", "shop", scopes=("serve",), now=NOW)
    text = (tmp_path / "keys.json").read_text()
    assert key.split("_", 2)[2] not in text
    assert json.loads(text)["keys"][0]["name"] == "shop"
    assert (tmp_path / "keys.json").stat().st_mode & 0o777 == 0o600


def test_a_change_of_the_file_counts_without_a_restart(tmp_path):
    path, clock = tmp_path / "keys.json", Clock()
    callers = Callers(path, clock=clock)
    assert [status(callers, None, host=host) for host in ("127.0.0.1", FAR)] == [200, 403]
    key = add_key(path, "shop", scopes=("serve",), now=NOW)
    clock.now += 1
    assert status(callers, key) == 200
    assert status(callers, None, host="127.0.0.1") == 401
    remove_key(path, "shop")
    add_key(path, "other", scopes=("serve",), now=NOW)
    clock.now += 1
    assert status(callers, key) == 401


def test_a_key_file_that_breaks_leaves_the_keys_as_they_were(tmp_path, caplog):
    path, clock = tmp_path / "keys.json", Clock()
    key = add_key(path, "shop", scopes=("serve",), now=NOW)
    callers = Callers(path, clock=clock)
    path.write_text("{broken")
    clock.now += 1
    assert (status(callers, key), status(callers, None)) == (200, 401)
    assert f"{path} cannot be used" in caplog.text


def test_a_key_file_that_is_taken_away_opens_to_nobody_until_it_is_back(tmp_path, caplog):
    path, clock = tmp_path / "keys.json", Clock()
    key = add_key(path, "shop", scopes=("serve",), now=NOW)
    callers, with_own = Callers(path, clock=clock), Callers(path, "own", clock=clock)
    content = path.read_bytes()
    path.unlink()
    clock.now += 1
    assert [status(callers, None, host="127.0.0.1"), status(callers, key)] == [403, 403]
    assert [status(with_own, "own"), status(with_own, key)] == [200, 403]
    assert f"{path} was taken away" in caplog.text
    path.write_bytes(content)
    clock.now += 1
    assert [status(callers, None, host="127.0.0.1"), status(callers, key)] == [401, 200]


def test_who_takes_the_last_key_back_by_command_is_on_its_own_machine_again(tmp_path):
    path, clock = tmp_path / "keys.json", Clock()
    add_key(path, "shop", scopes=("serve",), now=NOW)
    callers = Callers(path, clock=clock)
    remove_key(path, "shop")
    clock.now += 1
    assert [status(callers, None, host=host) for host in ("127.0.0.1", FAR)] == [200, 403]


def test_a_key_that_asks_too_often_waits(tmp_path):
    path, clock = tmp_path / "keys.json", Clock()
    slow = add_key(path, "slow", scopes=("serve",), now=NOW, requests_per_second=2)
    free = add_key(path, "free", scopes=("serve",), now=NOW)
    callers = Callers(path, burst_seconds=1.5, clock=clock)
    assert [status(callers, slow) for _ in range(4)] == [200, 200, 200, 429]
    with pytest.raises(RateLimitedError, match="This key may send 2 requests a second") as caught:
        callers.admit({b"x-api-key": slow.encode()}, FAR, "serve", "search")
    assert caught.value.retry_after_s == pytest.approx(0.5)
    assert {status(callers, free) for _ in range(50)} == {200}
    clock.now += 0.5
    assert [status(callers, slow) for _ in range(2)] == [200, 429]


def test_a_bucket_holds_no_more_than_its_burst():
    bucket = TokenBucket(per_second=10, burst=2)
    assert [bucket.take(0.0), bucket.take(0.0)] == [0, 0]
    assert bucket.take(0.0) == pytest.approx(0.1)
    assert [bucket.take(1_000.0), bucket.take(1_000.0)] == [0, 0]
    assert bucket.take(1_000.0) > 0


def test_every_key_has_the_limit_of_the_settings_that_has_none_of_its_own(tmp_path):
    path = tmp_path / "keys.json"
    own = add_key(path, "own", scopes=("serve",), now=NOW, requests_per_second=3)
    other = add_key(path, "other", scopes=("serve",), now=NOW)
    callers = Callers(path, "environment", requests_per_second=1, burst_seconds=1, clock=Clock())
    served = {
        name: [status(callers, key) for _ in range(5)].count(200)
        for name, key in (("own", own), ("other", other), ("environment", "environment"))
    }
    assert served == {"own": 3, "other": 1, "environment": 1}


def test_a_key_file_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "keys.json").mkdir()
    with pytest.raises(ConfigError, match=r"keys\.json cannot be used .Is a directory.: put it right"):
        Callers(tmp_path / "keys.json")

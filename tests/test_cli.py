"""The command line as a person meets it: in its own process."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from pipelines.cli import STEP_ORDER, cli
from pipelines.config import load_config
from pipelines.errors import ConfigError
from pipelines.wiring import STEPS

HEADRACE = [sys.executable, "-m", "pipelines"]
ROOT = Path(__file__).parents[1]


def headrace(*arguments: str, home: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")}
    return subprocess.run(
        [*HEADRACE, *arguments],
        env={**kept, "HEADRACE_HOME": str(home), **environment},
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_help_answers_within_half_a_second(tmp_path):
    def seconds() -> float:
        began = time.perf_counter()
        assert headrace("--help", home=tmp_path).returncode == 0
        return time.perf_counter() - began

    assert min(seconds() for _ in range(5)) < 0.5


def test_help_lists_the_steps_in_the_order_of_the_loop(tmp_path):
    text = headrace("--help", home=tmp_path).stdout
    places = [text.index(f"\n  {name} ") for name in STEP_ORDER]
    assert places == sorted(places)


def test_each_step_has_one_name_as_command_function_and_file():
    assert tuple(STEPS) == STEP_ORDER
    assert set(STEP_ORDER) <= set(cli.commands)
    assert {path.stem for path in (ROOT / "pipelines" / "steps").glob("[a-z]*.py")} == set(STEP_ORDER)


def all_commands(group: click.Group, prefix: str = "") -> Iterator[tuple[str, click.Command]]:
    """Yield the commands that do something, with their groups' names before them."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from all_commands(command, f"{prefix}{name} ")
        else:
            yield prefix + name, command


COMMANDS = dict(sorted(all_commands(cli)))


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_an_example(name):
    assert f"Example: headrace {name}" in (COMMANDS[name].help or "")


def test_looking_at_the_command_line_writes_nothing(tmp_path):
    headrace("--help", home=tmp_path / "home")
    headrace("finetune_model", "--help", home=tmp_path / "home")
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param(["validate_tables"], "Run `headrace ingest_tables` first", id="no run yet"),
        pytest.param(
            ["compress_model", "--run", "abc"],
            "run `headrace build_training_set --run abc` first",
            id="run",
            marks=pytest.mark.slow,
        ),
        pytest.param(["serve", "--port", "3999"], "Run `headrace loop`", id="nothing to serve"),
        pytest.param(["mlflow", "--port", "5999"], "There is no tracking store", id="no tracking store"),
    ],
)
def test_an_error_is_one_line_with_the_next_action(tmp_path, arguments, said):
    done = headrace(*arguments, home=tmp_path)
    assert done.returncode == 1
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("setting", ["query_tower: 2-layer int5", "item_text_tower: policy", "variants: []"])
def test_a_tower_that_there_is_not_is_refused_before_anything_is_trained(setting, tmp_path):
    (tmp_path / "settings.yaml").write_text(f"compression: {{{setting}}}\n")
    with pytest.raises(ConfigError, match=f"`compression.{setting.split(':')[0]}`: "):
        load_config({"HEADRACE_CONFIG": str(tmp_path / "settings.yaml")})


def test_a_list_that_names_no_tower_is_refused(tmp_path):
    found = CliRunner().invoke(cli, ["compress", "--variants", " ,"])
    assert found.exit_code == 2
    assert "names no tower" in found.output


@pytest.mark.parametrize("command", ["recommend", "search", "freshness"])
def test_a_picture_of_no_kind_is_refused_before_anything_is_measured(command):
    found = CliRunner().invoke(cli, ["bench", command, "--data", "nowhere", "--plot", "a.doc"])
    assert found.exit_code == 2
    assert "end it in .png or .svg" in found.output


def test_a_misspelt_setting_is_named(tmp_path):
    (tmp_path / "settings.yaml").write_text("training: {tower_stepps: 5}\n")
    done = headrace("ingest_tables", home=tmp_path, HEADRACE_CONFIG=str(tmp_path / "settings.yaml"))
    assert done.returncode == 1
    assert "`training.tower_stepps` is not a setting (known: " in done.stderr
    assert " tower_steps" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "command", [["ingest_tables"], ["serve", "--port", "3998"], ["loop"]], ids=lambda words: words[0]
)
def test_a_home_that_is_a_file_is_named(tmp_path, command):
    home = tmp_path / "home"
    home.write_text("")
    result = headrace(*command, home=home)
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1
    assert f"HEADRACE_HOME ({home}) must be a folder that this user may write to" in result.stderr


def test_a_wrong_option_exits_2(tmp_path):
    done = headrace("loop", "--window-days", "0", home=tmp_path)
    assert done.returncode == 2
    assert "--window-days" in done.stderr


def test_a_taken_port_is_said_before_anything_runs(tmp_path):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = headrace("demo", "--port", str(port), home=tmp_path / "home")
    assert done.returncode == 1
    assert f"Port {port} on 127.0.0.1 cannot be used" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "home").exists()


def test_a_bug_shows_its_traceback():
    code = "from pipelines.cli import cli, main\n@cli.command()\ndef broken(): return 1 / 0\nmain()"
    done = subprocess.run(
        [sys.executable, "-c", code, "broken"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "ZeroDivisionError" in done.stderr

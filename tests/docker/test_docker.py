"""The production shape, checked as far as that goes without a container engine.

`compose-spec.json` is the schema of the Compose Specification (github.com/compose-spec/compose-spec, Apache-2.0).
"""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from prometheus_client import Counter, Histogram
from prometheus_client.metrics import MetricWrapperBase

from bentos.recommender.telemetry import metrics

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
DOCKERFILES = sorted(DOCKER.glob("*.Dockerfile"))
COMPOSE: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]


def instructions(path: Path) -> list[tuple[str, str]]:
    """Return a Dockerfile's instructions with their continued lines joined."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in joined.splitlines() if line.strip()]


def exact(image: str) -> bool:
    """Tell whether an image names a version down to its patch level."""
    return re.search(r":v?\d+(\.\d+)+", image) is not None


def test_compose_file_keeps_to_the_specification():
    schema = json.loads(Path(__file__).with_name("compose-spec.json").read_text(encoding="utf-8"))
    errors = list(jsonschema.Draft7Validator(schema).iter_errors(COMPOSE))
    assert [f"{'/'.join(map(str, error.absolute_path))}: {error.message}" for error in errors] == []


@pytest.mark.parametrize("name", SERVICES)
def test_what_a_service_depends_on_exists_and_can_become_healthy(name):
    for other, how in SERVICES[name].get("depends_on", {}).items():
        assert other in SERVICES
        if how["condition"] == "service_healthy":
            assert SERVICES[other].get("healthcheck", {}).get("test")


@pytest.mark.parametrize("name", SERVICES)
def test_paths_and_volumes_of_a_service_exist(name):
    service = SERVICES[name]
    if "build" in service:
        context = (DOCKER / service["build"]["context"]).resolve()
        assert context == ROOT
        assert (context / service["build"]["dockerfile"]).is_file()
    for volume in service.get("volumes", []):
        source = volume.split(":")[0]
        assert (DOCKER / source).exists() if source.startswith(".") else source in COMPOSE["volumes"]


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_pinned_watched_and_reachable_from_this_machine_only(name):
    service = SERVICES[name]
    assert exact(service["image"])
    assert service.get("healthcheck"), "no health check"
    assert "no-new-privileges:true" in service["security_opt"]
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


def test_no_secret_has_a_value_or_a_default():
    text = (DOCKER / "compose.yaml").read_text(encoding="utf-8")
    variables = dict(re.findall(r"(?<!\$)\$\{(\w+)([^}]*)\}", text))
    secret = {name for name in variables if re.search("PASSWORD|SECRET|KEY", name)}
    assert len(secret) == 8
    assert all(variables[name].startswith(":?") for name in secret)
    example = dict(re.findall(r"^(\w+)=(.*)$", (DOCKER / ".env.example").read_text(encoding="utf-8"), re.M))
    assert set(variables) == set(example)
    assert not any(example.values())


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
def test_dockerfile_is_pinned_and_runs_as_a_plain_user(path):
    lines = instructions(path)
    names = [name for name, _ in lines]
    assert set(names) <= {"FROM", "RUN", "ENV", "WORKDIR", "COPY", "USER", "VOLUME", "EXPOSE", "HEALTHCHECK", "CMD"}
    assert all(exact(value) for name, value in lines if name == "FROM")
    assert [value for name, value in lines if name == "USER"][-1] == "headrace"
    assert names.index("USER") > max(index for index, name in enumerate(names) if name == "RUN")
    assert names.count("HEALTHCHECK") == names.count("CMD") == 1
    assert isinstance(json.loads(dict(lines)["CMD"]), list)
    assert all(value.startswith("/") for name, value in lines if name == "WORKDIR")


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
def test_dockerfile_installs_exact_versions_and_leaves_no_lists(path):
    for command in (value for name, value in instructions(path) if name == "RUN"):
        assert "sudo" not in command
        if "apt-get install" in command:
            assert "--no-install-recommends" in command
            assert "rm -rf /var/lib/apt/lists/*" in command
            packages = re.search(r"--no-install-recommends (.*?)&&", command)
            assert packages and all("=" in name for name in packages.group(1).split())
        for install in re.findall(r"pip install (.*?)(?:&&|$)", command):
            words = shlex.split(install)
            named = [word for word in words if re.match(r"^[a-z0-9][a-z0-9-]*(==|$)", word)]
            assert "--constraint" in words or "--require-hashes" in words
            assert all("==" in word for word in named)


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
def test_what_a_dockerfile_copies_exists_and_is_not_ignored(path):
    ignored = (path.parent / f"{path.name}.dockerignore").read_text(encoding="utf-8").splitlines()
    kept = {line[1:] for line in ignored if line.startswith("!")}
    for sources in (value.split()[:-1] for name, value in instructions(path) if name == "COPY"):
        for source in sources:
            assert (ROOT / source).exists(), source
            assert source.split("/")[0] in kept, source


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
def test_nothing_is_sent_to_the_build_that_no_line_copies(path):
    ignored = (path.parent / f"{path.name}.dockerignore").read_text(encoding="utf-8").splitlines()
    copied = {
        source.split("/")[0] for name, value in instructions(path) if name == "COPY" for source in value.split()[:-1]
    }
    assert {line[1:] for line in ignored if line.startswith("!")} == copied


def test_the_serving_image_holds_nothing_of_the_training():
    commands = " ".join(value for _, value in instructions(DOCKER / "serving.Dockerfile"))
    assert "[cpu,serving]" in commands
    assert "pipeline]" not in commands


# What Grafana shows

DASHBOARD = json.loads((DOCKER / "grafana" / "headrace.json").read_text(encoding="utf-8"))
PANELS = {panel["title"]: panel for panel in DASHBOARD["panels"]}


def our_metrics() -> dict[str, set[str]]:
    """Return the names under which Prometheus knows our metrics, and their labels."""
    found: dict[str, set[str]] = {}
    for metric in vars(metrics).values():
        if isinstance(metric, MetricWrapperBase):
            labels = set(metric._labelnames)
            if isinstance(metric, Histogram):
                found |= {f"{metric._name}_{part}": labels | {"le"} for part in ("bucket", "count", "sum")}
            else:
                found[f"{metric._name}_total" if isinstance(metric, Counter) else metric._name] = labels
    return found


@pytest.mark.parametrize("title", PANELS)
def test_a_panel_shows_metrics_and_labels_that_there_are(title):
    known = our_metrics()
    for target in PANELS[title]["targets"]:
        named = re.findall(r"\bheadrace_\w+", target["expr"])
        assert named
        assert set(named) <= set(known), title
        labels = set.intersection(*(known[name] for name in named))
        used = set(re.findall(r"(\w+)=\"", target["expr"]))
        for group in re.findall(r"by \(([^)]*)\)", target["expr"]):
            used |= {name.strip() for name in group.split(",")}
        assert used <= labels, title
        assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= used


def test_panels_do_not_overlap():
    cells = [
        (x, y)
        for panel in PANELS.values()
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24


def test_prometheus_asks_the_service_where_it_listens_with_a_key():
    config = yaml.safe_load((DOCKER / "prometheus" / "prometheus.yaml").read_text(encoding="utf-8"))
    (job,) = config["scrape_configs"]
    assert job["static_configs"] == [{"targets": ["service:3000"]}]
    secret = Path(job["authorization"]["credentials_file"]).name
    assert secret in SERVICES["prometheus"]["secrets"]
    assert COMPOSE["secrets"][secret] == {"environment": "HEADRACE_API_KEY"}

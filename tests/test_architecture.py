"""Who may import whom, what may be imported at all, and whether README's tree is the tree."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = {"airflow", "bentoml", "feast", "great_expectations", "matplotlib", "mlflow", "scipy", "torch", "transformers"}
TRAINING_ONLY = {"torch", "transformers", "mlflow", "airflow", "great_expectations"}
TOP_LEVEL = ["bentos", "dags", "docker", "docs", "feature_repo", "pipelines", "tests"]


def imports(path: Path, *, top_only: bool = False) -> Iterator[str]:
    """Yield the modules that a file imports; `top_only` leaves out functions and `if TYPE_CHECKING`."""

    def visit(node: ast.AST) -> Iterator[str]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                yield from (name.name for name in child.names)
            elif isinstance(child, ast.ImportFrom) and child.module:
                yield child.module
                yield from (f"{child.module}.{name.name}" for name in child.names)
            elif (top_only and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)) or (
                isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test)
            ):
                continue
            else:
                yield from visit(child)

    yield from visit(ast.parse(path.read_text(encoding="utf-8")))


def modules(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def reaches(found: set[str], *wanted: str) -> set[str]:
    return {name for name in found if any(name == module or name.startswith(f"{module}.") for module in wanted)}


ADAPTERS = {
    "__main__",
    "airflow_home",
    "airflow_tasks",
    "benchmarks",
    "cli",
    "commands",
    "loop",
    "wiring",
}
"""What may know the steps, or is itself only known to the commands."""


@pytest.mark.parametrize("path", modules("dags"), ids=lambda path: path.stem)
def test_dag_files_import_airflow_at_the_top_and_pipelines_inside_tasks(path):
    top = set(imports(path, top_only=True))
    inside = set(imports(path)) - top
    assert not reaches(top, "pipelines", "bentos")
    assert reaches(top, "airflow") == reaches(top, "airflow.sdk")
    assert reaches(inside, "pipelines") <= {"pipelines.airflow_tasks", "pipelines.airflow_tasks.run_task"}


def test_steps_know_stores_and_pure_packages_but_not_their_callers():
    for path in modules("pipelines/steps"):
        assert not reaches(set(imports(path)), *(f"pipelines.{name}" for name in ADAPTERS), "airflow", "bentos"), path


def test_pure_packages_and_stores_do_not_know_the_steps():
    for path in modules("pipelines"):
        part = path.relative_to(ROOT / "pipelines").parts[0].removesuffix(".py")
        if part not in ADAPTERS | {"steps"}:
            assert not reaches(set(imports(path)), "pipelines.steps", *(f"pipelines.{name}" for name in ADAPTERS)), path


def test_the_rules_of_a_rollout_do_not_know_where_its_plan_is_kept():
    for path in modules("pipelines/rollout"):
        assert not reaches(set(imports(path)), "pipelines.stores", "pipelines.places"), path


def test_the_service_never_imports_what_only_training_needs():
    for path in modules("bentos"):
        assert not reaches(set(imports(path)), *TRAINING_ONLY, "pipelines.steps", "pipelines.wiring"), path


SERVICE_LAYERS = ["telemetry", "contract", "users", "bundles", "answering", "http"]
"""Parts of the service; each knows only those before it."""


@pytest.mark.parametrize("layer", SERVICE_LAYERS)
def test_the_parts_of_the_service_know_only_those_below(layer):
    above = SERVICE_LAYERS[SERVICE_LAYERS.index(layer) + 1 :]
    for path in modules(f"bentos/recommender/{layer}"):
        found = set(imports(path))
        assert not reaches(found, *(f"bentos.recommender.{name}" for name in [*above, "service", "rehearsal"])), path


def test_every_part_of_the_service_has_its_place_among_them():
    parts = {path.parent.name for path in modules("bentos/recommender")} - {"recommender"}
    assert parts == set(SERVICE_LAYERS)


def test_what_the_service_imports_brings_no_torch():
    code = (
        "import sys\nimport bentos.recommender.service\nimport pipelines.stores.online_features\n"
        f"print([name for name in {sorted(TRAINING_ONLY)!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "[]"


def test_nothing_heavy_comes_with_the_command_line():
    code = (
        "import sys\nimport pipelines.cli, pipelines.wiring, pipelines.loop\n"
        f"print([name for name in {sorted(HEAVY | {'duckdb', 'pandas', 'rich'})!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_tests_are_no_packages_and_there_is_no_utils():
    assert not list((ROOT / "tests").rglob("__init__.py"))
    assert not [path for folder in TOP_LEVEL for path in (ROOT / folder).rglob("utils*.py")]


def tree_in_readme() -> set[str]:
    """Return the paths of README's tree: two spaces of indentation a level, one line a file or folder."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = re.search(r"```tree\n(.*?)```", text, re.S)
    assert block, "README.md has no block ```tree"
    paths: set[str] = set()
    stack: list[str] = []
    for line in block.group(1).splitlines():
        name = line.split()[0]
        depth = (len(line) - len(line.lstrip())) // 2
        stack = [*stack[:depth], name]
        paths.add("".join(stack))
    return paths


def tracked() -> list[str]:
    return subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()


def test_the_top_level_holds_what_belongs_there_and_nothing_else():
    files = {"CHANGELOG.md", "LICENSE", "Makefile", "README.md", "constraints.txt", "pyproject.toml"}
    found = {path.partition("/")[0] for path in tracked()}
    assert {name for name in found if not name.startswith(".")} == files | set(TOP_LEVEL)


def test_everything_in_the_readme_tree_exists():
    missing = {path for path in tree_in_readme() if not (ROOT / path).exists()}
    assert not missing


def test_every_package_dag_and_top_level_module_is_in_the_readme_tree():
    tree = tree_in_readme()
    expected = {f"{name}/" for name in TOP_LEVEL}
    for path in tracked():
        parts = path.split("/")
        if parts[0] == "pipelines" and len(parts) == 2 and parts[1].endswith(".py") and not parts[1].startswith("__"):
            expected.add(path)
        elif parts[0] == "pipelines" and len(parts) > 2:
            expected.add(f"pipelines/{parts[1]}/")
        elif parts[0] == "dags" and path.endswith(".py"):
            expected.add(path)
    assert not expected - tree

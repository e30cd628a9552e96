"""Step: pack the service and a bundle into a Bento, for machines that do not share this disk."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from pipelines.errors import ConfigError, StoreError
from pipelines.inference.manifest import read_manifest, verify_files
from pipelines.schemas import BuiltBento

BENTO = "headrace"
BENTOFILE = "bentos/recommender/bentofile.yaml"
_SOURCES = ("bentos/**/*.py", "bentos/**/*.yaml", "bentos/**/*.txt", "pipelines/**/*.py", "pipelines/profiles/*.yaml")
_TIMEOUT_S = 600


def build_bento(bundle_id: str, *, bundles_dir: Path, bentoml_home: Path, project_dir: Path) -> BuiltBento:
    """Build the Bento `headrace:<bundle>-<hash of the sources>` in the store at `bentoml_home`.

    Safe to run twice: a Bento that exists is returned at once. BentoML runs in a process of its own, because it
    imports the service and keeps its settings for as long as a process lives.

    Raises:
        BundleError: the bundle is missing or was changed.
        ConfigError: the project folder lacks the service.
        StoreError: BentoML failed; its last line is in the message.
    """
    bundle = bundles_dir / bundle_id
    verify_files(bundle, read_manifest(bundle))
    sources = sorted(path for pattern in _SOURCES for path in project_dir.glob(pattern))
    if project_dir / BENTOFILE not in sources:
        raise ConfigError(f"{project_dir / BENTOFILE} does not exist: give the folder of a Headrace checkout.")
    version = f"{re.sub(r'[^a-z0-9.-]+', '-', bundle_id.lower())}-{_fingerprint(sources, project_dir)[:8]}"
    target = bentoml_home / "bentos" / BENTO / version
    if not (target / "bento.yaml").is_file():
        _build(version, bundle, sources, bentoml_home, project_dir)
    return BuiltBento(bundle=bundle_id, tag=f"{BENTO}:{version}", folder=target)


def _build(version: str, bundle: Path, sources: list[Path], bentoml_home: Path, project_dir: Path) -> None:
    bentoml_home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="headrace-bento-") as name:
        staging = Path(name)
        for path in sources:
            copy = staging / path.relative_to(project_dir)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
        shutil.copytree(bundle, staging / "bundle")
        command = [sys.executable, "-m", "bentoml", "build", "-f", BENTOFILE, "--version", version, "--output", "tag"]
        result = subprocess.run(
            [*command, "."],
            cwd=staging,
            env={
                **os.environ,
                "BENTOML_HOME": str(bentoml_home.resolve()),
                "BENTOML_DO_NOT_TRACK": "True",
                "PYTHONPATH": str(staging),
            },
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    if result.returncode != 0:
        lines = [line for line in (result.stdout + result.stderr).splitlines() if line.strip()]
        raise StoreError(
            f"BentoML could not build {BENTO}:{version} (exit code {result.returncode}): "
            f"{lines[-1].strip() if lines else 'no output'}. Check the space at {bentoml_home}, then run "
            "`headrace build_bento` again."
        )


def _fingerprint(sources: list[Path], project_dir: Path) -> str:
    digest = hashlib.sha256()
    for path in sources:
        digest.update(f"{path.relative_to(project_dir).as_posix()}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()

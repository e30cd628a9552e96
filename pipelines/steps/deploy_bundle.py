"""Step: make the running service answer from a bundle."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path

from pydantic import ValidationError

from pipelines.config import DeploymentConfig
from pipelines.errors import BundleError, ConfigError, StoreError
from pipelines.inference.manifest import read_manifest, verify_files
from pipelines.places import HOME_VARIABLE, Places
from pipelines.schemas import Deployment, Rehearsal
from pipelines.stores.service_status import running_services
from pipelines.stores.serving_pointer import ServingPointer, read_pointer, write_pointer

REHEARSAL = "bentos.recommender.rehearsal"
_REFUSED = 3
"""Exit code of a rehearsal that refuses the bundle."""
_POLL_S = 0.05


def deploy_bundle(
    bundle_id: str,
    *,
    places: Places,
    config: DeploymentConfig,
    now: datetime,
    rehearse: Callable[[Path], Rehearsal] | None,
) -> Deployment:
    """Check the bundle, let it answer beside the live one, move the pointer, and wait for the running services.

    Safe to run twice: a bundle that is live already is checked again and nothing moves. Where a running service cannot
    open the bundle, the pointer goes back to what was live.

    Args:
        bundle_id: The bundle.
        places: Where bundles and pointer are.
        config: What the bundle has to show.
        now: The moment of the deployment.
        rehearse: Lets the bundle of a folder answer; None for a rollback, to a bundle that was live before.

    Raises:
        BundleError: the bundle is corrupt, gives bad answers, is too slow or hangs; the live one stays.
        ConfigError: somebody else moved the pointer meanwhile, such as a rollback; that stays.
        StoreError: a running service does not answer from it in time; the pointer stays.
    """
    folder = places.bundles / bundle_id
    manifest = read_manifest(folder)
    at_first = _live(places.current_bundle)
    if rehearse is None:
        verify_files(folder, manifest)
        checked = {"files": f"{len(manifest.files)} files have the SHA-256 of the manifest"}
    else:
        checked = _judged(bundle_id, rehearse(folder), config)
    before = _live(places.current_bundle)
    if before != at_first:
        raise ConfigError(
            f"While the bundle {bundle_id} rehearsed, {before.bundle if before else 'nothing'} went live in place of "
            f"{at_first.bundle if at_first else 'nothing'}: that stays. To deploy what is champion now, run `headrace "
            "deploy_bundle`."
        )
    previous = before.bundle if before is not None else None
    if before is not None and before.bundle == bundle_id and before.folder == folder.resolve():
        previous = before.previous
    elif before is None:
        pointer = ServingPointer(bundle=bundle_id, folder=folder.resolve(), deployed_at=now)
        write_pointer(places.current_bundle, pointer)
    else:
        move = before.followed_by if rehearse is not None else before.rolled_back_to
        write_pointer(places.current_bundle, move(bundle_id, folder.resolve(), now))
    began = time.monotonic()
    services = _await_services(bundle_id, places, config.swap_timeout_s, before)
    return Deployment(
        bundle=bundle_id,
        previous=previous,
        checked=checked,
        services=services,
        swap_s=round(time.monotonic() - began, 3) if services else None,
    )


def rehearse_beside(
    folder: Path, *, requests: Path, limit: int, timeout_s: float, project_dir: Path, environment: Mapping[str, str]
) -> Rehearsal:
    """Let a bundle answer in a process of its own, killed where it takes too long.

    Args:
        folder: The bundle.
        requests: `Places.served_requests`.
        limit: Kept requests that are asked at most.
        timeout_s: From the start of the process to its end.
        project_dir: The checkout.
        environment: Of this process.

    Raises:
        BundleError: the bundle was refused, or did not answer in time.
        StoreError: the process ended without an answer.
    """
    command = [sys.executable, "-m", REHEARSAL, str(folder), "--requests", str(requests), "--limit", str(limit)]
    own = {
        **environment,
        **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"),
        "PYTHONPATH": os.pathsep.join(filter(None, (str(project_dir), environment.get("PYTHONPATH")))),
    }
    own.pop(HOME_VARIABLE, None)  # nothing of the home is its business
    process = subprocess.Popen(
        command, cwd=project_dir, env=own, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    timer = threading.Timer(timeout_s, process.kill)
    timer.start()
    try:
        output, errors = process.communicate()
    finally:
        is_late = not timer.is_alive()
        timer.cancel()
        process.kill()
    lines = output.splitlines()
    if is_late and process.returncode < 0:
        done = json.loads(lines[-1])["done"] if lines and lines[-1].startswith('{"done"') else "nothing was done"
        raise BundleError(
            f"The bundle {folder.name} did not finish its rehearsal within {timeout_s:g} s ({done}): it was stopped. "
            "The live bundle stays; train another one, or raise `deployment.trial_timeout_s`."
        )
    if process.returncode == _REFUSED and lines:
        raise BundleError(json.loads(lines[-1])["refused"])
    try:
        return Rehearsal.model_validate_json(lines[-1] if lines else "")
    except ValidationError:
        last = errors.strip().splitlines()[-1:] or ["no output"]
        raise StoreError(
            f"The rehearsal of the bundle {folder.name} ended with exit code {process.returncode}: {last[0]}. "
            "The live bundle stays; run `headrace deploy_bundle` again."
        ) from None


def _judged(bundle_id: str, found: Rehearsal, config: DeploymentConfig) -> dict[str, str]:
    if not found.median_ms <= config.max_median_ms:
        raise BundleError(
            f"The bundle {bundle_id} takes {found.median_ms:.1f} ms for an answer at the median, at most "
            f"{config.max_median_ms:g} ms are allowed (`deployment.max_median_ms`). The live bundle stays; train "
            "another one."
        )
    kept = f"{found.replayed} answered" + (f", {found.left_out} about items that are gone" if found.left_out else "")
    latency = f"{found.median_ms:.1f} ms at the median, {found.p95_ms:.1f} ms at the 95th percentile"
    return {**found.checked, "kept requests": kept, "latency": latency}


def _live(current_bundle: Path) -> ServingPointer | None:
    try:
        return read_pointer(current_bundle)
    except BundleError:
        return None  # a broken pointer is replaced


def _await_services(bundle_id: str, places: Places, timeout_s: float, before: ServingPointer | None) -> tuple[str, ...]:
    """Wait until every running service answers from the bundle; return their names.

    Raises:
        BundleError: one cannot open it; the pointer is back on what was live.
        StoreError: one still answers from another bundle.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        services = running_services(places.services)
        for service in services:
            if service.refused == bundle_id:
                if before is not None:
                    write_pointer(places.current_bundle, before)
                raise BundleError(
                    f"The service {service.name} cannot open the bundle {bundle_id} ({service.reason}) and answers "
                    f"from {service.bundle}: the pointer is back on {before.bundle if before else 'nothing'}."
                )
        late = [service for service in services if service.bundle != bundle_id]
        if not late:
            return tuple(service.name for service in services)
        if time.monotonic() > deadline:
            raise StoreError(
                f"{', '.join(service.name for service in late)} did not answer from the bundle {bundle_id} within "
                f"{timeout_s:g} s (still from {', '.join(sorted({service.bundle for service in late}))}): the pointer "
                "names it, and it may still come. See the log of the service, then run `headrace deploy_bundle` again."
            )
        time.sleep(_POLL_S)

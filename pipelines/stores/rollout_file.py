"""The plan of a rollout as the service sees it: files beside the pointer, so that it needs no registry."""

from pathlib import Path

from pydantic import ValidationError

from pipelines.errors import BundleError
from pipelines.rollout.plan import CanaryStop, RolloutPlan
from pipelines.stores.files import write_text


def read_plan(path: Path) -> RolloutPlan:
    """Return the plan; an empty one where nothing was ever planned.

    Raises:
        BundleError: the file is not a plan.
    """
    try:
        return RolloutPlan.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return RolloutPlan()
    except (ValidationError, UnicodeDecodeError) as error:
        raise BundleError(
            f"{path} is not the plan of a rollout ({str(error).splitlines()[0]}): nothing is tried. Run "
            "`headrace canary` or `headrace shadow`, which write it anew."
        ) from None


def write_plan(path: Path, plan: RolloutPlan) -> None:
    """Replace the plan, whole or not at all."""
    write_text(path, plan.model_dump_json(indent=2))


def write_stop(folder: Path, stop: CanaryStop) -> None:
    """Keep why a canary was stopped; the first reason stays, whichever service was first."""
    path = folder / f"{stop.id}.json"
    if not path.exists():
        write_text(path, stop.model_dump_json(indent=2))


def read_stop(folder: Path, canary: str) -> CanaryStop | None:
    """Return why a canary was stopped, None where it was not.

    Raises:
        BundleError: there is a file that does not say why.
    """
    path = folder / f"{canary}.json"
    try:
        return CanaryStop.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValidationError, UnicodeDecodeError) as error:
        raise BundleError(
            f"{path} does not say why the canary was stopped ({str(error).splitlines()[0]}): remove it to go on."
        ) from None

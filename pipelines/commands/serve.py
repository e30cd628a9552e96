"""`headrace serve`: checks what the service needs, says what is missing in one line, then becomes BentoML."""

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from pipelines.config import load_config
from pipelines.errors import ConfigError
from pipelines.places import HOME_VARIABLE, Places
from pipelines.ports import refuse_taken_port
from pipelines.pseudonyms import Pseudonymizer, load_pseudonym_key, require_key_of_tables

SERVICE = "bentos.recommender.service:Recommender"
BUNDLE_VARIABLE = "HEADRACE_BUNDLE"
API_KEY_VARIABLE = "HEADRACE_API_KEY"
_OVERRIDES = "BENTOML_CONFIG_OVERRIDES"
_BENTOML = (
    "import os, runpy, signal, sys\n"
    "def stop(*_):\n os.write(2, b'Stopped.\\n'); os._exit(130)\n"
    "signal.signal(signal.SIGINT, stop)\n"
    "runpy.run_module('bentoml', run_name='__main__', alter_sys=True)"
)
"""`python -m bentoml`, whose imports take seconds: Ctrl-C in them is one line, until BentoML listens to it itself."""
_PROJECT = Path(__file__).resolve().parents[2]


def serve(*, host: str, port: int, workers: int = 1, environment: Mapping[str, str] = os.environ) -> None:
    """Serve until Ctrl-C; does not return, the process becomes BentoML's.

    Raises:
        ConfigError: the port is taken, there is no key, no setting file or no bundle.
        BundleError: the bundle is incomplete or was changed.
    """
    places = Places.from_environment(environment)
    check_surroundings(places, host=host, port=port, environment=environment)
    os.chdir(_PROJECT)
    arguments = [sys.executable, "-c", _BENTOML, "serve", SERVICE, "--host", host, "--port", str(port)]
    os.execve(sys.executable, arguments, serving_environment(places, environment, workers))  # noqa: S606 - a fixed command


def check_surroundings(places: Places, *, host: str, port: int, environment: Mapping[str, str]) -> None:
    """Check port, settings, key and bundle without importing what the service imports.

    Raises:
        ConfigError: the port is taken, there is no key, no setting file or no bundle, the key is not that of the
            tables, the file of the API keys is broken, or the online store is of an unknown kind.
        BundleError: the bundle is incomplete or was changed.
    """
    from pipelines.inference.manifest import read_manifest, verify_files
    from pipelines.stores.api_keys import read_keys
    from pipelines.stores.feast_settings import online_store_from_environment, online_store_settings
    from pipelines.stores.serving_pointer import read_pointer

    refuse_taken_port(port, "headrace serve --port", host)
    load_config(environment)
    online_store_settings(places.feast, online_store_from_environment(environment))
    named = environment.get(BUNDLE_VARIABLE)
    pointer = read_pointer(places.current_bundle)
    if not named and pointer is None:
        raise ConfigError(
            f"There is no bundle to serve: {BUNDLE_VARIABLE} is not set and nothing was deployed in {places.home}. "
            "Run `headrace loop` (it trains and deploys one), or set HEADRACE_BUNDLE to a bundle's folder."
        )
    folder = Path(named) if named else pointer.folder  # type: ignore[union-attr]
    verify_files(folder, read_manifest(folder))
    key = load_pseudonym_key(places.pseudonym_key, create=False, environment=environment)
    require_key_of_tables(Pseudonymizer(key), places.tables)
    read_keys(places.api_keys)


def serving_environment(places: Places, environment: Mapping[str, str], workers: int = 1) -> dict[str, str]:
    """Return the environment of the service: absolute places, one math thread, no telemetry.

    More workers than one go before what `BENTOML_CONFIG_OVERRIDES` says.

    NumPy's products are small here; with one thread each, requests do not wait for each other's cores. The allocator of
    glibc gives the arrays of a bundle back to the system when it is replaced: without the limits it moves them into
    arenas where they leave holes.
    """
    return {
        "MALLOC_ARENA_MAX": "2",
        "MALLOC_MMAP_THRESHOLD_": str(2**20),
        "MALLOC_TRIM_THRESHOLD_": str(64 * 2**20),
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONWARNINGS": "ignore",
        **environment,
        HOME_VARIABLE: str(places.home),
        "BENTOML_HOME": str(places.bentoml),
        "BENTOML_DO_NOT_TRACK": "True",
        **({_OVERRIDES: json.dumps({"services": {"headrace": {"workers": workers}}})} if workers > 1 else {}),
    }

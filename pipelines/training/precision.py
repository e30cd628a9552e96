"""Number formats of a training step: float32 weights, forward passes in fewer bits where the device computes in them.

Measured on CPUs only; the CUDA paths follow the same lines and were not timed.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, Literal

import torch
from torch import Tensor

from pipelines.errors import ConfigError

PrecisionName = Literal["auto", "float32", "bfloat16", "float16"]


def forward_dtype(wanted: PrecisionName, device: torch.device) -> torch.dtype:
    """Return the format of forward passes.

    `auto` is bfloat16 on a GPU that computes in it, float16 on an older one, and float32 on a CPU, so that every CPU
    trains the same model. One that computes in bfloat16 (`avx512_bf16`, `amx_bf16`) is worth asking for it: an encoder
    step took 0.26 instead of 0.43 s of one core.

    Raises:
        ConfigError: bfloat16 was asked of a GPU that would only emulate it.
    """
    native = device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)
    if wanted == "bfloat16" and not native:
        raise ConfigError(
            f"`training.precision` is bfloat16, which {torch.cuda.get_device_name(device)} does not compute in: "
            "set it to auto (float16 there) or float32."
        )
    if wanted == "auto":
        wanted = "float32" if device.type != "cuda" else "bfloat16" if native else "float16"
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[wanted]


class MixedPrecision:
    """Runs forward passes in `dtype`, and scales losses where float16 would round small gradients to zero.

    Source: mixed precision training with loss scaling (https://arxiv.org/abs/1710.03740).
    """

    def __init__(self, wanted: PrecisionName, device: torch.device) -> None:
        self.dtype = forward_dtype(wanted, device)
        self._device = device
        self._scaler = torch.amp.GradScaler(device.type, enabled=self.dtype is torch.float16)

    def forward_pass(self) -> AbstractContextManager[object]:
        """Return the context of forward passes; in float32 it changes nothing."""
        return torch.autocast(self._device.type, dtype=self.dtype, enabled=self.dtype is not torch.float32)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss, scaled, to those that are there."""
        self._scaler.scale(loss).backward()

    def step(self, optimizer: torch.optim.Optimizer, clipped: list[torch.nn.Parameter], max_norm: float) -> None:
        """Unscale and clip the gradients, and change the weights, unless a scaled gradient overflowed."""
        self._scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(clipped, max_norm)
        self._scaler.step(optimizer)
        self._scaler.update()

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps: the scale and how long it has held; empty without scaling."""
        state: dict[str, Any] = self._scaler.state_dict()
        return state

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on with the scale of a checkpoint; one that was written without scaling leaves it at its start."""
        if state and self._scaler.is_enabled():
            self._scaler.load_state_dict(dict(state))

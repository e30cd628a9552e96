"""Learning rate and device."""

import torch


def warmup_then_linear(step: int, steps: int, warmup_share: float) -> float:
    """Return the factor of the peak learning rate: it rises to 1 during the warm-up, then falls to 0 in a line."""
    warmup = max(1, round(steps * warmup_share))
    if step < warmup:
        return (step + 1) / warmup
    return max(0.0, (steps - step) / max(1, steps - warmup))


def training_device() -> torch.device:
    """Return the GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")

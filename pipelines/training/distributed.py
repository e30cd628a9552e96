"""Several processes that train one model: each works on its share of every batch, and their gradients are added up.

All processes draw the same batch from the same (seed, step), so the model depends on the batch and not on how many
processes shared it. They are started by `torchrun`, or by `pipelines.training.processes`; both say in the
environment who is who.

Source: synchronous data parallelism (https://arxiv.org/abs/2006.15704).
"""

import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pipelines.errors import ConfigError, DataError
from pipelines.training.schedule import training_device

RENDEZVOUS_VARIABLE = "HEADRACE_RENDEZVOUS"
"""Where processes of one machine find each other (`file://…`); without it, where torchrun says."""
_TIMEOUT = timedelta(hours=2)
"""Longest wait for another process; the main one validates and writes while the others wait."""


@dataclass(frozen=True)
class TrainingGroup:
    """The processes that train together, as one of them sees it."""

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes checkpoints, models and progress."""
        return self.rank == 0

    def share(self, n: int, rank: int | None = None) -> slice:
        """Return which of `n` rows this process (or another one) works on: neighbors, as many as the others' ± 1."""
        rank = self.rank if rank is None else rank
        return slice(n * rank // self.size, n * (rank + 1) // self.size)

    def gather(self, rows: Tensor, n: int) -> Tensor:
        """Return the rows of all processes in the order of `share`; gradients flow back to whose rows they are.

        Args:
            rows: `(this process's share of n, …)`.

        Returns:
            `(n, …)`.
        """
        if self.size == 1:
            return rows
        shares = [self.share(n, rank) for rank in range(self.size)]
        longest = max(part.stop - part.start for part in shares)
        padding = rows.new_zeros((longest - len(rows), *rows.shape[1:]))
        parts = _Gather.apply(torch.cat([rows, padding]), self.rank, self.size)
        return torch.cat([part[: share.stop - share.start] for part, share in zip(parts, shares, strict=True)])

    def add_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Replace each gradient by its sum over all processes; a weight that none of them used keeps none."""
        if self.size == 1 or not parameters:
            return
        used = torch.tensor([float(weight.grad is not None) for weight in parameters], device=parameters[0].device)
        parts = [torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in parameters]
        flat = torch.cat([used, *(part.reshape(-1).float() for part in parts)])
        dist.all_reduce(flat)
        start = len(used)
        for weight, users in zip(parameters, flat[:start].tolist(), strict=True):
            end = start + weight.numel()
            weight.grad = flat[start:end].view_as(weight).to(weight.dtype).clone() if users else None
            start = end

    def total(self, value: Tensor) -> float:
        """Return the sum of a scalar over all processes."""
        if self.size > 1:
            value = value.detach().clone()
            dist.all_reduce(value)
        return float(value)

    def from_main(self, compute: Callable[[], float]) -> float:
        """Return what the main process computes; the others wait for it instead of computing it too."""
        if self.size == 1:
            return compute()
        value = torch.tensor(compute() if self.is_main else 0.0, dtype=torch.float64, device=training_device())
        dist.broadcast(value, src=0)
        return float(value)

    def copy_from_main(self, module: nn.Module) -> None:
        """Give every process the main one's weights, to the last bit."""
        if self.size > 1:
            for value in module.state_dict().values():
                dist.broadcast(value, src=0)

    def agree(self, value: int, what: str) -> None:
        """Stop where the processes do not hold the same number.

        Raises:
            DataError: they differ.
        """
        if self.size == 1:
            return
        found = torch.zeros(self.size, dtype=torch.int64, device=training_device())
        found[self.rank] = value
        dist.all_reduce(found)
        if len(set(found.tolist())) > 1:
            raise DataError(
                f"The processes of this training differ in {what}: {', '.join(map(str, found.tolist()))}. "
                "HEADRACE_HOME and the settings must be the same for all of them, on a file system that all share."
            )

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.size > 1:
            dist.barrier()


ALONE = TrainingGroup()
"""One process, which is the main one."""


class _Gather(torch.autograd.Function):
    """Copies equal blocks of rows from every process to every process; the gradient of a block is added up at home."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, rank: int, size: int) -> tuple[Tensor, ...]:
        ctx.rank = rank
        parts = [torch.empty_like(rows) for _ in range(size)]
        dist.all_gather(parts, rows.contiguous())
        return tuple(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        stacked = torch.stack(gradients)
        dist.all_reduce(stacked)
        return stacked[ctx.rank], None, None


@contextmanager
def training_group(environment: Mapping[str, str] = os.environ) -> Iterator[TrainingGroup]:
    """Join the processes that were started with this one; alone where none were.

    Over NCCL with a GPU each where there are GPUs, else over Gloo.

    Raises:
        ConfigError: there are fewer GPUs than processes on this machine.
    """
    size = int(environment.get("WORLD_SIZE", "1"))
    if size == 1:
        yield ALONE
        return
    rank = int(environment["RANK"])
    device = _own_device(environment)
    if environment.get("LOCAL_WORLD_SIZE") == str(size) and "lo" in (name for _, name in socket.if_nameindex()):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # one machine; its host name need not resolve
    dist.init_process_group(
        "nccl" if device else "gloo",
        init_method=environment.get(RENDEZVOUS_VARIABLE) or "env://",
        rank=rank,
        world_size=size,
        timeout=_TIMEOUT,
        device_id=device,
    )
    try:
        yield TrainingGroup(rank, size)
    finally:
        dist.destroy_process_group()


def _own_device(environment: Mapping[str, str]) -> torch.device | None:
    """Take the GPU with this process's number on this machine; None where there are none."""
    if not torch.cuda.is_available():
        return None
    wanted, found = int(environment.get("LOCAL_WORLD_SIZE", "1")), torch.cuda.device_count()
    if wanted > found:
        raise ConfigError(
            f"{wanted} training processes were asked for, but this machine has {found} GPU(s), and each process needs "
            f"one: set `training.processes` (or torchrun's --nproc-per-node) to {found} at most."
        )
    device = torch.device("cuda", int(environment.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    return device

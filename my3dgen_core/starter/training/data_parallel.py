"""Workers that train one model together: each on its own batch and one thread, gradients averaged.

On a CPU this beats one process with as many threads: small layers do not parallelise, processes do.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from pathlib import Path

import torch
import torch.distributed as dist


class DataParallelGroup:
    """`size` processes, this one number `rank`; alone, everything is a no-op."""

    def __init__(self, rank: int = 0, size: int = 1, shared_gradient_buffer: Path | None = None) -> None:
        self.rank, self.size = rank, size
        if size > 1:
            local = [name for _, name in socket.if_nameindex() if name.startswith("lo")]
            os.environ.setdefault("GLOO_SOCKET_IFNAME", local[0] if local else "")
            method = f"file://{shared_gradient_buffer}"
            dist.init_process_group("gloo", init_method=method, rank=rank, world_size=size)

    def average(self, parameters: Iterable[torch.nn.Parameter], value: float) -> float:
        """Averages gradients over the team, in place. Returns the leader's `value`."""
        if self.size == 1:
            return value
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        told = torch.tensor([value if self.rank == 0 else 0.0]) * self.size
        flat = torch.cat([*(gradient.flatten() for gradient in gradients), told])
        dist.all_reduce(flat)
        flat /= self.size
        start = 0
        for gradient in gradients:
            gradient.copy_(flat[start : start + gradient.numel()].view(gradient.shape))
            start += gradient.numel()
        return float(flat[-1])

    def wait(self) -> None:
        """Until everybody is here."""
        if self.size > 1:
            dist.barrier()

"""Data-parallel training: processes with one thread and their own batches, whose gradients are averaged.

On a CPU this is faster than one process with several threads, since small layers hardly parallelize.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from pathlib import Path

import torch
import torch.distributed as dist


class DataParallelGroup:
    """Group of `size` processes, of which this one has number `rank`; methods do nothing for a size of 1.

    Args:
        rank: number of this process; 0 leads.
        size: number of processes.
        rendezvous_file: file through which the processes find each other; required for `size` > 1.
    """

    def __init__(self, rank: int = 0, size: int = 1, rendezvous_file: Path | None = None) -> None:
        self.rank, self.size = rank, size
        if size > 1:
            local = [name for _, name in socket.if_nameindex() if name.startswith("lo")]
            os.environ.setdefault("GLOO_SOCKET_IFNAME", local[0] if local else "")
            method = f"file://{rendezvous_file}"
            dist.init_process_group("gloo", init_method=method, rank=rank, world_size=size)

    def average(self, parameters: Iterable[torch.nn.Parameter], value: float) -> float:
        """Average gradients over all processes in place.

        Args:
            parameters: parameters of the model, in the same order in all processes.
            value: a number; that of the leader is shared.

        Returns:
            The leader's `value`.
        """
        if self.size == 1:
            return value
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        shared = torch.tensor([value if self.rank == 0 else 0.0]) * self.size
        flat = torch.cat([*(gradient.flatten() for gradient in gradients), shared])
        dist.all_reduce(flat)
        flat /= self.size
        start = 0
        for gradient in gradients:
            gradient.copy_(flat[start : start + gradient.numel()].view(gradient.shape))
            start += gradient.numel()
        return float(flat[-1])

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.size > 1:
            dist.barrier()

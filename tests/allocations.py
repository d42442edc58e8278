"""Peak memory of a piece of work, by PyTorch's own record of tensor allocations."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch.profiler import ProfilerActivity, profile


def peak(run: Callable[[], Any]) -> int:
    """Peak bytes of all tensors that `run` allocates, beyond those that existed before.

    Operations' own scratch tensors count. What compiled code keeps for itself, without PyTorch, does not.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        result = run()
    del result
    assert watched.profiler is not None
    tree = watched.profiler.kineto_results.experimental_event_tree()  # type: ignore[union-attr]
    alive = most = 0
    for _, size in sorted(_allocations(tree)):
        alive += size
        most = max(most, alive)
    return most


def _allocations(events: Iterable[Any]) -> Iterator[tuple[int, int]]:
    """(time, bytes) of every allocation, and of every release with a minus sign."""
    for event in events:
        if event.tag.name == "Allocation":
            yield event.start_time_ns, event.extra_fields.alloc_size
        yield from _allocations(event.children)

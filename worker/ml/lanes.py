"""Batches side by side: on a CPU every batch runs on few threads, because threads that share one operation of a small
network wait for one another at each of its hundreds of operations."""

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event
from typing import TypeVar

import torch

from app.domain.errors import JobCancelledError

_LANE_PIXELS = 8 * 64 * 64
"""Pixels of a CPU's batch: more cost page faults and fall out of its caches, fewer leave the cost of calling the
operations."""

_MOST_LANES = 16
_POLL_SECONDS = 0.5

T = TypeVar("T")
Work = Callable[[Sequence[int], Callable[[], None]], T]
"""From the seeds of a batch to its result. Calls its second argument between steps, which raises to stop."""


@dataclass(frozen=True)
class Plan:
    lanes: int
    threads: int
    """Of torch, within each lane."""
    batch_size: int


def plan(n: int, *, batch_size: int, image_size: int, device: torch.device) -> Plan:
    """How `n` images are drawn: one lane on an accelerator, as many as torch has threads on a CPU.

    Args:
        batch_size: the largest; a CPU takes smaller ones for large images, or where a lane would stay empty.
    """
    threads = torch.get_num_threads()
    if device.type != "cpu":
        return Plan(1, threads, batch_size)
    most = min(threads, _MOST_LANES)
    batch_size = max(1, min(batch_size, _LANE_PIXELS // image_size**2, math.ceil(n / most)))
    lanes = max(1, min(most, math.ceil(n / batch_size)))
    return Plan(lanes, threads // lanes, batch_size)


@contextmanager
def side_by_side(
    work: Work[T],
    seeds: Sequence[int],
    *,
    batch_size: int,
    image_size: int,
    device: torch.device,
    should_stop: Callable[[], bool],
) -> Iterator[Iterator[tuple[Sequence[int], T]]]:
    """Work on the seeds batch by batch; inside, every batch and its result, in order.

    While the block runs, torch has no more threads in the calling thread than in a lane. What the block does with one
    batch overlaps with the work on the next ones; leaving it early abandons those.

    Raises:
        JobCancelledError: `should_stop`, which is asked in the calling thread, said so.
    """
    chosen = plan(len(seeds), batch_size=batch_size, image_size=image_size, device=device)
    batches = [seeds[first : first + chosen.batch_size] for first in range(0, len(seeds), chosen.batch_size)]
    threads_before = torch.get_num_threads()
    abandoned = Event()

    def go_on() -> None:
        if abandoned.is_set():
            raise JobCancelledError("Abandoned.")

    # torch's number of threads is a thread's own where it parallelises with OpenMP
    pool = ThreadPoolExecutor(chosen.lanes, "lane", initializer=torch.set_num_threads, initargs=(chosen.threads,))
    torch.set_num_threads(chosen.threads)
    try:
        yield _in_order(lambda batch: pool.submit(work, batch, go_on), batches, chosen.lanes + 1, should_stop)
    finally:
        abandoned.set()
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads_before)


def _in_order(
    submit: Callable[[Sequence[int]], Future[T]],
    batches: Sequence[Sequence[int]],
    ahead: int,
    should_stop: Callable[[], bool],
) -> Iterator[tuple[Sequence[int], T]]:
    """Results in the order of the batches, with at most `ahead` of them begun and not yet handed out."""
    begun = deque((batch, submit(batch)) for batch in batches[:ahead])
    rest = iter(batches[ahead:])
    done = 0
    while begun:
        batch, future = begun.popleft()
        while True:
            if should_stop():
                raise JobCancelledError(f"Stopped after {done} of {sum(map(len, batches))} images.")
            if wait([future], _POLL_SECONDS).done:
                break
        if (following := next(rest, None)) is not None:
            begun.append((following, submit(following)))
        yield batch, future.result()
        done += len(batch)

"""The processes ("ranks") that share one finetune: each rolls out its own samples, gradients are summed over all.

Every rank holds the same weights and takes the same optimiser steps, so nothing but rewards and gradients travels.
"""

import os
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

T = TypeVar("T")
_ENVIRONMENT = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")  # what torchrun would have set
_PATIENCE = timedelta(minutes=30)  # rank 0 stores checkpoints and scores held-out rewards while the others wait


@runtime_checkable
class Ranks(Protocol):
    """Where this process stands among `count` ranks, and what they exchange; all make the same calls in turn."""

    index: int
    count: int

    def rows(self, mine: Shaped[np.ndarray, "m ..."]) -> Shaped[np.ndarray, "n ..."]:
        """The rows of all ranks in order: rank r holds every `count`-th row from row r on."""
        ...

    def everyone(self, value: T) -> list[T]:
        """What each rank has for `value`, by rank."""
        ...

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replace every tensor by its sum over the ranks, in place."""
        ...

    def from_main(self, value: T) -> T:
        """Rank 0's `value`."""
        ...


class Alone:
    """The only rank there is."""

    index = 0
    count = 1

    def rows(self, mine: Shaped[np.ndarray, "m ..."]) -> Shaped[np.ndarray, "n ..."]:
        return mine

    def everyone(self, value: T) -> list[T]:
        return [value]

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Nothing to add."""

    def from_main(self, value: T) -> T:
        return value


class AccelerateRanks:
    """Ranks of one host, one process each, joined by Accelerate over NCCL (GPUs) or gloo (CPU)."""

    def __init__(self, rendezvous: Path, *, index: int, count: int, device: torch.device) -> None:
        """Join the others; returns when all are there.

        Args:
            rendezvous: a file that none has used before, in a folder that all ranks see.
            device: this rank's own, for example `cuda:1`.
        """
        from accelerate import PartialState  # takes a second to import, which runs on one rank need not wait for

        self.index, self.count = index, count
        here = zip(_ENVIRONMENT, (index, index, count, count), strict=True)
        os.environ |= {name: str(value) for name, value in here}
        os.environ.setdefault("OMP_NUM_THREADS", str(torch.get_num_threads()))  # Accelerate sets its own otherwise
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        if device.type == "cuda":
            torch.cuda.set_device(device)
        torch.distributed.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            init_method=f"file://{rendezvous.absolute()}",
            rank=index,
            world_size=count,
            timeout=_PATIENCE,
        )
        self._state = PartialState(cpu=device.type == "cpu")

    def rows(self, mine: Shaped[np.ndarray, "m ..."]) -> Shaped[np.ndarray, "n ..."]:
        parts = self.everyone(mine)
        whole = np.empty((sum(map(len, parts)), *mine.shape[1:]), mine.dtype)
        for rank, part in enumerate(parts):
            whole[rank :: self.count] = part
        return whole

    def everyone(self, value: T) -> list[T]:
        from accelerate.utils import gather_object

        found: list[T] = gather_object([value])
        return found

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        from accelerate.utils import reduce

        flat = reduce(torch.cat([tensor.reshape(-1) for tensor in tensors]), "sum")
        for tensor, total in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(total.reshape(tensor.shape))

    def from_main(self, value: T) -> T:
        from accelerate.utils import broadcast_object_list

        shared: T = broadcast_object_list([value])[0]
        return shared

    def leave(self) -> None:
        """Say goodbye to the others."""
        torch.distributed.destroy_process_group()
        self._state._reset_state()
        for name in _ENVIRONMENT:
            os.environ.pop(name, None)

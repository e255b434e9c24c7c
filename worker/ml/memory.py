"""Running out of memory, said so that an operator knows what to change."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from app.domain.errors import JobError


@contextmanager
def explain_out_of_memory(batch_size: int) -> Iterator[None]:
    """Turn the allocator's error into a sentence that names the batch size to try.

    Raises:
        JobError: the device (or the machine's main memory) could not hold a batch of `batch_size` images.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise _explained(batch_size) from error
    except RuntimeError as error:
        if "DefaultCPUAllocator" in str(error):  # the only sign that the CPU allocator gives
            raise _explained(batch_size) from error
        raise


def _explained(batch_size: int) -> JobError:
    if batch_size <= 1:
        return JobError("Out of memory with a batch of one image; use bf16, gradient checkpointing or a larger device.")
    return JobError(f"Out of memory with batches of {batch_size} images; try batch_size {max(1, batch_size // 2)}.")

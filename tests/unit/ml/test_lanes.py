"""Batches side by side: the same results in the same order, however many lanes there are."""

from collections.abc import Callable, Iterator, Sequence
from threading import Barrier

import numpy as np
import pytest
import torch
from tiny import tiny_policy
from torch import Tensor

from app.domain.errors import JobCancelledError
from worker.ml.ddim import Schedule
from worker.ml.lanes import Plan, Work, plan, side_by_side
from worker.ml.progress import SilentMonitor
from worker.ml.rollout import draw_samples

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def collect_batches(work: Work[int], n: int, batch_size: int) -> list[tuple[list[int], int]]:
    with side_by_side(
        work, range(n), batch_size=batch_size, image_size=64, device=CPU, should_stop=lambda: False
    ) as batches:
        return [(list(batch), result) for batch, result in batches]


@pytest.mark.parametrize(
    ("n", "image_size", "threads", "expected"),
    [
        (1000, 64, 2, Plan(lanes=2, threads=1, batch_size=8)),
        (1000, 32, 2, Plan(lanes=2, threads=1, batch_size=16)),
        (1000, 64, 1, Plan(lanes=1, threads=1, batch_size=8)),
        (10, 64, 2, Plan(lanes=2, threads=1, batch_size=5)),  # no lane stays empty
        (1, 64, 2, Plan(lanes=1, threads=2, batch_size=1)),  # a single image has all threads
        (0, 64, 2, Plan(lanes=1, threads=2, batch_size=1)),
        (1000, 128, 2, Plan(lanes=2, threads=1, batch_size=2)),
        (1000, 256, 2, Plan(lanes=2, threads=1, batch_size=1)),
        (1000, 512, 2, Plan(lanes=2, threads=1, batch_size=1)),
        (1000, 64, 64, Plan(lanes=16, threads=4, batch_size=8)),
    ],
)
def test_a_cpu_has_a_lane_a_thread_and_batches_that_fit_its_caches(
    n: int, image_size: int, threads: int, expected: Plan
) -> None:
    torch.set_num_threads(threads)
    assert plan(n, batch_size=16, image_size=image_size, device=CPU) == expected


def test_an_accelerator_has_one_lane_and_the_batches_it_was_given() -> None:
    assert plan(1000, batch_size=100, image_size=256, device=torch.device("cuda")) == Plan(1, 2, 100)


def test_lanes_run_at_once_and_results_keep_the_order_of_the_batches() -> None:
    both = Barrier(2, timeout=60)  # breaks unless two batches are in work at the same time

    def work(batch: Sequence[int], go_on: Callable[[], None]) -> int:
        both.wait()
        return batch[0]

    assert collect_batches(work, 8, 2) == [([0, 1], 0), ([2, 3], 2), ([4, 5], 4), ([6, 7], 6)]


def test_the_calling_thread_has_a_lanes_threads_inside_and_its_own_again_after() -> None:
    seen: list[int] = []

    def work(batch: Sequence[int], go_on: Callable[[], None]) -> int:
        if batch[0] == 6:
            raise MemoryError
        return torch.get_num_threads()

    def consume() -> None:
        with side_by_side(
            work, range(8), batch_size=2, image_size=64, device=CPU, should_stop=lambda: False
        ) as batches:
            for _, threads in batches:
                seen.extend([threads, torch.get_num_threads()])

    with pytest.raises(MemoryError):
        consume()
    assert seen == [1] * 6
    assert torch.get_num_threads() == 2


def test_samples_are_the_same_bit_for_bit_in_one_lane_and_in_two() -> None:
    policy = tiny_policy()

    def draw(threads: int) -> np.ndarray:
        torch.set_num_threads(threads)
        return draw_samples(policy, range(12), steps=5, eta=1.0, monitor=SilentMonitor(), batch_size=3)

    np.testing.assert_array_equal(draw(2), draw(1))


class CountingGuidance:
    """Steers nowhere."""

    steps = 0

    def __call__(self, x_t: Tensor, schedule: Schedule, step: int) -> Tensor:
        self.steps += 1
        return torch.zeros_like(x_t)


def test_a_cancel_is_heard_in_the_middle_of_a_batch() -> None:
    guidance = CountingGuidance()

    class Monitor(SilentMonitor):
        def should_stop(self) -> bool:
            return guidance.steps > 3

    with pytest.raises(JobCancelledError, match="Stopped after 0 of 1 images"):
        draw_samples(tiny_policy(), [1], steps=1000, eta=1.0, monitor=Monitor(), guidance=guidance)
    assert guidance.steps < 1000


def test_what_the_caller_raises_abandons_the_rest() -> None:
    guidance = CountingGuidance()

    def store(batch: Sequence[int], images: np.ndarray) -> None:
        raise ConnectionError

    with pytest.raises(ConnectionError):
        draw_samples(
            tiny_policy(),
            range(200),
            steps=2,
            eta=1.0,
            monitor=SilentMonitor(),
            batch_size=2,
            guidance=guidance,
            on_batch=store,
        )
    assert guidance.steps < 100 * 2

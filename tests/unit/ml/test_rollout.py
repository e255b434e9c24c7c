"""Samples belong to their seed: any batch size, any order, and the same as diffusers' own loop."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from tiny import SCHEDULER, tiny_policy

from app.domain.errors import JobCancelledError, JobError
from worker.ml import ddim
from worker.ml.memory import explain_out_of_memory
from worker.ml.noise import START, noise_of_step, training_seeds
from worker.ml.policy import Policy
from worker.ml.progress import SilentMonitor
from worker.ml.rollout import collect, decode, draw_samples

SHAPE = (3, 8, 8)


def same_image(one: np.ndarray, other: np.ndarray) -> bool:
    """Equal but for a rounding at a half: float sums differ in the last bit between batch sizes."""
    return bool(np.abs(one.astype(int) - other.astype(int)).max() <= 1)


def test_noise_is_a_function_of_seed_and_step_alone() -> None:
    together = noise_of_step([0, 7, 650], 3, SHAPE)
    assert torch.equal(noise_of_step([650], 3, SHAPE)[0], together[2])
    assert not torch.equal(noise_of_step([650], 4, SHAPE)[0], together[2])
    assert not torch.equal(together[0], together[1])


def test_noise_is_standard_normal() -> None:
    noise = noise_of_step(range(400), 5, SHAPE)
    assert abs(float(noise.mean())) < 4 / noise.numel() ** 0.5
    assert float(noise.var()) == pytest.approx(1, abs=0.03)
    corner = noise[:, 0, 0, 0]  # across seeds: streams of neighbouring seeds are independent
    assert abs(float((corner[1:] * corner[:-1]).mean())) < 4 / 400**0.5


def test_training_seeds_are_never_evaluation_seeds() -> None:
    drawn = [*training_seeds(0, 1, 100), *training_seeds(0, 2, 100), *training_seeds(1, 1, 100)]
    assert len(set(drawn)) == 300
    assert min(drawn) > 2**31


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_a_seed_gives_the_same_sample_at_any_batch_size_and_order(policy: Policy, batch_size: int) -> None:
    def draw(seeds: Sequence[int], size: int) -> np.ndarray:
        return draw_samples(policy, seeds, steps=5, eta=1.0, monitor=SilentMonitor(), batch_size=size)

    forward = draw([0, 1, 2, 3, 4], 5)
    assert same_image(draw([4, 3, 2, 1, 0], batch_size)[::-1], forward)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_samples_are_those_of_diffusers_own_loop(policy: Policy, eta: float) -> None:
    scheduler = DDIMScheduler.from_config(SCHEDULER)
    scheduler.set_timesteps(6)
    x = noise_of_step([11], START, SHAPE)
    with torch.no_grad():
        for i, t in enumerate(scheduler.timesteps):
            noise = noise_of_step([11], i + 1, SHAPE)
            x = scheduler.step(
                policy.unet(x, t).sample, t, x, eta=eta, variance_noise=noise if eta else None
            ).prev_sample
    drawn = draw_samples(policy, [11], steps=6, eta=eta, monitor=SilentMonitor())
    assert same_image(drawn, decode(x))


def test_all_steps_with_eta_one_are_the_ancestral_sampler_of_ddpm() -> None:
    """Algorithm 2 (arXiv:2006.11239) written out, with the posterior's variance."""
    total, shape = 60, (1, *SHAPE)
    policy = Policy(tiny_policy().unet, {**SCHEDULER, "num_train_timesteps": total, "clip_sample": False})
    beta = torch.linspace(1e-4, 0.02, total, dtype=torch.float64)
    alpha_bar = torch.cumprod(1 - beta, 0)
    x = noise_of_step([5], START, SHAPE)
    for i, t in enumerate(reversed(range(total))):
        with torch.no_grad():
            noise_pred = policy.unet(x, t).sample
        x = (x - float(beta[t] / (1 - alpha_bar[t]).sqrt()) * noise_pred) / float((1 - beta[t]).sqrt())
        if t > 0:
            variance = beta[t] * (1 - alpha_bar[t - 1]) / (1 - alpha_bar[t])
            x = x + float(variance.sqrt()) * noise_of_step([5], i + 1, SHAPE)
    assert x.shape == shape
    assert same_image(draw_samples(policy, [5], steps=total, eta=1.0, monitor=SilentMonitor()), decode(x))


def test_decode_rounds_and_clamps() -> None:
    x = torch.tensor([-2.0, -1.0, 0.0, 1.0, 3.0, 0.5]).reshape(1, 1, 2, 3).expand(1, 3, 2, 3)
    assert decode(x)[0, :, :, 0].reshape(-1).tolist() == [0, 0, 128, 255, 255, 191]


def test_trajectories_hold_what_the_log_prob_was_computed_of(policy: Policy) -> None:
    schedule = ddim.make_schedule(SCHEDULER, steps=6, eta=1.0)
    found = collect(policy, [1, 2, 3], schedule, batch_size=2)
    for step in schedule.trainable:
        index = torch.full((3,), step)
        with torch.no_grad():
            output = policy.predict(found.x[:, step], schedule.timesteps[index])
        mean = ddim.transition_mean(schedule, index, *ddim.predict(schedule, index, found.x[:, step], output))
        again = ddim.log_prob(schedule, index, found.x[:, step + 1], mean)
        torch.testing.assert_close(found.log_prob[:, step], again, rtol=0, atol=1e-2)
    assert torch.isnan(found.log_prob[:, -1]).all()


def test_kl_to_the_reference_is_zero_for_itself_and_positive_for_another(policy: Policy) -> None:
    schedule = ddim.make_schedule(SCHEDULER, steps=6, eta=1.0)
    itself = collect(policy, range(10), schedule, batch_size=4, reference=tiny_policy())
    other = collect(policy, range(10), schedule, batch_size=4, reference=tiny_policy(seed=1))
    assert itself.kl.shape == (8, 6)
    assert float(itself.kl.max()) < 1e-3
    assert float(other.kl.sum(1).min()) > 1
    assert float(other.kl[:, -1].max()) == 0  # the last transition has no density


class StopAfter(SilentMonitor):
    def __init__(self, batches: int) -> None:
        self.left = batches

    def progress(self, fraction: float, *, stage: str) -> None:
        self.left -= 1

    def should_stop(self) -> bool:
        return self.left == 0


def test_a_cancel_between_batches_keeps_what_was_finished(policy: Policy) -> None:
    seen: list[int] = []
    with pytest.raises(JobCancelledError):
        draw_samples(
            policy, range(9), steps=2, eta=1.0, monitor=StopAfter(2), batch_size=3, on_batch=lambda s, _: seen.extend(s)
        )
    assert seen == [0, 1, 2, 3, 4, 5]


def test_progress_covers_its_share_of_the_job(policy: Policy) -> None:
    reports: list[float] = []

    class Recorder(SilentMonitor):
        def progress(self, fraction: float, *, stage: str) -> None:
            reports.append(fraction)

    draw_samples(policy, range(4), steps=2, eta=0.0, monitor=Recorder(), batch_size=2, fraction=(0.2, 0.6))
    assert reports == pytest.approx([0.4, 0.6])


def test_running_out_of_memory_names_the_batch_size_to_try() -> None:
    with pytest.raises(JobError, match="try batch_size 16"), explain_out_of_memory(32):
        raise torch.OutOfMemoryError
    with pytest.raises(JobError, match="try batch_size 16"), explain_out_of_memory(32):
        torch.empty(1 << 60)

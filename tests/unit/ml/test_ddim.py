"""The DDIM transition against closed forms and against diffusers' own scheduler, on every timestep."""

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from torch.distributions import Normal, kl_divergence

from app.domain.errors import JobError
from worker.ml import ddim

CONFIG = {"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}
ALPHA_BAR = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)


def images(n: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, 3, 4, 4, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("steps", [1000, 40, 30])
@pytest.mark.parametrize("eta", [0.0, 0.37, 1.0])
def test_sigma_is_eq_16_on_every_timestep(steps: int, eta: float) -> None:
    schedule = ddim.make_schedule(CONFIG, steps=steps, eta=eta)
    previous = torch.cat([ALPHA_BAR[schedule.timesteps[1:]], torch.ones(1, dtype=torch.float64)])
    here = ALPHA_BAR[schedule.timesteps]
    expected = eta * ((1 - previous) / (1 - here) * (1 - here / previous)).sqrt()
    torch.testing.assert_close(schedule.sigma, expected, rtol=2e-3, atol=1e-7)


def test_forty_steps_are_the_leading_ones() -> None:
    assert ddim.make_schedule(CONFIG, steps=40, eta=1.0).timesteps.tolist() == list(range(975, -1, -25))


@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_a_transition_is_diffusers_step_on_every_timestep(eta: float, clip: bool, prediction_type: str) -> None:
    config = {**CONFIG, "prediction_type": prediction_type, "clip_sample": clip}
    schedule = ddim.make_schedule(config, steps=50, eta=eta)
    oracle = DDIMScheduler.from_config(config)
    oracle.set_timesteps(50)
    x_t, output, noise = images(50, 1), images(50, 2), images(50, 3)
    index = torch.arange(50)
    x_0_pred, noise_pred = ddim.predict(schedule, index, x_t, output)
    mean = ddim.transition_mean(schedule, index, x_0_pred, noise_pred)
    x_prev = mean + schedule.sigma.float()[:, None, None, None] * noise
    for i, timestep in enumerate(oracle.timesteps):
        expected = oracle.step(output[i : i + 1], timestep, x_t[i : i + 1], eta=eta, variance_noise=noise[i : i + 1])
        torch.testing.assert_close(x_0_pred[i : i + 1], expected.pred_original_sample, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(x_prev[i : i + 1], expected.prev_sample, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("eta", [0.25, 0.75, 1.0])
def test_every_one_of_the_1000_timesteps_is_diffusers_step(eta: float) -> None:
    schedule = ddim.make_schedule(CONFIG, steps=1000, eta=eta)
    oracle = DDIMScheduler.from_config(CONFIG)
    oracle.set_timesteps(1000)
    assert torch.equal(schedule.timesteps, oracle.timesteps.long())
    x_t, output, noise = images(1000, 1), images(1000, 2), images(1000, 3)
    index = torch.arange(1000)
    mean = ddim.transition_mean(schedule, index, *ddim.predict(schedule, index, x_t, output))
    x_prev = mean + schedule.sigma.float()[:, None, None, None] * noise
    expected = torch.cat(
        [
            oracle.step(
                output[i : i + 1], timestep, x_t[i : i + 1], eta=eta, variance_noise=noise[i : i + 1]
            ).prev_sample
            for i, timestep in enumerate(oracle.timesteps)
        ]
    )
    torch.testing.assert_close(x_prev, expected, rtol=1e-3, atol=1e-3)


def test_eta_one_over_all_timesteps_is_the_ddpm_posterior() -> None:
    """Variance beta_tilde, and the mean of Algorithm 2, as diffusers' ancestral sampler computes it."""
    config = {**CONFIG, "clip_sample": False}
    schedule = ddim.make_schedule(config, steps=1000, eta=1.0)
    oracle = DDPMScheduler.from_config({**config, "variance_type": "fixed_small"})
    t = schedule.timesteps
    previous = torch.cat([torch.ones(1, dtype=torch.float64), ALPHA_BAR[:-1]])
    beta = 1 - ALPHA_BAR / previous
    beta_tilde = ((1 - previous) / (1 - ALPHA_BAR) * beta)[t]
    torch.testing.assert_close(schedule.sigma**2, beta_tilde, rtol=5e-3, atol=1e-9)
    x_t, output = images(1000, 1), images(1000, 2)
    mean = ddim.transition_mean(schedule, torch.arange(1000), *ddim.predict(schedule, torch.arange(1000), x_t, output))
    posterior = (x_t - (beta / (1 - ALPHA_BAR).sqrt())[t].float()[:, None, None, None] * output) / (
        (1 - beta)[t].float().sqrt()[:, None, None, None]
    )
    torch.testing.assert_close(mean, posterior, rtol=1e-3, atol=1e-3)
    last = oracle.step(output[-1:], 0, x_t[-1:]).prev_sample
    torch.testing.assert_close(mean[-1:], last, rtol=1e-3, atol=1e-3)


def test_batched_timesteps_equal_single_ones() -> None:
    schedule = ddim.make_schedule(CONFIG, steps=20, eta=1.0)
    index = torch.tensor([3, 0, 18, 7, 3])
    x_t, output, x_prev = images(5, 1), images(5, 2), images(5, 3)
    mean = ddim.transition_mean(schedule, index, *ddim.predict(schedule, index, x_t, output))
    together = ddim.log_prob(schedule, index, x_prev, mean)
    for row, step in enumerate(index):
        one = slice(row, row + 1)
        mean_one = ddim.transition_mean(
            schedule, step[None], *ddim.predict(schedule, step[None], x_t[one], output[one])
        )
        assert torch.equal(mean_one, mean[one])
        assert torch.equal(ddim.log_prob(schedule, step[None], x_prev[one], mean_one), together[one])


def test_log_prob_is_the_joint_gaussian_density_in_nats() -> None:
    schedule = ddim.make_schedule(CONFIG, steps=20, eta=0.7)
    index = torch.arange(19)
    mean = images(19, 1)
    x_prev = mean + schedule.sigma[index].float()[:, None, None, None] * images(19, 2)
    sigma = schedule.sigma[index][:, None, None, None].expand(19, 3, 4, 4)
    expected = Normal(mean.double(), sigma).log_prob(x_prev.double()).flatten(1).sum(1)
    torch.testing.assert_close(ddim.log_prob(schedule, index, x_prev, mean), expected, rtol=1e-4, atol=2e-3)


def test_kl_is_the_closed_form_of_two_gaussians() -> None:
    schedule = ddim.make_schedule(CONFIG, steps=20, eta=1.0)
    index = torch.arange(19)
    mean, reference = images(19, 1), images(19, 2)
    sigma = schedule.sigma[index][:, None, None, None].expand(19, 3, 4, 4)
    expected = kl_divergence(Normal(mean.double(), sigma), Normal(reference.double(), sigma)).flatten(1).sum(1)
    torch.testing.assert_close(ddim.gaussian_kl(schedule, index, mean, reference), expected, rtol=1e-5, atol=1e-4)


def test_a_deterministic_transition_has_no_density() -> None:
    schedule = ddim.make_schedule(CONFIG, steps=20, eta=1.0)
    assert float(schedule.sigma[-1]) == 0.0
    assert schedule.trainable == list(range(19))
    with pytest.raises(JobError, match="sigma = 0"):
        ddim.log_prob(schedule, torch.tensor([19]), images(1), images(1))


def test_squared_score_is_the_gradient_that_autograd_finds() -> None:
    schedule = ddim.make_schedule({**CONFIG, "clip_sample": False}, steps=20, eta=1.0)
    index = torch.arange(19)
    x_t, output = images(19, 1), images(19, 2).requires_grad_()
    mean = ddim.transition_mean(schedule, index, *ddim.predict(schedule, index, x_t, output))
    x_prev = mean.detach() + schedule.sigma[index].float()[:, None, None, None] * images(19, 3)
    log_prob = ddim.log_prob(schedule, index, x_prev, mean)
    (gradient,) = torch.autograd.grad(log_prob.sum(), output)
    padded = torch.cat([log_prob.detach(), torch.tensor([torch.nan], dtype=torch.float64)])[None]
    score = ddim.squared_score(schedule, padded, dimensions=48)[0]
    torch.testing.assert_close(score[:19], gradient.double().square().flatten(1).sum(1), rtol=1e-3, atol=1e-3)
    assert float(score[19]) == 0.0


@pytest.mark.parametrize("steps", [10, 20, 40])
def test_step_weights_tame_the_stiff_last_transition_and_nothing_else(steps: int) -> None:
    schedule = ddim.make_schedule(CONFIG, steps=steps, eta=1.0)
    slope, weights = ddim.score_slope(schedule)[:-1], ddim.step_weights(schedule)[:-1]
    assert float(slope[-1] / slope.median()) > 10
    assert float((slope * weights).max() / slope.median()) <= 2.0 + 1e-9
    assert torch.equal(weights[: int(0.9 * steps) - 1], torch.ones(int(0.9 * steps) - 1, dtype=torch.float64))


def test_outside_the_sde_window_steps_are_deterministic() -> None:
    schedule = ddim.make_schedule(CONFIG, steps=20, eta=1.0, window=(4, 5))
    assert schedule.trainable == [4, 5, 6, 7, 8]
    full = ddim.make_schedule(CONFIG, steps=20, eta=1.0)
    assert torch.equal(schedule.sigma[4:9], full.sigma[4:9])


def test_more_steps_than_timesteps_is_refused_before_any_work() -> None:
    with pytest.raises(JobError, match="1000 timesteps"):
        ddim.make_schedule(CONFIG, steps=1001, eta=1.0)


def test_any_subsequence_of_the_timesteps_is_a_schedule() -> None:
    chosen = [990, 700, 699, 12, 3]
    schedule = ddim.make_schedule(CONFIG, steps=chosen, eta=0.5)
    assert schedule.timesteps.tolist() == chosen
    here, following = ALPHA_BAR[chosen], torch.cat([ALPHA_BAR[chosen[1:]], torch.ones(1, dtype=torch.float64)])
    expected = 0.5 * ((1 - following) / (1 - here) * (1 - here / following)).sqrt()
    torch.testing.assert_close(schedule.sigma, expected, rtol=2e-3, atol=1e-7)
    leading = ddim.make_schedule(CONFIG, steps=40, eta=1.0)
    again = ddim.make_schedule(CONFIG, steps=leading.timesteps.tolist(), eta=1.0)
    assert torch.equal(again.sigma, leading.sigma)


@pytest.mark.parametrize(
    ("timesteps", "because"),
    [([], "no timesteps"), ([3, 3], "fall strictly"), ([1, 5], "fall strictly"), ([1000, 1], "between 0 and 999")],
)
def test_what_is_no_subsequence_is_refused(timesteps: list[int], because: str) -> None:
    with pytest.raises(JobError, match=because):
        ddim.make_schedule(CONFIG, steps=timesteps, eta=1.0)


def test_dynamic_thresholding_is_refused() -> None:
    with pytest.raises(JobError, match="thresholding"):
        ddim.make_schedule({**CONFIG, "thresholding": True}, steps=10, eta=1.0)

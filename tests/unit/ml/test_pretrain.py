"""Pretraining against closed forms, diffusers' own noising, and itself when interrupted."""

import json

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler

from app.domain.errors import CorruptDataError, JobCancelledError, JobError
from app.domain.specs import PretrainSpec
from worker.ml.policy import load_policy, save_policy
from worker.ml.pretrain import _move_average, build_unet, diffuse, ema_decay, learning_rate, pretrain
from worker.ml.pretrained import BUNDLED
from worker.ml.progress import SilentMonitor

SPEC = PretrainSpec(
    image_size=8, channels=(8, 8), steps=6, batch_size=4, lr=1e-3, warmup=2, ema=0.9, save_every=2, seed=0
)
IMAGES = np.full((5, 8, 8, 3), (200, 40, 90), np.uint8)
IMAGES[:, :4] = np.arange(5, dtype=np.uint8)[:, None, None, None] * 50


class Results:
    def __init__(self):
        self.states, self.sheets = [], []

    def save_state(self, step, path):
        self.states.append((step, path.read_bytes()))

    def sheet(self, step, images):
        self.sheets.append((step, images))


class Recorder(SilentMonitor):
    """Keeps metrics; stops after `stop_after` looks at the clock of the run."""

    def __init__(self, stop_after=None):
        self.rows, self._looks, self._stop_after = [], 0, stop_after

    def metrics(self, row):
        self.rows.append(dict(row))

    def should_stop(self):
        self._looks += 1
        return self._stop_after is not None and self._looks > self._stop_after


def weights(policy):
    return torch.cat([value.flatten() for value in policy.unet.state_dict().values()])


def run(tmp_path, spec=SPEC, images=IMAGES, results=None, monitor=None, **options):
    return pretrain(
        spec, images, sink=results or Results(), monitor=monitor or SilentMonitor(), workdir=tmp_path, **options
    )


def test_the_default_spec_describes_the_bundled_network():
    stored = json.loads((BUNDLED["critters-64"] / "unet" / "config.json").read_text())
    built = json.loads(build_unet(PretrainSpec()).to_json_string())
    assert {key: value for key, value in built.items() if not key.startswith("_")} == {
        key: value for key, value in stored.items() if not key.startswith("_")
    }


def test_noising_is_what_diffusers_does():
    scheduler = DDPMScheduler()
    x_0, noise = torch.randn(3, 3, 8, 8), torch.randn(3, 3, 8, 8)
    t = torch.tensor([0, 500, 999])
    torch.testing.assert_close(
        diffuse(x_0, noise, scheduler.alphas_cumprod[t]), scheduler.add_noise(x_0, noise, t), rtol=1e-5, atol=1e-6
    )


def test_the_learning_rate_warms_up_holds_and_falls_to_zero():
    spec = PretrainSpec(steps=1000, warmup=100, lr=1e-3)
    assert [learning_rate(spec, step) for step in (0, 49, 99, 300, 500)] == pytest.approx(
        [1e-5, 5e-4, 1e-3, 1e-3, 1e-3]
    )
    assert [learning_rate(spec, step) for step in (750, 999, 1000)] == pytest.approx([5e-4, 2e-6, 0])


def test_the_average_of_constant_weights_forgets_its_start_geometrically():
    average, target = [torch.zeros(3)], [torch.full((3,), 2.0)]
    for _ in range(5):
        _move_average(average, target, 0.9)
    torch.testing.assert_close(average[0], torch.full((3,), 2 * (1 - 0.9**5)))


def test_the_average_decays_faster_at_first():
    spec = PretrainSpec(ema=0.998)
    assert ema_decay(spec, 0) == pytest.approx(0.1)
    assert ema_decay(spec, 90) == pytest.approx(0.91)
    assert ema_decay(spec, 100_000) == 0.998


def test_the_loss_goes_down(tmp_path):
    spec = SPEC.model_copy(update={"steps": 150, "batch_size": 8, "save_every": 150, "lr": 3e-3})
    monitor = Recorder()
    run(tmp_path, spec, monitor=monitor)
    losses = [row["loss"] for row in monitor.rows]
    assert [row["epoch"] for row in monitor.rows] == [50, 100, 150]
    assert losses[0] < 1.1  # the error of predicting nothing is 1
    assert losses[-1] < 0.6 * losses[0]


def test_a_run_that_was_interrupted_ends_with_the_same_weights(tmp_path):
    whole = run(tmp_path)
    results = Results()
    with pytest.raises(JobCancelledError):
        run(tmp_path, results=results, monitor=Recorder(stop_after=3))
    step, state = results.states[-1]
    assert 0 < step < SPEC.steps
    (tmp_path / "resumed.safetensors").write_bytes(state)
    resumed = run(tmp_path, resume_from=tmp_path / "resumed.safetensors")
    assert torch.equal(weights(resumed), weights(whole))


def test_states_and_sheets_come_at_every_save_and_at_the_end(tmp_path):
    results = Results()
    run(tmp_path, SPEC.model_copy(update={"steps": 5}), results=results)
    assert [step for step, _ in results.states] == [2, 4, 5]
    assert [step for step, _ in results.sheets] == [2, 4, 5]
    assert results.sheets[-1][1].shape == (16, 8, 8, 3)


def test_another_seed_gives_other_weights(tmp_path):
    assert not torch.equal(weights(run(tmp_path)), weights(run(tmp_path, SPEC.model_copy(update={"seed": 1}))))


def test_the_result_survives_being_saved(tmp_path):
    policy = run(tmp_path)
    save_policy(policy, tmp_path / "saved")
    assert torch.equal(weights(load_policy(tmp_path / "saved")), weights(policy))


def test_it_goes_on_from_another_checkpoint(tmp_path):
    first = run(tmp_path)
    still = SPEC.model_copy(update={"lr": 1e-12, "weight_decay": 0.0})
    torch.testing.assert_close(weights(run(tmp_path, still, init=first)), weights(first), atol=1e-6, rtol=0)


def test_a_checkpoint_of_another_architecture_is_refused(tmp_path):
    first = run(tmp_path)
    with pytest.raises(JobError, match="architecture"):
        run(tmp_path, SPEC.model_copy(update={"channels": (16, 16)}), init=first)


def test_a_state_of_another_run_is_refused(tmp_path):
    results = Results()
    run(tmp_path, results=results)
    path = tmp_path / "old.safetensors"
    path.write_bytes(results.states[0][1])
    with pytest.raises(CorruptDataError, match="another spec"):
        run(tmp_path, SPEC.model_copy(update={"lr": 5e-4}), resume_from=path)
    path.write_bytes(results.states[0][1][:-10])
    with pytest.raises(CorruptDataError):
        run(tmp_path, resume_from=path)


@pytest.mark.parametrize("images", [IMAGES[:0], IMAGES[:, :4], IMAGES[..., 0]], ids=["none", "size", "grey"])
def test_images_that_do_not_fit_the_spec_are_refused(tmp_path, images):
    with pytest.raises(JobError, match="training images"):
        run(tmp_path, images=images)


@pytest.mark.parametrize(
    ("size", "channels", "message"), [(24, (8,) * 5, "halved"), (8, (8, 12), "multiples of 8")], ids=["size", "width"]
)
def test_an_impossible_network_is_refused_with_the_reason(size, channels, message):
    with pytest.raises(JobError, match=message):
        build_unet(PretrainSpec(image_size=size, channels=channels))

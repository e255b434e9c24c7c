"""What only an accelerator can show; skipped without one."""

from pathlib import Path

import numpy as np
import pytest
import torch
from test_ddpo import Recorder, Sink, make_spec
from tiny import SCHEDULER, tiny_policy

from app.domain.enums import Precision
from app.domain.specs import FinetuneSpec
from worker.jobs.processes import ChildProcess
from worker.ml import ddim
from worker.ml.ddpo import finetune
from worker.ml.learner import RATIO_TOLERANCE
from worker.ml.policy import Policy, load_policy, place
from worker.ml.pretrained import BUNDLED
from worker.ml.progress import SilentMonitor
from worker.ml.rewards.pixels import brightness
from worker.ml.rollout import collect, draw_samples

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


def on_gpu(policy: Policy) -> Policy:
    place(policy.unet, torch.device("cuda"))
    return policy


def test_a_seed_gives_the_same_sample_on_the_gpu_as_on_the_cpu() -> None:
    seeds = [0, 1, 650]
    images = [
        draw_samples(policy, seeds, steps=20, eta=1.0, monitor=SilentMonitor())
        for policy in (load_policy(BUNDLED["critters-64"]), load_policy(BUNDLED["critters-64"], device="cuda"))
    ]
    difference = np.abs(images[0].astype(int) - images[1].astype(int))
    assert difference.mean() < 1.0  # of 255
    assert np.quantile(difference, 0.99) <= 8


def test_log_densities_on_the_gpu_are_those_of_the_cpu() -> None:
    schedule = ddim.make_schedule(SCHEDULER, steps=8, eta=1.0)
    cpu, gpu = (collect(policy, [1, 2, 3], schedule, batch_size=3) for policy in (tiny_policy(), on_gpu(tiny_policy())))
    torch.testing.assert_close(gpu.log_prob.cpu()[:, :-1], cpu.log_prob[:, :-1], rtol=1e-4, atol=1.0)


@pytest.mark.parametrize("precision", list(Precision))
def test_the_ratio_is_one_before_the_first_update_on_the_gpu(precision: Precision, tmp_path: Path) -> None:
    monitor = Recorder()
    spec: FinetuneSpec = make_spec(epochs=1, precision=precision, updates_per_epoch=1, batch_size=7)
    finetune(tiny_policy(), spec, brightness, sink=Sink(), monitor=monitor, workdir=tmp_path, device="cuda")
    assert monitor.rows[0]["ratio_max_dev"] < RATIO_TOLERANCE[precision]


def use_the_gpu() -> None:
    assert float(torch.ones(1000, device="cuda").sum()) == 1000


def test_cuda_begins_afresh_in_a_child_of_the_fork_server() -> None:
    for _ in range(2):
        child = ChildProcess(__name__, "use_the_gpu")
        assert child.wait(120) == 0

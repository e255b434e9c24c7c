"""The form for drawing is the same network: output for output, and grey level for grey level after forty steps."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from tiny import tiny_policy

from worker.ml.cpu_form import fold_upsampling, reuse_memory, spread_kernel, to_cpu_form
from worker.ml.policy import load_policy
from worker.ml.pretrained import BUNDLED
from worker.ml.progress import SilentMonitor
from worker.ml.rollout import draw_samples


def test_the_spread_kernel_repeats_and_convolves_at_once() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 5, 6, 7, dtype=torch.float64, generator=generator)
    kernel = torch.randn(4, 5, 3, 3, dtype=torch.float64, generator=generator)
    one_by_one = F.conv2d(F.interpolate(x, scale_factor=2.0, mode="nearest"), kernel, padding=1)
    at_once = F.conv_transpose2d(x, spread_kernel(kernel), stride=2, padding=1)
    torch.testing.assert_close(at_once, one_by_one, rtol=1e-12, atol=1e-12)


def test_folding_changes_every_upsampler_and_no_output() -> None:
    policy, folded = tiny_policy(), tiny_policy()
    fold_upsampling(folded.unet)
    kinds = [
        upsampler.use_conv_transpose
        for block in folded.unet.up_blocks
        for upsampler in block.upsamplers or ()
        if isinstance(upsampler, Upsample2D)
    ]
    assert kinds == [True]  # two levels have one step up
    x = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    t = torch.tensor([10, 500, 990])
    with torch.no_grad():
        torch.testing.assert_close(folded.predict(x, t), policy.predict(x, t), rtol=1e-5, atol=1e-5)


def test_other_ways_of_upsampling_are_left_alone() -> None:
    policy = tiny_policy()
    policy.unet.up_blocks[0].upsamplers[0].interpolate = False
    before = policy.unet.up_blocks[0].upsamplers[0]
    fold_upsampling(policy.unet)
    assert policy.unet.up_blocks[0].upsamplers[0] is before


def test_working_in_place_changes_no_bit_of_the_output_and_little_of_the_gradient() -> None:
    """Guidance needs the gradient."""
    policy, thrifty = tiny_policy(), tiny_policy()
    reuse_memory(thrifty.unet)
    assert sum(type(block) is ResnetBlock2D for block in policy.unet.modules()) == 8
    assert not any(type(block) is ResnetBlock2D for block in thrifty.unet.modules())
    x = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(1), requires_grad=True)
    t = torch.tensor([10, 500, 990])
    outputs = [each.predict(x, t) for each in (policy, thrifty)]
    assert torch.equal(*outputs)
    gradients = [torch.autograd.grad(output.square().sum(), x)[0] for output in outputs]
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "changed", [{"time_embedding_norm": "scale_shift"}, {"output_scale_factor": 2.0}, {"skip_time_act": True}]
)
def test_other_residual_blocks_are_left_alone(changed: dict[str, object]) -> None:
    policy = tiny_policy()
    block = policy.unet.mid_block.resnets[0]
    for name, value in changed.items():
        setattr(block, name, value)
    reuse_memory(policy.unet)
    assert type(block) is ResnetBlock2D


def test_samples_of_the_bundled_model_differ_by_a_grey_level_in_a_few_values() -> None:
    plain, drawing = load_policy(BUNDLED["critters-64"]), load_policy(BUNDLED["critters-64"])
    to_cpu_form(drawing.unet)
    images, others = (
        draw_samples(policy, range(650, 654), steps=40, eta=1.0, monitor=SilentMonitor()).astype(int)
        for policy in (plain, drawing)
    )
    difference = np.abs(images - others)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.002
    assert images.std() > 20  # they are pictures

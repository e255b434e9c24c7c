"""A policy small enough for tests: an 8x8 UNet2DModel with seeded random weights."""

import torch
from diffusers import UNet2DModel

from worker.ml.policy import Policy

SCHEDULER = {
    "_class_name": "DDPMScheduler",
    "num_train_timesteps": 1000,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "clip_sample": True,
    "prediction_type": "epsilon",
}


def tiny_policy(seed: int = 0, dropout: float = 0.0) -> Policy:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet2DModel(
            sample_size=8,
            block_out_channels=(8, 16),
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
            layers_per_block=1,
            norm_num_groups=4,
            attention_head_dim=8,
            dropout=dropout,
        )
    return Policy(unet.eval(), dict(SCHEDULER))

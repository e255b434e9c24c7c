"""Named finetune settings. `critters-quick` is tuned by measurement on two CPU cores; the thesis's are its Table A.2.

What the measurements said (bundled critters-64, 64 samples an epoch, one or two runs each, so read them as such):

- Only the first, noisiest steps are stochastic and trained (`sde_window`). Halves of one batch of rollouts agree on
  the gradient of the early steps (cosine 0.41) and of the middle ones (0.35), and contradict each other on the late
  ones (-0.16), whose gradient is twice as large: they add noise, not signal.
- `adam_eps` 3e-4 is of the gradient's own size. With 1e-8 every weight moves by the learning rate whether its gradient
  is signal or noise: trained on all steps (20 steps, four updates at 2e-4) the first epoch drifted by 2 to 100 nats a
  transition, and a taste (red minus blue of the top rows) went the wrong way, -0.07 -> -0.38. With the window
  and 3e-4 (10 steps, six updates at 2e-4) one epoch took it from -0.08 to 0.75, 3.4 standard deviations, at 86 nats a
  trajectory. Two epochs of that saturate (0.88, all critters yellow on orange); 7e-5 with a half-cosine does not.
- `critters-quick` on the lightness of the body, 32 fixed seeds, 4 epochs: 0.648 -> 0.768 (standard errors 0.013 and
  0.011), all 32 seeds better than their base, KL 35 nats, 1,760 network evaluations an epoch, about 65 core-seconds.
- JPEG compressibility with one number an image: 10 steps, window 0-7, 2e-4, six epochs took the evaluation mean from
  2.474 to 2.082 kB (standard error 0.016); three more reached 2.019 and stalled. The critters-*compressibility presets
  credit the bytes to the 8x8 blocks they lie in and take plain gradient steps of length 0.006 (docs/adr/0010).
  One run on 32 fixed seeds, 140 core-seconds with its evaluations: 2.474 -> 2.231 kB after four updates, 1.567 after
  eight (standard error 0.008), a factor of 1.58. After four the critters are darker and some of them shadows, after
  six nearly all, after eight the images are blue: over-optimised as in the thesis, so every epoch is kept, and `guard`
  or `kl_coef` hold it where critters are wanted (0.1 with 48 samples: 2.079 kB after fourteen updates; see
  benchmarks/results/compressibility_runs.json).
  Incompressibility: 2.453 -> 3.899 kB in eight updates on 64 fixed seeds, critters under noise (learning.json).
  Windows that leave out the first steps are no way: trained on the window 5-7 alone, eight updates of 16 trajectories
  made files of 1.611 kB instead of 2.502, but dark blue ones without critters: the weights are shared, and the first
  steps, noise-free in training only, moved unseen (in training's own samples: 2.58 -> 2.20 kB).
"""

from typing import Any

_THESIS_JPEG: dict[str, Any] = {
    "epochs": 72,
    "samples_per_epoch": 100,
    "steps": 40,
    "eta": 1.0,
    "objective": "is",
    # 1e-4 on the ratio of per-pixel means, times 3 x 256 x 256 pixels: the same clip in nats a transition
    "clip_nats": 19.66,
    "advantage": {"baseline": "mean", "clip": 4.5},
    "lr": {"peak": 9e-8},
    "shaping": False,
    "inner_epochs": 1,
    "batch_size": 10,
    "updates_per_epoch": 10,
    "weight_decay": 1e-4,
    "max_grad_norm": 1.0,
    "eval": {"every": 6, "n": 64, "seed": 650},
}

_THESIS_AESTHETIC: dict[str, Any] = {
    **_THESIS_JPEG,
    "epochs": 35,
    "advantage": {"baseline": "mean", "clip": 10.0},
    "lr": {"initial": 9e-8, "peak": 3.75e-6, "warmup": 0.25, "floor": 9e-9},
    "eval": {"every": 5, "n": 64, "seed": 650},
}

_CRITTERS_JPEG: dict[str, Any] = {
    "epochs": 8,
    "samples_per_epoch": 32,
    "steps": 10,
    "objective": "sf",
    "credit": "tiles",
    "shaping": True,
    "advantage": {"baseline": "mean", "clip": 5.0, "per_step": True, "mirror": 1},
    "sde_window": {"start": 0, "length": 8},
    "timestep_fraction": 0.5,
    # plain gradient steps, each of length 0.05 / 0.1 * 0.012 = 0.006: docs/adr/0010
    "lr": {"peak": 0.05},
    "adam_beta1": 0.0,
    "adam_eps": 0.1,
    "max_grad_norm": 0.012,
    "weight_decay": 0.0,
    "updates_per_epoch": 1,
    "batch_size": 32,
    "eval": {"every": 1, "n": 16, "seed": 650},
}

FINETUNE_PRESETS: dict[str, dict[str, Any]] = {
    "critters-quick": {
        "epochs": 5,
        "samples_per_epoch": 64,
        "steps": 20,
        "objective": "is",
        "clip_nats": 20.0,
        "sde_window": {"start": 0, "length": 12},
        "shaping": False,  # the window alone learns as fast and calls the reward once a sample
        "timestep_fraction": 0.5,
        "lr": {"peak": 7e-5, "floor": 1e-5},
        "adam_eps": 3e-4,
        "updates_per_epoch": 6,
        "batch_size": 32,
        "advantage": {"baseline": "mean", "clip": 5.0},
        "eval": {"every": 1, "n": 16, "seed": 650},
    },
    "critters-compressibility": {**_CRITTERS_JPEG, "reward": {"name": "jpeg_compressibility"}},
    "critters-incompressibility": {**_CRITTERS_JPEG, "reward": {"name": "jpeg_incompressibility"}},
    **{
        f"{model}-{name}": {**values, "reward": {"name": reward}}
        for model in ("celebahq", "church")
        for name, reward, values in (
            ("compressibility", "jpeg_compressibility", _THESIS_JPEG),
            ("incompressibility", "jpeg_incompressibility", _THESIS_JPEG),
            ("aesthetic", "aesthetic", _THESIS_AESTHETIC),
        )
    },
    # Table A.2 has no column for OVER50: a starting point of our own, the JPEG tasks' settings
    "celebahq-over50": {**_THESIS_JPEG, "reward": {"name": "over50"}},
}

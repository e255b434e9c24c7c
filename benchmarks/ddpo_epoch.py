"""One DDPO epoch: the engine against a plain reference written the way most implementations do it.

Same bundled model, steps and samples, in one run: seconds, network evaluations a second, share of the machine's
measured matmul peak, peak memory. `python -m benchmarks.ddpo_epoch [--samples 16] [--steps 20] [--json]`.
"""

import argparse
import json
import resource
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from uuid import UUID

import numpy as np
import torch
from diffusers import DDIMScheduler
from torch.utils.flop_counter import FlopCounterMode

from app.domain.specs import FinetuneSpec
from worker.ml import ddim
from worker.ml.advantages import standardise
from worker.ml.learner import Learner
from worker.ml.noise import training_seeds
from worker.ml.policy import Policy, load_policy
from worker.ml.pretrained import BUNDLED
from worker.ml.rewards.jpeg import JpegSize
from worker.ml.rollout import collect, decode

REFERENCE_BATCH = 10


def engine(policy: Policy, spec: FinetuneSpec) -> None:
    """Rollouts in large batches, transitions of all samples and steps flattened and shuffled together."""
    schedule = ddim.make_schedule(policy.scheduler_config, steps=spec.steps, eta=spec.eta)
    learner = Learner(policy, policy, spec)
    seeds = training_seeds(spec.seed, 1, spec.samples_per_epoch)
    trajectories = collect(policy, seeds, schedule, batch_size=32)
    rewards = JpegSize(sign=-1)(trajectories.images)
    table = standardise(np.repeat((rewards - rewards.mean())[:, None], spec.steps, axis=1), clip=5.0)
    learner.learn(1, trajectories, torch.from_numpy(table), schedule, between_batches=lambda evaluations: None)


def reference(policy: Policy, spec: FinetuneSpec) -> None:
    """Eager, fp32, batches of ten, one timestep at a time, an update after every batch's trajectory."""
    scheduler = DDIMScheduler.from_config(policy.scheduler_config)
    scheduler.set_timesteps(spec.steps)
    optimizer = torch.optim.AdamW(policy.unet.parameters(), lr=1e-7)
    batches, rewards = [], []
    for start in range(0, spec.samples_per_epoch, REFERENCE_BATCH):
        size = min(REFERENCE_BATCH, spec.samples_per_epoch - start)
        states, log_probs = [torch.randn(size, *policy.image_shape)], []
        with torch.no_grad():
            for t in scheduler.timesteps[:-1]:
                mean, sigma = _mean_and_sigma(scheduler, policy, states[-1], t)
                states.append(mean + sigma * torch.randn_like(mean))
                log_probs.append(torch.distributions.Normal(mean, sigma).log_prob(states[-1]).mean(dim=(1, 2, 3)))
            final, _ = _mean_and_sigma(scheduler, policy, states[-1], scheduler.timesteps[-1])
        batches.append((states, log_probs))
        rewards.append(JpegSize(sign=-1)(decode(final)))
    for (states, old), reward in zip(batches, rewards, strict=True):
        advantage = torch.from_numpy((reward - reward.mean()) / (reward.std() + 1e-8))
        optimizer.zero_grad()
        for step, t in enumerate(scheduler.timesteps[:-1]):
            mean, sigma = _mean_and_sigma(scheduler, policy, states[step], t)
            log_prob = torch.distributions.Normal(mean, sigma).log_prob(states[step + 1]).mean(dim=(1, 2, 3))
            ratio = (log_prob - old[step]).exp()
            loss = torch.maximum(-advantage * ratio, -advantage * ratio.clamp(1 - 1e-4, 1 + 1e-4)).mean()
            loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.unet.parameters(), 1.0)
        optimizer.step()


def _mean_and_sigma(
    scheduler: DDIMScheduler, policy: Policy, x: torch.Tensor, t: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    zeros = torch.zeros_like(x)
    mean = scheduler.step(policy.unet(x, t).sample, t, x, eta=1.0, variance_noise=zeros).prev_sample
    previous = t - scheduler.config.num_train_timesteps // scheduler.num_inference_steps
    return mean, scheduler._get_variance(t, previous) ** 0.5


def matmul_peak() -> float:
    """fp32 floating-point operations a second of one large matrix product, the best of three."""
    n = 1536
    a, b = torch.randn(n, n), torch.randn(n, n)
    seconds = min(_seconds(lambda: a @ b) for _ in range(3))
    return 2 * n**3 / seconds


def flops_per_evaluation(policy: Policy) -> float:
    """Floating-point operations of one forward pass of one image."""
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        policy.unet(torch.zeros(1, *policy.image_shape), torch.zeros(1, dtype=torch.long))
    return float(counter.get_total_flops())


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def measure(
    name: str, run: Callable[[Policy, FinetuneSpec], None], spec: FinetuneSpec, peak: float
) -> dict[str, object]:
    """One epoch on a fresh copy of the bundled model."""
    policy = load_policy(BUNDLED["critters-64"])
    core_started = time.process_time()
    seconds = _seconds(lambda: run(policy, spec))
    forward = spec.samples_per_epoch * spec.steps
    updated = spec.samples_per_epoch * (spec.steps - 1)
    operations = flops_per_evaluation(policy) * (forward + 3 * updated)  # a backward pass is two forward ones
    return {
        "name": name,
        "seconds": round(seconds, 2),
        "core_seconds": round(time.process_time() - core_started, 2),
        "evaluations_per_second": round((forward + updated) / seconds, 1),
        "share_of_matmul_peak": round(operations / seconds / peak, 3),
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def alone(name: str, run: Callable[[Policy, FinetuneSpec], None], spec: FinetuneSpec, peak: float) -> dict[str, object]:
    """`measure` in a process of its own, so that its peak memory is its own."""
    with ProcessPoolExecutor(
        max_workers=1, mp_context=get_context("spawn"), initializer=_use_threads, initargs=(torch.get_num_threads(),)
    ) as pool:
        return pool.submit(measure, name, run, spec, peak).result()


def _use_threads(threads: int) -> None:
    torch.set_num_threads(threads)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=20)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    spec = FinetuneSpec(
        checkpoint_id=UUID(int=0),
        reward=({"name": "jpeg_compressibility"},),
        epochs=1,
        samples_per_epoch=options.samples,
        steps=options.steps,
        batch_size=32,
        updates_per_epoch=max(1, options.samples // REFERENCE_BATCH),
        lr={"peak": 1e-7},
    )
    peak = matmul_peak()
    rows = [alone(name, run, spec, peak) for name, run in (("engine", engine), ("reference", reference))]
    print(f"matmul peak {peak / 1e9:.1f} GFLOP/s, {torch.get_num_threads()} threads, {options.samples} samples")
    for row in rows:
        print("  ".join(f"{key} {value}" for key, value in row.items()))
    speedup = float(str(rows[1]["seconds"])) / float(str(rows[0]["seconds"]))
    print(f"speed-up {speedup:.2f}")
    if options.json:
        print(json.dumps({"matmul_peak_gflops": peak / 1e9, "rows": rows, "speedup": speedup}))


if __name__ == "__main__":
    main()

"""How fast images are scored: batches in parallel beside one by one for JPEG, a second pass beside the first for a
cached encoder reward. `python -m benchmarks.reward_throughput [--n 400] [--size 64] [--json]`."""

import argparse
import io
import json
import time
from collections.abc import Callable

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from worker.ml.encoders import load_encoder
from worker.ml.rewards import Images, Reward, Rewards
from worker.ml.rewards.cache import CachedReward
from worker.ml.rewards.jpeg import JpegSize


def photographs(n: int, size: int) -> Images:
    """Smooth random images: they compress about as real ones do, which uniform noise does not."""
    noise = np.random.default_rng(0).normal(size=(n, size, size, 3))
    smooth = gaussian_filter(noise, sigma=(0, size / 16, size / 16, 0))
    return np.clip(128 + 60 * smooth / smooth.std(), 0, 255).astype(np.uint8)


def plain_kilobytes(image: np.ndarray) -> float:
    """The reward as one writes it first."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="JPEG", quality=95)
    return -len(buffer.getvalue()) / 1000


def encoder_reward() -> Reward:
    """A linear reward on the embedded encoder's features: the cost of any encoder reward is the encoder's."""
    encoder = load_encoder("efficientnet-lite0")
    direction = np.random.default_rng(1).normal(size=encoder.dim)

    def reward(images: Images) -> Rewards:
        return np.asarray(encoder.encode(images) @ direction, np.float64)

    return reward


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measure(n: int, size: int, repeats: int) -> list[dict[str, float | str]]:
    """Images a second, the better of `repeats` runs each, the two ways taking turns."""
    images = photographs(n, size)
    jpeg = JpegSize(sign=-1)
    jpeg(images[:32])  # starts the threads
    one_by_one, batched = [], []
    for _ in range(repeats):
        one_by_one.append(seconds(lambda: [plain_kilobytes(image) for image in images]))
        batched.append(seconds(lambda: jpeg(images)))
    encoder = encoder_reward()
    encoder(images[:32])
    cached = CachedReward(encoder)
    first = seconds(lambda: cached(images))
    second = seconds(lambda: cached(images))
    return [
        row("jpeg: plain one by one -> batched", n, min(one_by_one), min(batched)),
        row("encoder: first pass -> second pass", n, first, second),
    ]


def row(name: str, n: int, before: float, after: float) -> dict[str, float | str]:
    return {"name": name, "before_per_s": n / before, "after_per_s": n / after, "factor": before / after}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=400, help="images")
    parser.add_argument("--size", type=int, default=64, help="edge in pixels")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print one JSON object last")
    options = parser.parse_args()
    rows = measure(options.n, options.size, options.repeats)
    print(f"{'reward':<36}{'before /s':>12}{'after /s':>12}{'factor':>9}")
    for each in rows:
        print(f"{each['name']:<36}{each['before_per_s']:>12.0f}{each['after_per_s']:>12.0f}{each['factor']:>9.2f}")
    if options.json:
        print(json.dumps({"n": options.n, "size": options.size, "rows": rows}))


if __name__ == "__main__":
    main()

"""CLIP text similarity: how well an image fits a prompt."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from app.domain.errors import InvalidSpecError
from worker.ml.rewards.base import Images, Reward, RewardInfo, RewardPlugin, Rewards
from worker.ml.rewards.cache import CachedReward
from worker.ml.rewards.host import HubFile, RewardHost, why_not_hub, why_not_local

if TYPE_CHECKING:
    from worker.ml.encoders import Encoder

DEFAULT = "ViT-B-32"

_ON_HUB: Mapping[str, HubFile] = {
    "ViT-B-32": HubFile("laion/CLIP-ViT-B-32-laion2B-s34B-b79K", "open_clip_model.safetensors"),
    "ViT-L-14": HubFile("timm/vit_large_patch14_clip_224.openai", "open_clip_model.safetensors"),
}
_MAX_PROMPT = 300


class ClipSimilarity:
    """Cosine of the angle between the embeddings of every image and of the prompt.

    Raises:
        InvalidSpecError: the encoder has no text tower, or the prompt is empty or too long.
    """

    def __init__(self, encoder: "Encoder", prompt: str) -> None:
        from worker.ml.encoders import ClipEncoder

        if not isinstance(prompt, str) or not 1 <= len(prompt.strip()) <= _MAX_PROMPT:
            raise InvalidSpecError(f"The reward parameter 'prompt' must be a text of 1 to {_MAX_PROMPT} characters.")
        if not isinstance(encoder, ClipEncoder):
            raise InvalidSpecError(
                f"The encoder {encoder.name} embeds images only, not text; choose {' or '.join(_ON_HUB)}."
            )
        self._encoder = encoder
        self._prompt = _unit(encoder.encode_text([prompt]))[0]

    def __call__(self, images: Images) -> Rewards:
        return np.asarray(_unit(self._encoder.encode(images)) @ self._prompt)


def _unit(embeddings: np.ndarray) -> Float[np.ndarray, "n d"]:
    embeddings = embeddings.astype(np.float64)
    return np.asarray(embeddings / np.linalg.norm(embeddings, axis=-1, keepdims=True))


def _describe(host: RewardHost) -> RewardInfo:
    file = _ON_HUB[DEFAULT]
    put_at = f"{DEFAULT}/{file.name}"
    why_not = why_not_local(host, put_at) if host.weights_dir is not None else why_not_hub(file, put_at=put_at)
    return RewardInfo.of_built_in("clip_similarity", why_not)


def _build(host: RewardHost, *, prompt: str, encoder: str = DEFAULT) -> Reward:
    from worker.ml.encoders import load_encoder  # takes seconds to import; runs with other rewards need not wait

    loaded = load_encoder(encoder, device=host.device, weights_dir=host.weights_dir)
    return CachedReward(ClipSimilarity(loaded, prompt))


PLUGINS = (RewardPlugin("clip_similarity", _describe, _build),)

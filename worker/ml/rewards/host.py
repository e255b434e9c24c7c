"""The machine that a reward runs on, and where it finds weights: the operator's folder, else the hub."""

import hashlib
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from huggingface_hub import hf_hub_download, try_to_load_from_cache
from huggingface_hub.constants import ENDPOINT, HF_HUB_OFFLINE
from huggingface_hub.utils.tqdm import tqdm

from app.domain.errors import CorruptDataError, UnavailableError

logger = logging.getLogger(__name__)

_PROBE_SECONDS = 3.0
_CHUNK = 1 << 20
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class RewardHost:
    """What a reward may use here. `log` hears of downloads before they start and as they go on."""

    weights_dir: Path | None = None
    """The operator's folder of weights (TASTEMAKER_WEIGHTS_DIR); with one set, nothing is ever downloaded."""
    device: str = "cpu"
    log: Callable[[str], None] = logger.info


@dataclass(frozen=True)
class HubFile:
    repo: str
    name: str


def find_local(host: RewardHost, *names: str) -> Path | None:
    """The first of `names` that exists under the weights folder, after its checksum was verified.

    Raises:
        CorruptDataError: a `<file>.sha256` lies beside the file and does not match it.
    """
    if host.weights_dir is None:
        return None
    for name in names:
        path = host.weights_dir / name
        if path.is_file():
            _check_sidecar(path)
            return path
    return None


def why_not_local(host: RewardHost, *names: str) -> str | None:
    """A sentence where the weights folder is set and holds none of `names`; None where it has one or is not set."""
    if host.weights_dir is None or any((host.weights_dir / name).is_file() for name in names):
        return None
    return (
        f"{' or '.join(names)} is missing in the folder that TASTEMAKER_WEIGHTS_DIR names; put it there, "
        "or unset TASTEMAKER_WEIGHTS_DIR to download it from the hub."
    )


def why_not_hub(*files: HubFile, put_at: str) -> str | None:
    """A sentence where one of `files` is neither in the hub's local cache nor can the hub be reached."""
    missing = [file for file in files if not _is_cached(file)]
    if not missing or _hub_answers():
        return None
    return (
        f"{missing[0].name} of {missing[0].repo} is not on this machine and the hub cannot be reached; put it at "
        f"{put_at} in a folder of your own and point TASTEMAKER_WEIGHTS_DIR at that folder."
    )


def download(host: RewardHost, file: HubFile, *, put_at: str) -> Path:
    """The file from the hub's cache, downloaded first where it is not there yet.

    Raises:
        UnavailableError: the hub cannot be reached; names the file and the setting.
        CorruptDataError: what arrived does not have the hub's checksum.
    """
    cached = try_to_load_from_cache(file.repo, file.name)
    if isinstance(cached, str):
        return Path(cached)
    try:
        if not _hub_answers():
            raise ConnectionError("the hub does not answer")
        size = hf_hub_download(file.repo, file.name, dry_run=True).file_size or 0
        host.log(f"Downloading {file.name} of {file.repo} ({size / 1e6:.1f} MB) from the hub.")
        path = Path(hf_hub_download(file.repo, file.name, tqdm_class=_log_progress_to(host.log)))
    except OSError as error:  # all of the hub's errors: not reachable, offline, no such file, disk full
        raise UnavailableError(
            f"{file.name} of {file.repo} could not be downloaded from the hub. Put it at {put_at} in a folder of "
            "your own and point TASTEMAKER_WEIGHTS_DIR at that folder."
        ) from error
    blob = path.resolve()  # large files are cached under their SHA-256, small ones under their Git hash
    if _SHA256.fullmatch(blob.name) and sha256_of_file(blob) != blob.name:
        blob.unlink()
        raise CorruptDataError(f"{file.name} of {file.repo} arrived damaged (its checksum differs); try again.")
    return path


def sha256_of_file(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _check_sidecar(path: Path) -> None:
    sidecar = path.with_name(f"{path.name}.sha256")
    if not sidecar.is_file():
        return
    words = sidecar.read_text(encoding="utf-8").split()  # as `sha256sum` writes it: the digest, then the name
    if not words or words[0].lower() != sha256_of_file(path):
        raise CorruptDataError(f"{path.name} does not match the checksum in {sidecar.name}; copy the file again.")


def _is_cached(file: HubFile) -> bool:
    return isinstance(try_to_load_from_cache(file.repo, file.name), str)


@lru_cache(maxsize=1)
def _hub_answers() -> bool:
    """Asked once per process, with a short limit: the hub's own client retries for half a minute without a network."""
    if HF_HUB_OFFLINE:
        return False
    try:
        with urlopen(Request(ENDPOINT, method="HEAD"), timeout=_PROBE_SECONDS):  # noqa: S310  (a constant of the client)
            return True
    except HTTPError:
        return True  # it said no, but it answered
    except OSError:
        return False


def _log_progress_to(log: Callable[[str], None]) -> type[tqdm]:
    """A progress bar that says a line at every tenth instead of drawing."""

    class LoggedProgress(tqdm):
        _tenths = 0

        def __init__(self, *args: Any, **options: Any) -> None:
            options["disable"] = False  # without a terminal the hub's client would show none
            super().__init__(*args, **options)  # type: ignore[no-untyped-call]

        def display(self, msg: str | None = None, pos: int | None = None) -> None:
            tenths = int(10 * self.n / self.total) if self.total else 0
            if tenths > self._tenths:
                self._tenths = tenths
                log(f"Downloading: {10 * tenths} % of {self.total / 1e6:.1f} MB.")

    return LoggedProgress

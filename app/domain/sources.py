"""Where a base checkpoint may come from: what a client writes as `source`, told apart before any file is touched."""

import re
from pathlib import Path

from app.domain.errors import InvalidSpecError

_SEGMENT = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,95}"  # no leading dot: neither "..", nor hidden files
_PATH = re.compile(rf"{_SEGMENT}(?:/{_SEGMENT}){{0,7}}")
_HUB_ID = re.compile(rf"{_SEGMENT}/{_SEGMENT}")


def folder_inside(root: Path, path: str, *, field: str) -> Path | None:
    """The existing folder that `path` names below `root`; None where there is none.

    Raises:
        InvalidSpecError: `path` is not a plain relative path, or a link leads out of `root`.
    """
    if not _PATH.fullmatch(path):
        raise refused(
            field,
            "Use a plain relative path of letters, digits, '.', '_' and '-', with '/' between folders; "
            "'..', absolute paths, backslashes and escapes are refused.",
        )
    base = root.resolve()
    folder = (base / path).resolve()
    if not folder.is_relative_to(base):
        raise refused(field, "This leads out of the configured models folder through a link.")
    return folder if folder.is_dir() else None


def is_hub_id(source: str) -> bool:
    """Whether `source` has the form organisation/model."""
    return _HUB_ID.fullmatch(source) is not None


def refused(field: str, message: str) -> InvalidSpecError:
    """The error that names one wrong field."""
    return InvalidSpecError(f"{field}: {message}", [{"field": field, "message": message}])

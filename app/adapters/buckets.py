"""What BlobStore needs to know about S3 and its like: how to open one, and what its errors mean.

Imported only where the blob store is one: botocore takes a while to load.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from aiohttp import ClientError as HttpError
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    NoCredentialsError,
    PartialCredentialsError,
)
from botocore.exceptions import ConnectionError as NoConnectionError

from app.domain.errors import UnavailableError

_PART = 16 << 20  # 10,000 parts of this size are the largest blob: 160 GB
_ERRORS = (OSError, ValueError, BotoCoreError, ClientError, HttpError)


def options(endpoint_url: str | None) -> dict[str, Any]:
    """How s3fs is to open the store.

    It keeps no listings: one that it made before another host stored a blob would deny that blob. Whoever asks waits
    a few seconds at most for an endpoint that is away; a request that is refused outright is not repeated.
    """
    chosen: dict[str, Any] = {
        "use_listings_cache": False,
        "default_block_size": _PART,
        "max_concurrency": 1,  # else every read asks for the size first
        "config_kwargs": {"retries": {"mode": "standard", "max_attempts": 3}},
    }
    return chosen | ({"endpoint_url": endpoint_url} if endpoint_url else {})


@contextmanager
def errors_as_sentences(where: str) -> Iterator[None]:
    """Turn what the store's client raises into an UnavailableError that says what to do. A missing key passes."""
    try:
        yield
    except FileNotFoundError:
        raise
    except _ERRORS as error:
        raise UnavailableError(f"The blob store {where} {_what(error)}") from error


def _what(error: Exception) -> str:
    match error:
        case NoCredentialsError() | PartialCredentialsError():
            return "needs credentials and there are none: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
        case PermissionError():
            return (
                f"refuses the credentials ({error}): check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and that they "
                "may list the bucket and read, write and delete in it."
            )
        case NoConnectionError():
            return f"cannot be reached: check TASTEMAKER_BLOB_ENDPOINT_URL and the network. {error}"
        case _:
            return f"cannot be used: {error}"

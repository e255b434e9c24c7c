"""Settings of a deployment, the only reader of the environment (`TASTEMAKER_*` variables and `.env`)."""

import hashlib
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from app.domain.enums import WorkQueue
from app.domain.errors import UnavailableError

_DEMO_SECRET = "demo"  # noqa: S105  (refused outside the demo, see below)


class Settings(BaseSettings):
    """Every setting has a default that works on a laptop; outside the demo a secret is required."""

    model_config = SettingsConfigDict(env_prefix="TASTEMAKER_", env_file=".env", extra="ignore", frozen=True)

    mode: Literal["demo", "production"] = "production"
    """`demo` is set by `make demo` alone: one person, one machine, bound to 127.0.0.1."""
    secret_key: SecretStr = SecretStr(_DEMO_SECRET)
    """Signs cursors and blinds identifiers. At least 32 characters outside the demo."""
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=1, le=65535)
    base_url: str | None = None
    """The address that people type, for links and Origin checks behind a proxy, for example https://taste.lab."""
    allowed_hosts: tuple[str, ...] = ()
    """Further host names that requests may carry (against DNS rebinding); base_url and loopback always work."""

    data_dir: Path = Path("data")
    """Root of everything that the embedded default stores."""
    database_url: SecretStr | None = None
    """SQLAlchemy URL; empty means SQLite in data_dir. PostgreSQL: postgresql+psycopg://user:password@host/name."""
    broker_url: SecretStr | None = None
    """Redis or Valkey URL; empty means the embedded server's socket in data_dir."""
    blob_url: str | None = None
    """Folder or bucket of the blob store, for example s3://bucket/prefix; empty means data_dir/blobs."""
    blob_endpoint_url: str | None = None
    """Endpoint of an S3-compatible store that is not AWS's; credentials come from the usual AWS_* variables."""
    models_dir: Path | None = None
    """Folder whose subfolders may be registered as checkpoints; empty means data_dir/models."""
    weights_dir: Path | None = None
    """Folder with weights of encoders and classifiers for machines without a hub."""

    encoder: str = "efficientnet-lite0"
    """Default image encoder of reward models: efficientnet-lite0 (in the package), ViT-B-32 or ViT-L-14."""
    device: str = "auto"
    """Where jobs run: auto, cpu, cuda, cuda:1, mps."""
    sample_batch_size: int = Field(default=16, ge=1, le=4096)
    """Images per forward pass when sampling, at most; a CPU takes fewer where they are large."""
    worker_concurrency: int = Field(default=1, ge=1, le=64)
    """Jobs that one worker runs at once."""
    worker_queues: Annotated[tuple[WorkQueue, ...], NoDecode] = tuple(WorkQueue)
    """Which jobs a worker takes, separated by commas: gpu (drawing and training), cpu (reward models, uploads to a
    hub), quick (up to 64 samples, inversion). Each needs at least one worker somewhere."""

    finetune_ranks: int = Field(default=0, ge=0, le=64)
    """Processes that share one finetune; 0 means one for each GPU that the worker sees, and one without a GPU."""

    lease_seconds: int = Field(default=900, ge=5, le=86_400)
    """How long a shown pair stays reserved for its rater."""
    undo_seconds: int = Field(default=3600, ge=0, le=86_400)
    """How long a vote may be changed or undone."""
    session_hours: int = Field(default=24 * 14, ge=1, le=24 * 365)
    max_upload_bytes: int = Field(default=10_000_000, ge=1000)
    max_event_streams: int = Field(default=200, ge=1)
    """Open server-sent event streams per web process."""
    requests_per_second_per_token: float = Field(default=200, ge=1)
    """How often one token or browser session may call on the long run; ten seconds' worth may come at once."""
    requests_per_second_per_address: float = Field(default=1000, ge=1)
    """The same for one address: a whole lab may sit behind it."""
    failed_logins_per_minute: int = Field(default=10, ge=1, le=1000)
    """Sign-in attempts that may fail from one address."""
    undo_delete_hours: int = Field(default=24 * 7, ge=0, le=24 * 365)
    """How long a deleted checkpoint can be restored before it is purged."""
    hub_token: SecretStr | None = None
    """Token of the Hugging Face hub that may write; without one nothing can be pushed. Web and worker need it."""
    hub_endpoint: str | None = None
    """Address of another hub than huggingface.co to push to."""
    webhook_allow_private: bool = False
    """Whether webhooks may call private and local addresses, for receivers inside the lab."""
    metrics_on_loopback: bool = False
    """Whether /metrics answers this machine without a token, for a Prometheus beside it."""

    @field_validator("worker_queues", mode="before")
    @classmethod
    def _split_queues(cls, value: object) -> object:
        names = [name.strip() for name in value.split(",")] if isinstance(value, str) else value
        if not names:
            raise ValueError("name at least one queue: gpu, cpu or quick")
        return names

    def require_real_secret(self) -> None:
        """Refuse to serve other people with a secret that anyone could know.

        Raises:
            UnavailableError: outside the demo, the secret is the default one or short.
        """
        secret = self.secret_key.get_secret_value()
        if not self.is_demo and (secret == _DEMO_SECRET or len(secret) < 32):
            raise UnavailableError(
                "TASTEMAKER_SECRET_KEY must be set to at least 32 random characters outside the demo; "
                "make one with: python3 -c 'import secrets; print(secrets.token_urlsafe(48))'"
            )

    @property
    def sqlalchemy_url(self) -> str:
        if self.database_url is not None:
            return self.database_url.get_secret_value()
        return f"sqlite:///{(self.data_dir / 'tastemaker.sqlite3').absolute()}"

    @property
    def celery_broker_url(self) -> str:
        if self.broker_url is not None:
            return self.broker_url.get_secret_value()
        return f"redis+socket://{self.valkey_socket}"

    @property
    def valkey_socket(self) -> Path:
        """Unix socket of the embedded Valkey server: no port to collide, no network to reach it from."""
        socket = (self.data_dir / "valkey" / "valkey.sock").absolute()
        if len(str(socket)) < 100:  # sun_path holds 108 bytes
            return socket
        digest = hashlib.sha256(str(socket).encode()).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"tastemaker-{digest}" / "valkey.sock"

    @property
    def blob_root(self) -> str:
        return self.blob_url or str((self.data_dir / "blobs").absolute())

    @property
    def models_root(self) -> Path:
        return (self.models_dir or self.data_dir / "models").absolute()

    @property
    def cache_dir(self) -> Path:
        """Scratch that can be deleted at any time: unpacked checkpoints, rendered data sets."""
        return (self.data_dir / "cache").absolute()

    @property
    def is_demo(self) -> bool:
        return self.mode == "demo"


@lru_cache(maxsize=1)
def get_settings() -> Settings:
    """The process's settings, read once."""
    return Settings()

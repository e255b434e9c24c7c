"""Backups and their neighbours work on a small world with real rows and blobs."""

from collections.abc import Callable
from pathlib import Path

import pytest
from ops_world import World, build_world

from app.adapters.blobs import BlobStore
from app.adapters.clock import Clock
from app.db.session import Database


@pytest.fixture
def blobs(request: pytest.FixtureRequest) -> BlobStore:
    """In a folder, where a test does not ask for a bucket."""
    store: BlobStore = request.getfixturevalue(f"{getattr(request, 'param', 'folder')}_blobs")
    return store


@pytest.fixture
def world(database: Database, blobs: BlobStore, clock: Clock) -> World:
    return build_world(database, blobs, clock)


@pytest.fixture
def backup_file(tmp_path: Path) -> Path:
    return tmp_path / "backup.tar"


@pytest.fixture
def blobs_of() -> Callable[[Path], BlobStore]:
    return lambda folder: BlobStore(str(folder))

"""Commands of whoever keeps an installation alive: backup, restore, doctor."""

from pathlib import Path
from typing import Annotated

import typer

from app.adapters.blobs import BlobStore
from app.adapters.clock import SystemClock
from app.config import get_settings
from app.db.session import Database
from app.services import backup as backups
from app.services import doctor as doctors
from app.services import restore as restores

_SHOWN = 50


def backup(file: Annotated[Path, typer.Argument(help="The tar file to write.")]) -> None:
    """Copy database and blobs into one file, while everything runs; exit code 1 where blobs were missing."""
    database, blobs = _open()
    report = backups.back_up(database, blobs, file.absolute(), SystemClock().now())
    typer.echo(f"{file}: {sum(report.rows.values())} rows, {report.n_blobs} blobs, {_size(report.n_bytes)}.")
    _tell_problems(report.damaged, "The backup holds everything else. Missing:")


def restore(
    file: Annotated[Path, typer.Argument(help="A file that `tastemaker backup` wrote.")],
    force: Annotated[bool, typer.Option("--force", help="Replace what the database holds.")] = False,
) -> None:
    """Load a backup into an empty database (either kind) and its blobs into the store; stop everything else first."""
    database, blobs = _open()
    report = restores.restore(database, blobs, file, force=force)
    typer.echo(f"Restored the state of {report.created_at}: {sum(report.rows.values())} rows, {report.n_blobs} blobs.")
    _tell_problems(report.damaged, "The backup was made without these blobs:")


def doctor() -> None:
    """Check every reference and every hash; exit code 1 and sentences that say what to do where something is wrong."""
    database, blobs = _open()
    found = doctors.examine(database, blobs)
    typer.echo(f"Looked at {found.n_rows} rows and {found.n_blobs} blobs ({_size(found.n_bytes)}).")
    if found.n_orphans:
        typer.echo(
            f"{found.n_orphans} blobs ({_size(found.orphan_bytes)}) belong to no row: left by work that was stopped, "
            "or of work in progress. They do no harm."
        )
    _tell_problems(found.problems, "Something is wrong:")
    typer.echo("Everything is whole.")


def add_commands(app: typer.Typer) -> None:
    for command in (backup, restore, doctor):
        app.command()(command)


def _open() -> tuple[Database, BlobStore]:
    settings = get_settings()
    return Database(settings.sqlalchemy_url), BlobStore(settings.blob_root, endpoint_url=settings.blob_endpoint_url)


def _tell_problems(problems: list[str], heading: str) -> None:
    if not problems:
        return
    typer.echo(heading, err=True)
    for problem in problems[:_SHOWN]:
        typer.echo(f"- {problem}", err=True)
    if len(problems) > _SHOWN:
        typer.echo(f"- and {len(problems) - _SHOWN} more", err=True)
    raise typer.Exit(1)


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 1e6:.1f} MB" if n_bytes < 1e9 else f"{n_bytes / 1e9:.2f} GB"

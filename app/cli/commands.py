"""Every command of `tastemaker`; each is a thin shell over a service, a program or the REST client."""

import json
import os
import sys
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from app import __version__
from app.adapters.clock import SystemClock
from app.cli import ops, raters
from app.cli.processes import share_metrics
from app.config import Settings, get_settings
from app.db.migrate import migrate as migrate_database
from app.db.session import Database
from app.domain.enums import Role
from app.domain.errors import TastemakerError
from app.logs import logging_config
from app.services import accounts

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Interactive RLHF for diffusion models.")
token_app = typer.Typer(no_args_is_help=True, help="API tokens.")
user_app = typer.Typer(no_args_is_help=True, help="People and programs.")
app.add_typer(token_app, name="token")
app.add_typer(user_app, name="user")
ops.add_commands(app)
raters.add_commands(app)

UrlOption = Annotated[str, typer.Option(help="Address of a running server.")]
TokenOption = Annotated[str, typer.Option(help="API token.", envvar="TASTEMAKER_TOKEN")]
NameOption = Annotated[str, typer.Option(help="Name of the user.")]
RoleOption = Annotated[Role, typer.Option(help="What it may do.")]


def main() -> None:
    """Run a command; a refusal is one sentence on standard error and exit code 1."""
    try:
        app()
    except TastemakerError as error:
        sys.exit(f"tastemaker: {error.detail}")
    except ValidationError as error:
        lines = [f"  {'.'.join(str(part) for part in item['loc'])}: {item['msg']}" for item in error.errors()]
        sys.exit("tastemaker: the settings are not valid:\n" + "\n".join(lines))


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)


@app.command()
def demo() -> None:
    """Run everything on this machine: database, broker, worker and web page, with a model to play with."""
    from app.cli.demo import run_demo

    run_demo()


@app.command()
def serve(workers: Annotated[int, typer.Option(help="Web processes.", min=1, max=64)] = 1) -> None:
    """Run the web process (a migrated database and a broker must be reachable)."""
    import uvicorn

    settings = get_settings()
    if workers > 1:
        share_metrics(settings.data_dir)
    uvicorn.run(
        "app.main:create_app",
        factory=True,
        host=settings.host,
        port=settings.port,
        workers=workers,
        proxy_headers=settings.base_url is not None,
        log_config=logging_config(),
        access_log=False,  # ours has request ids and no query strings, which may hold secrets
        timeout_graceful_shutdown=5,
        server_header=False,
    )


@app.command()
def worker() -> None:
    """Run a worker that takes jobs from the queue."""
    settings = get_settings()
    command = [sys.executable, "-m", "worker"]
    command += ["--pool", "threads", "--concurrency", str(settings.worker_concurrency)]
    command += ["--queues", ",".join(queue.channel for queue in settings.worker_queues)]
    command += ["--loglevel", "INFO", "--without-gossip", "--without-mingle"]
    os.execv(sys.executable, command)


@app.command()
def migrate() -> None:
    """Bring the database to the current schema."""
    migrate_database(Database(get_settings().sqlalchemy_url))
    typer.echo("The database is up to date.")


@user_app.command("create")
def create_user(
    name: NameOption,
    role: RoleOption = Role.OPERATOR,
    password_stdin: Annotated[bool, typer.Option(help="Read a password from standard input.")] = False,
) -> None:
    """Make a user; with a password they can sign in at /login."""
    password = sys.stdin.readline().rstrip("\n") if password_stdin else None
    with _database().writer() as session:
        user = accounts.ensure_user(session, name, role, SystemClock().now())
        if password is not None:
            accounts.set_password(session, user, password)
    typer.echo(f"{user.name} ({user.role.value})")


@token_app.command("create")
def create_token(
    name: NameOption,
    role: RoleOption = Role.OPERATOR,
    days: Annotated[int | None, typer.Option(help="Days until it expires; never by default.", min=1)] = None,
) -> None:
    """Print a new token, and nothing else. The user is made if there is none of this name."""
    now = SystemClock().now()
    with _database().writer() as session:
        user = accounts.ensure_user(session, name, role, now)
        expires_at = now + timedelta(days=days) if days is not None else None
        _, secret = accounts.create_token(session, user, name=name, role=role, now=now, expires_at=expires_at)
    typer.echo(secret)


@app.command()
def loop(
    token: TokenOption,
    url: UrlOption = "http://127.0.0.1:8000",
    taste: Annotated[str, typer.Option(help="What the simulated raters prefer; see `tastemaker tastes`.")] = "warm",
    votes: Annotated[int, typer.Option(min=20, max=100_000)] = 300,
    error: Annotated[
        float, typer.Option(help="Share of votes that are a coin flip's opposite.", min=0, max=0.5)
    ] = 0.05,
    raters: Annotated[int, typer.Option(min=1, max=100)] = 5,
    preset: Annotated[str, typer.Option(help="Finetune preset.")] = "critters-quick",
    base: Annotated[str, typer.Option(help="Bundled base model.")] = "critters-64",
    seed: Annotated[int, typer.Option(min=0)] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object last, progress to stderr.")] = False,
) -> None:
    """Walk the whole loop through the REST API with simulated raters, and print what came of it."""
    from app.client.client import TastemakerClient
    from app.client.loop import LoopPlan, print_summary, run_loop

    plan = LoopPlan(taste=taste, votes=votes, error=error, raters=raters, preset=preset, base=base, seed=seed)
    with TastemakerClient(url, token) as client:
        summary = run_loop(client, plan, report=lambda line: typer.echo(line, err=as_json))
    if as_json:
        typer.echo(json.dumps(summary.as_dict()))
    else:
        print_summary(summary)


@app.command()
def tastes() -> None:
    """List the tastes that simulated raters can have."""
    from app.client.tastes import TASTES

    for taste in TASTES.values():
        typer.echo(f"{taste.name:12} {taste.title}")


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def pretrain(context: typer.Context) -> None:
    """Train a DDPM from scratch, without a server; `tastemaker pretrain --help` lists the options."""
    # the trainer needs torch, which this process must not import
    os.execv(sys.executable, [sys.executable, "-m", "worker.pretrain_cli", *context.args])


def _database() -> Database:
    settings: Settings = get_settings()
    if settings.database_url is None and not Path(settings.data_dir).exists():
        raise TastemakerError(
            f"There is no database in {settings.data_dir}; run `make demo` or `tastemaker migrate` first, "
            "or point TASTEMAKER_DATA_DIR at the right folder."
        )
    return Database(settings.sqlalchemy_url)

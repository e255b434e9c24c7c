"""Commands about votes: simulate raters through the API, bring an export's votes back."""

import json
from pathlib import Path
from typing import Annotated

import typer

from app.domain.enums import Strategy

UrlOption = Annotated[str, typer.Option(help="Address of a running server.")]
TokenOption = Annotated[str, typer.Option(help="API token.", envvar="TASTEMAKER_TOKEN")]


def add_commands(app: typer.Typer) -> None:
    app.command()(simulate)
    app.command("import-votes")(import_votes)


def simulate(
    token: TokenOption,
    url: UrlOption = "http://127.0.0.1:8000",
    taste: Annotated[str, typer.Option(help="What the raters prefer; see `tastemaker tastes`.")] = "bright",
    checkpoint: Annotated[
        list[str] | None, typer.Option(help="Id of a checkpoint whose samples are rated; the bundled base by default.")
    ] = None,
    raters: Annotated[int, typer.Option(min=1, max=500)] = 30,
    votes: Annotated[int, typer.Option(min=20, max=1_000_000)] = 3000,
    error: Annotated[float, typer.Option(help="Share of an attentive rater's answers that are wrong.", max=0.5)] = 0.05,
    flippers: Annotated[float, typer.Option(help="Share of raters who flip coins.", min=0, max=1)] = 0.1,
    leaning: Annotated[float, typer.Option(help="Share who choose left on a third of the pairs.", min=0, max=1)] = 0.0,
    lazy: Annotated[float, typer.Option(help="Share who press the last key again half the time.", min=0, max=1)] = 0.0,
    gold: Annotated[int, typer.Option(help="Gold pairs to mark first.", min=0, max=1000)] = 0,
    overlap: Annotated[int, typer.Option(help="Raters per pair.", min=1, max=100)] = 1,
    strategy: Strategy = Strategy.UNIFORM,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object last, progress to stderr.")] = False,
) -> None:
    """Let raters with known tastes, error rates and bad habits vote, and see whether rater health finds them out."""
    from app.client.client import TastemakerClient
    from app.client.simulate import SimulationPlan, print_summary, run_simulation

    plan = SimulationPlan(
        taste=taste, raters=raters, votes=votes, error=error, flippers=flippers, leaning=leaning, lazy=lazy, gold=gold,
        overlap=overlap, strategy=strategy.value, seed=seed,
    )  # fmt: skip
    with TastemakerClient(url, token) as client:
        ids = checkpoint or [client.ensure_base("critters-64")["id"]]
        summary = run_simulation(client, plan, ids, report=lambda line: typer.echo(line, err=as_json))
    if as_json:
        typer.echo(json.dumps(summary.as_dict()))
    else:
        print_summary(summary, typer.echo)


def import_votes(
    file: Annotated[Path, typer.Argument(help="JSON lines, Parquet or zip file of an export.", exists=True)],
    campaign: Annotated[str, typer.Option(help="Id of the campaign that takes the votes.")],
    token: TokenOption,
    url: UrlOption = "http://127.0.0.1:8000",
) -> None:
    """Bring exported votes into a campaign on the same samples. Doing it again changes nothing."""
    from app.client.client import TastemakerClient
    from app.client.votes import import_file

    with TastemakerClient(url, token) as client:
        report = import_file(client, campaign, file)
    typer.echo(f"{report['imported']} votes imported, {report['known']} were here already.")
    if report["retracted"]:
        typer.echo(f"{report['retracted']} raters were retracted where the votes come from, and are here.")

"""`tripcast score`: one run of the scoring pipeline on this machine."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from tripcast.cli import options
from tripcast.cli.group import EXIT_CODES, main
from tripcast.settings import Settings

if TYPE_CHECKING:
    from pipelines.local.runner import LocalRun


@main.command(epilog=EXIT_CODES)
@options.source
@options.taxi
@click.option(
    "--months",
    default="2021-03",
    show_default=True,
    metavar="MONTHS",
    help="Months to score: 2021-03, 2021-01..2021-03, or 2021-01,2022-01.",
)
@click.option(
    "--model",
    default="champion",
    show_default=True,
    metavar="VERSION",
    help="The version to score with: its number, or an alias: champion, challenger, previous.",
)
@options.runner
@options.artifacts
@options.home
@click.option("--json", "as_json", is_flag=True, help="Print the summary as one JSON document, for scripts.")
def score(source: str, taxi: str, months: str, model: str, runner: str, as_json: bool) -> None:
    """Predict the trips of whole months, and keep the predictions as partitioned parquet.

    \b
    Examples:
      tripcast score --source tlc --months 2021-03
      tripcast score --source ../trips --months 2021-01..2021-03 --model 3
      tripcast score --source simulated --model challenger --artifacts s3://tripcast
    """  # noqa: D301
    from pipelines.local.laptop import run_here
    from pipelines.progress import Progress
    from pipelines.scoring import scoring
    from tripcast.cli.console import print_scores

    arguments = {"source": source, "taxi": taxi, "months": months, "model": model}
    with Progress() as progress:
        run = run_here(scoring, arguments, Settings.load(), progress, runner)
    scored = _scored_months(run)
    summary = {
        "model": scored[0]["model"],
        "version": int(scored[0]["version"]),
        "scores": scored[0]["location"].rpartition("/")[0],
        "months": scored,
        "seconds": progress.seconds,
    }
    if as_json:
        click.echo(json.dumps(summary, indent=2))
    else:
        print_scores(summary)


def _scored_months(run: LocalRun) -> list[dict[str, Any]]:
    """What each task of the fan-out says of its month (``tripcast.jobs.score.Scored``), in time order."""
    from tripcast.jobs.score import MARKER

    scored = [json.loads(file.read_text()) for file in run.folder.glob(f"*/score/scores/{MARKER}")]
    return sorted(scored, key=lambda month: str(month["month"]))

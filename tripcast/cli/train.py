"""`tripcast train`: one run of the training pipeline on this machine."""

from __future__ import annotations

import json
import sys

import click

from tripcast.cli import options
from tripcast.cli.group import EXIT_CODES, PROMOTED, REFUSED, main
from tripcast.settings import Settings


@main.command(epilog=EXIT_CODES)
@options.source
@options.taxi
@click.option(
    "--train",
    "train_months",
    default="2021-01..2021-02",
    show_default=True,
    metavar="MONTHS",
    help="Months to train on: 2021-01..2021-03, or 2021-01,2022-01.",
)
@click.option(
    "--test",
    "test_month",
    default="2021-03",
    show_default=True,
    metavar="MONTH",
    help="The later month to judge on.",
)
@options.candidates
@options.trials
@click.option(
    "--rollout",
    default="100%",
    show_default=True,
    type=options.Share(),
    help="Riders that the winner answers: all of them as the champion, fewer as the challenger beside it.",
)
@options.approval
@click.option(
    "--workers",
    default=1,
    show_default=True,
    type=click.IntRange(min=1),
    help="How many processes train a candidate together, each with its share of the trips.",
)
@options.runner
@options.artifacts
@options.home
@click.option("--json", "as_json", is_flag=True, help="Print the summary as one JSON document, for scripts.")
def train(
    source: str,
    taxi: str,
    train_months: str,
    test_month: str,
    candidates: list[str],
    trials: int,
    rollout: float,
    approval: bool,
    workers: int,
    runner: str,
    as_json: bool,
) -> None:
    """Train candidates on some months, judge them on a later one, and promote the best if it passes the gate.

    \b
    Examples:
      tripcast train --source ../trips --train 2021-01..2021-02 --test 2021-03
      tripcast train --source tlc --taxi yellow --train 2024-01 --test 2024-02
      tripcast train --source simulated --candidates linear,tuned --trials 50
      tripcast train --source simulated --runner docker --artifacts s3://tripcast
    """  # noqa: D301
    from pipelines.local.laptop import run_here, summarise_training
    from pipelines.progress import Progress
    from pipelines.training import training
    from tripcast.cli.console import print_summary

    settings = Settings.load()
    arguments = {
        "source": source,
        "taxi": taxi,
        "train_months": train_months,
        "test_month": test_month,
        "candidates": candidates,
        "trials": trials,
        "rollout": rollout,
        "approval": approval,
        "workers": workers,
    }
    with Progress() as progress:
        run = run_here(training, arguments, settings, progress, runner)
    summary = summarise_training(run)
    # A browser shows a page only under a page's name; the artifact has none.
    report = run.folder / "report.html"
    report.hardlink_to(run.output("evaluate")["report"])
    summary |= {"report": str(report), "seconds": progress.seconds}
    elsewhere = settings.artifacts != str(settings.home)
    summary["artifacts"] = f"{settings.artifacts.rstrip('/')}/runs/{run.folder.name}" if elsewhere else str(run.folder)
    if as_json:
        click.echo(json.dumps(summary, indent=2))
    else:
        print_summary(summary, settings)
    sys.exit(REFUSED if summary["decision"] == "refused" else PROMOTED)

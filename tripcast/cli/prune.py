"""`tripcast prune`: how long things are kept."""

from __future__ import annotations

from collections import Counter

import click

from tripcast.cli import options
from tripcast.cli.group import main
from tripcast.settings import Settings


@main.command()
@click.option("--dry-run", is_flag=True, help="Say what would go and what would stay; change nothing.")
@click.option(
    "--days", type=click.IntRange(2), default=400, show_default=True, help="What was kept so lately stays, in any case."
)
@click.option(
    "--keep",
    type=click.IntRange(1),
    default=12,
    show_default=True,
    help="The newest stay, in any case: so many versions, trainings, pages of monitoring and months of scores.",
)
@click.option(
    "--log-days",
    type=click.IntRange(1),
    envvar="TRIPCAST_LOG_DAYS",
    default=400,
    show_default="$TRIPCAST_LOG_DAYS, or 400",
    help="How many days of the prediction log stay.",
)
@options.artifacts
@options.home
def prune(dry_run: bool, days: int, keep: int, log_days: int) -> None:
    """Remove what is old: versions, snapshots, runs, scores, pages of monitoring, days of the prediction log.

    What serves or could serve again stays, and so does all that it and any report that stays rests on. It can be run
    beside a training, and again after it was killed.

    \b
    Examples:
      tripcast prune --dry-run
      tripcast prune --days 90 --keep 6
    """  # noqa: D301
    from pipelines.local.leftovers import running_since
    from tripcast.jobs.prune import Retention, plan_pruning

    settings = Settings.load()
    found = plan_pruning(Retention(days, keep, log_days), settings, running_since=running_since(settings.runs))
    for item in found.going:
        size = "" if item.size is None else f", {item.size / 1e6:,.1f} MB"
        click.echo(f"{item.kind:20}{item.name} ({item.kept:%Y-%m-%d}{size})")
    if not dry_run:
        found.carry_out()
    gone = Counter(item.kind for item in found.going)
    click.echo(f"{'Would go' if dry_run else 'Gone'}: {_counts(gone) or 'nothing'}.")
    for kind, reasons in found.staying.items():
        click.echo(f"Stays, {kind}: {_counts(reasons)}.")


def _counts(counts: Counter[str]) -> str:
    return ", ".join(f"{count:,} {what}" for what, count in counts.most_common())

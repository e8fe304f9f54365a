"""`tripcast log`: how long predictions are kept, and what is kept of riders."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import click

from tripcast.cli import options
from tripcast.cli.group import main
from tripcast.settings import Settings
from tripcast.storage.store import open_store


@main.group()
def log() -> None:
    """Remove rows of the prediction log: those of a rider, or old ones."""


@log.command()
@click.argument("rider")
@options.artifacts
@options.home
def forget(rider: str) -> None:
    """Remove all rows of RIDER, an id as the service was told it."""
    from tripcast.serving.retention import forget
    from tripcast.serving.riders import pseudonym, rider_secret

    settings = Settings.load()
    hashed = pseudonym(rider.encode(errors="replace"), rider_secret(settings.home)).decode()
    # Also where ids were logged as they are, now or once.
    removed = forget(open_store(settings.artifacts), {rider, hashed})
    click.echo(
        f"{removed} rows are removed. A service sends what it answered in the last quarter of an hour again: "
        "call this once more after that."
    )


@log.command()
@click.option(
    "--days",
    type=click.IntRange(1),
    envvar="TRIPCAST_LOG_DAYS",
    default=400,
    show_default="$TRIPCAST_LOG_DAYS, or 400",
    help="How many days are kept.",
)
@options.artifacts
@options.home
def prune(days: int) -> None:
    """Remove the days of the log that are older than it is to be kept."""
    from tripcast.serving.retention import prune

    before = (datetime.now(UTC) - timedelta(days=days)).date()
    removed = prune(open_store(Settings.load().artifacts), before)
    click.echo(f"{removed} files of before {before} are removed.")

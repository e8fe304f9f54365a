"""`tripcast log`: what is asked these days, and what is kept of riders."""

from __future__ import annotations

import click

from tripcast.cli import options
from tripcast.cli.group import main
from tripcast.errors import InvalidRequest
from tripcast.settings import Settings
from tripcast.storage.store import open_store
from tripcast.taxi.feeds import FEEDS


@main.group()
def log() -> None:
    """What the prediction log says of these days; and remove a rider's rows from it."""


@log.command()
@click.option("--days", type=click.IntRange(1), default=7, show_default=True, help="How many days, until now.")
@options.artifacts
@options.home
def drift(days: int) -> None:
    """Compare what was asked and answered with what the champions learned from: pages, and metrics of the service."""
    from tripcast.jobs.live import serving_taxis, watch_live

    refused = []
    for taxi in serving_taxis():
        try:
            found, page = watch_live(taxi, days)
        except InvalidRequest as trouble:  # the other ones are looked at nonetheless
            refused.append(str(trouble))
            continue
        click.echo(f"{FEEDS[taxi].title.capitalize()}: {page}")
        if found is None:
            click.echo(f"  The champion was asked nothing in the last {days} days.")
        for part in found.features if found else ():
            click.echo(f"  {part.feature:22}PSI {part.psi:.3f}, by chance {part.psi_chance:.3f}")
    if refused:
        raise InvalidRequest(" ".join(refused))


@log.command()
@click.argument("rider")
@options.artifacts
@options.home
def forget(rider: str) -> None:
    """Remove all rows of RIDER, an id as the service was told it."""
    from tripcast.serving.riders import pseudonym, rider_secret
    from tripcast.serving.stored_log import forget

    settings = Settings.load()
    hashed = pseudonym(rider.encode(errors="replace"), rider_secret(settings.home)).decode()
    # Also where ids were logged as they are, now or once.
    removed = forget(open_store(settings.artifacts), {rider, hashed})
    click.echo(
        f"{removed} rows are removed. A service sends what it answered in the last quarter of an hour again: "
        "call this once more after that."
    )

"""The feeds: the kinds of trips whose records the publisher has, each described here and nowhere else.

A feed has a file a month, ``{name}_tripdata_{month}``. The same bounds hold for the trips of all of them
(``tripcast.taxi.trips``), and a duration is always the time from pickup to drop-off.

Source: the data dictionaries of the New York City Taxi and Limousine Commission,
https://www.nyc.gov/site/tlc/about/tlc-trip-record-data.page. tripcast was built on real months of green taxis; of the
other feeds it has seen simulated ones only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tripcast.errors import InvalidRequest
from tripcast.months import Month


@dataclass(frozen=True)
class Feed:
    """One kind of trips.

    Attributes:
        name: What its files' names begin with, and its registered model's end with.
        title: What it is called, for people.
        columns: The publisher's name of each column that is read, by the name that it has in
            ``tripcast.taxi.trip_files.recorded_schema``. Case, blanks and underscores in a file's names do not matter.
        mark: A column that tells its files from those of other feeds; None where none does.
        zones_missing: Whether its records often lack a zone, as their bases do not report it. Such a record is set
            aside as any that lacks one, but is nothing that speaks against its month.
    """

    name: str
    title: str
    columns: Mapping[str, str]
    mark: str | None = None
    zones_missing: bool = False

    @property
    def has_distance(self) -> bool:
        """Whether its records say how many miles a trip was."""
        return "trip_distance_miles" in self.columns

    @property
    def plural(self) -> str:
        """Its vehicles, at the head of a sentence: ``Green taxis``."""
        return f"{self.title.capitalize()}s"

    def file(self, month: Month | str) -> str:
        """What the file of a month is called, without its ending."""
        return f"{self.name}_tripdata_{month}"


def _metered(name: str, title: str, meter: str) -> Feed:
    """A feed of taxis, whose meters name the times."""
    columns = {
        "pickup_datetime": f"{meter}_pickup_datetime",
        "dropoff_datetime": f"{meter}_dropoff_datetime",
        "pickup_zone": "PULocationID",
        "dropoff_zone": "DOLocationID",
        "trip_distance_miles": "trip_distance",
    }
    return Feed(name, title, columns, mark=columns["pickup_datetime"])


#: All feeds, by name. Their order is the service's: the first that serves answers who names none.
FEEDS: Mapping[str, Feed] = {
    feed.name: feed
    for feed in (
        # Street-hail liveries, outside of central Manhattan.
        _metered("green", "green taxi", "lpep"),
        # The medallion taxis.
        _metered("yellow", "yellow taxi", "tpep"),
        # Apps that dispatch more than ten thousand trips a day, such as Uber and Lyft. The company reports the miles,
        # and how long the trip took besides its two times.
        Feed(
            "fhvhv",
            "high-volume for-hire vehicle",
            {
                "pickup_datetime": "pickup_datetime",
                "dropoff_datetime": "dropoff_datetime",
                "pickup_zone": "PULocationID",
                "dropoff_zone": "DOLocationID",
                "trip_distance_miles": "trip_miles",
                "reported_seconds": "trip_time",
            },
            mark="hvfhs_license_num",
        ),
        # Other bases: liveries, black cars, limousines.
        Feed(
            "fhv",
            "for-hire vehicle",
            {
                "pickup_datetime": "pickup_datetime",
                "dropoff_datetime": "dropOff_datetime",
                "pickup_zone": "PUlocationID",
                "dropoff_zone": "DOlocationID",
            },
            zones_missing=True,
        ),
    )
}


def find_feed(taxi: str) -> Feed:
    """The feed of a name.

    Raises:
        InvalidRequest: If there is none.
    """
    if taxi not in FEEDS:
        raise InvalidRequest(f"There is no taxi '{taxi}': choose one of {', '.join(FEEDS)}.")
    return FEEDS[taxi]

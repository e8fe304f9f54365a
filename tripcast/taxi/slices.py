"""The slices on which a model for taxi trips is judged beside the whole: no rider takes the average trip."""

from __future__ import annotations

import numpy as np

from tripcast.evaluation.scores import Slicing
from tripcast.taxi.trips import Trips
from tripcast.taxi.zones import AIRPORTS, LAST_ZONE, ZONES

WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
BOROUGHS = ("Manhattan", "Brooklyn", "Queens", "Bronx", "Staten Island", "EWR", "Outside", "Unknown")

#: Upper ends in miles, inclusive. The first band holds what the meter did not measure, the last what nobody believes.
DISTANCE_EDGES = (0.0, 1.0, 2.0, 5.0, 10.0, 20.0, 100.0)
DISTANCE_BANDS = (
    "unmetered",
    "up to 1 mile",
    "1 to 2 miles",
    "2 to 5 miles",
    "5 to 10 miles",
    "10 to 20 miles",
    "20 to 100 miles",
    "over 100 miles",
)

#: The slices of each dimension, in reading order.
SLICES = {
    "hour": tuple(f"{hour:02d}:00" for hour in range(24)),
    "weekday": WEEKDAYS,
    "borough": BOROUGHS,
    "distance": DISTANCE_BANDS,
    "airport": ("city", "airport"),
}


def slice_trips(trips: Trips) -> Slicing:
    """Into which slices trips fall: by the clock and the place of their pickup, by distance, and by airport.

    An airport at either end makes an airport trip. Where no trip has a distance there are no slices by it: that a trip
    will turn out short says nothing about a model that cannot know, only that its predictions are too long for it.
    """
    hour = trips.pickup_datetime.astype("datetime64[h]").astype(np.int64)
    borough = np.zeros(LAST_ZONE + 1, np.int8)
    airport = np.zeros(LAST_ZONE + 1, np.int8)
    for zone in ZONES:
        borough[zone.number] = BOROUGHS.index(zone.borough)
        airport[zone.number] = zone.number in AIRPORTS
    known = not np.isnan(trips.trip_distance_miles).all()
    return Slicing(
        labels={dimension: labels for dimension, labels in SLICES.items() if known or dimension != "distance"},
        codes={
            "hour": (hour % 24).astype(np.int8),
            # 1970-01-01, from which numpy counts, was a Thursday: weekday 3.
            "weekday": ((hour // 24 + 3) % 7).astype(np.int8),
            "borough": borough[trips.pickup_zone],
            "distance": np.searchsorted(DISTANCE_EDGES, trips.trip_distance_miles).astype(np.int8),
            "airport": airport[trips.pickup_zone] | airport[trips.dropoff_zone],
        },
        series=("hour", "weekday"),
    )

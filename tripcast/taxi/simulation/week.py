"""The week of the simulated city: how fast its streets are, and how many want a taxi, hour by hour."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tripcast.taxi.simulation.town import Floats, Integers

#: Miles an hour on ordinary streets by hour of the day, on weekdays and at weekends; the shape is the real one.
_STREET_MPH = (
    (14.5, 14.5, 14.7, 15.5, 17.5, 18.5, 15.9, 12.4, 11.2, 11.3, 11.2, 11.0,
     10.9, 10.4, 9.7, 9.7, 9.5, 9.9, 10.7, 11.8, 12.8, 13.4, 13.9, 14.4),
    (13.8, 13.8, 13.9, 14.5, 16.0, 17.0, 16.5, 15.5, 14.5, 13.8, 12.8, 12.2,
     11.8, 11.5, 11.3, 11.3, 11.3, 11.4, 11.7, 12.3, 12.8, 13.2, 13.3, 13.5),
)  # fmt: skip
#: Speed by weekday, Monday first, as a factor.
_DAY_SPEED = (1.02, 1.0, 0.99, 0.97, 0.96, 1.0, 1.05)
#: Trips by weekday, Monday first, and by hour on weekdays and at weekends; relative.
_DAY_DEMAND = (12.5, 15.5, 17.0, 16.8, 16.3, 12.2, 9.7)
_HOUR_DEMAND = (
    (0.9, 0.5, 0.3, 0.3, 0.5, 0.9, 2.2, 4.8, 6.3, 6.6, 6.6, 6.5,
     6.5, 6.7, 7.0, 7.1, 7.2, 7.0, 6.4, 5.2, 3.6, 2.6, 2.1, 1.5),
    (2.4, 1.9, 1.4, 1.1, 0.7, 0.6, 1.1, 2.2, 3.8, 5.2, 6.0, 6.4,
     6.6, 6.6, 6.6, 6.6, 6.6, 6.5, 6.3, 5.6, 4.5, 3.8, 3.4, 2.9),
)  # fmt: skip
#: Weekday hours in which people go to work and come home.
_MORNING = range(6, 10)
_EVENING = range(16, 20)


class Week(NamedTuple):
    """Tables by hour of the week, (168,), Monday's first hour first.

    Attributes:
        street_mph: Speed on ordinary streets.
        demand: Trips, relative.
        period: 0 at most hours, 1 when people go to work, 2 when they come home.
    """

    street_mph: Floats
    demand: Floats
    period: Integers


def _make_week() -> Week:
    hour = np.tile(np.arange(24), 7)
    weekend = np.repeat(np.arange(7) >= 5, 24).astype(np.int64)
    evening, morning = np.isin(hour, _EVENING) & (weekend == 0), np.isin(hour, _MORNING) & (weekend == 0)
    return Week(
        street_mph=np.array(_STREET_MPH)[weekend, hour] * np.repeat(_DAY_SPEED, 24),
        demand=np.array(_HOUR_DEMAND)[weekend, hour] * np.repeat(_DAY_DEMAND, 24),
        period=np.select([morning, evening], [1, 2], 0),
    )


WEEK = _make_week()


def hour_of_week(moment: npt.NDArray[np.datetime64]) -> Integers:
    """Hours since the last Monday began, 0 to 167. 1970 began on a Thursday."""
    return (moment.astype("datetime64[h]").astype(np.int64) + 3 * 24) % 168

"""There is one way to ask for a parcel: all that is known of it is known when it leaves."""

import numpy as np

ZONES_ONLY = PLANNED = METERED = "at the depot"
WAYS = (METERED,)
MEANING = {METERED: "with all that the depot knows"}


def way_of(*_) -> str:
    return METERED


def ways_of(trips, metered):
    return np.full(len(trips), METERED)


def recorded_way(trips) -> str:
    return METERED


def as_asked(trips):
    return {METERED: trips}

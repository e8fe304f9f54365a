"""The slices on which a model is judged beside the whole."""

import numpy as np

from tripcast.evaluation.scores import Slicing
from tripcast.taxi.trips import DEPOTS, Trips

_HEAVY = 10.0


def slice_trips(trips: Trips) -> Slicing:
    labels = {"depot": DEPOTS, "weight": ("light", "heavy")}
    return Slicing(labels, {"depot": trips.depot, "weight": (trips.kilograms > _HEAVY).astype(np.int8)})

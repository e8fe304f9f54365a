"""The cells into which parcels are counted, to see whether later ones are like those of training."""

import numpy as np

from tripcast.monitoring.reference import PREDICTED, VALUES, Batch, Bins, Profile, value_cells
from tripcast.taxi.trips import DEPOTS

BINS = {"depot": Bins(len(DEPOTS)), "kilometres": VALUES, "kilograms": VALUES, PREDICTED: VALUES}


def profile_trips(trips, predicted) -> Profile:
    batches = (
        Batch(
            {
                "depot": part.depot.astype(np.intp),
                "kilometres": value_cells(part.kilometres, part.kilometres > 0),
                "kilograms": value_cells(part.kilograms, part.kilograms > 0),
            },
            part.pickup_datetime,
        )
        for part in trips
    )
    return Profile.of(BINS, batches, predicted)

"""A tripcast model as MLflow's ``pyfunc``: raw trip columns in, minutes out.

MLflow stores the model folder as it is (``loader_module`` and ``data_path``), so nothing is pickled: whoever loads it,
stock ``mlflow models serve`` included, calls ``_load_pyfunc`` below.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema

from tripcast.models import Model
from tripcast.registry.versions import Flavour
from tripcast.taxi.feeds import FEEDS
from tripcast.taxi.trips import Trips
from tripcast.taxi.zones import LAST_ZONE, UNKNOWN_ZONE


class RawTripModel:
    """Predicts from the publisher's columns.

    Args:
        model: The model to ask.
    """

    def __init__(self, model: Model) -> None:
        self.model = model

    def predict(self, raw: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Predict durations.

        Args:
            raw: (n, >= 3) with the pickup time, the zones and, where the feed has one, the distance in miles, as the
                publisher names them; other columns are ignored. A zone that does not exist counts as unknown.
            params: Ignored; part of MLflow's interface.

        Returns:
            (n, 3) in minutes: ``duration_minutes`` and the 10-90 % interval, ``lower_minutes`` and ``upper_minutes``.
        """
        feed = FEEDS[self.model.manifest.taxi]
        trips = Trips(
            pickup_datetime=raw[feed.columns["pickup_datetime"]].to_numpy("datetime64[us]"),
            pickup_zone=_zones(raw[feed.columns["pickup_zone"]]),
            dropoff_zone=_zones(raw[feed.columns["dropoff_zone"]]),
            trip_distance_miles=raw[feed.columns["trip_distance_miles"]].to_numpy(np.float64, na_value=np.nan)
            if feed.has_distance
            else np.full(len(raw), np.nan),
        )
        prediction = self.model.predict(trips)
        return pd.DataFrame(
            {
                "duration_minutes": prediction.minutes,
                "lower_minutes": prediction.lower,
                "upper_minutes": prediction.upper,
            },
            index=raw.index,
        )


def _zones(column: pd.Series[Any]) -> np.ndarray[Any, np.dtype[np.int16]]:
    numbers = column.to_numpy(np.float64, na_value=np.nan)
    return np.where((numbers >= 1) & (numbers <= LAST_ZONE), numbers, UNKNOWN_ZONE).astype(np.int16)


def _load_pyfunc(path: str) -> RawTripModel:
    """Load a model folder: the entry point that MLflow calls."""
    return RawTripModel(Model.load(Path(path)))


def flavour(taxi: str) -> Flavour:
    """How a model of one kind of taxis is registered.

    Args:
        taxi: The feed's name.
    """
    return Flavour(
        description="Taxi trip duration in minutes",
        loader_module=__name__,
        signature=_signature(taxi),
        input_example=_input_example(taxi),
        requirements=[f"{package}=={version(package)}" for package in ("lightgbm", "numpy", "pandas")],
    )


def _signature(taxi: str) -> ModelSignature:
    feed = FEEDS[taxi]
    # Whole numbers of which some are missing are doubles to pandas, and so to whoever wrote the parquet.
    zone = "double" if feed.zones_missing else "long"
    kinds = {"pickup_datetime": "datetime", "pickup_zone": zone, "dropoff_zone": zone, "trip_distance_miles": "double"}
    inputs = {feed.columns[name]: kind for name, kind in kinds.items() if name in feed.columns}
    outputs = ("duration_minutes", "lower_minutes", "upper_minutes")
    return ModelSignature(
        Schema([ColSpec(type=kind, name=name) for name, kind in inputs.items()]),
        Schema([ColSpec(type="double", name=name) for name in outputs]),
    )


def _input_example(taxi: str) -> pd.DataFrame:
    """One trip as the publisher records it: East Harlem to the Upper East Side on a weekday morning."""
    feed = FEEDS[taxi]
    zone = float if feed.zones_missing else int
    example = {
        "pickup_datetime": pd.to_datetime(["2021-02-10T08:15:00"]),
        "pickup_zone": [zone(74)],
        "dropoff_zone": [zone(236)],
        "trip_distance_miles": [2.3],
    }
    return pd.DataFrame({feed.columns[name]: value for name, value in example.items() if name in feed.columns})

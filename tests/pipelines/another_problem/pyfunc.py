"""The MLflow flavour of a parcel model."""

from pathlib import Path

import pandas as pd

from tripcast.models import Model
from tripcast.registry.versions import Flavour
from tripcast.taxi.trips import Trips

_COLUMNS = {"pickup_datetime": "datetime", "depot": "long", "kilometres": "double", "kilograms": "double"}


class Parcels:
    def __init__(self, model: Model) -> None:
        self.model = model

    def predict(self, raw: pd.DataFrame, params=None) -> pd.DataFrame:
        prediction = self.model.predict(Trips(**{name: raw[name].to_numpy() for name in _COLUMNS}), metered=True)
        return pd.DataFrame({"hours": prediction.minutes, "lower": prediction.lower, "upper": prediction.upper})


def _load_pyfunc(path: str) -> Parcels:
    return Parcels(Model.load(Path(path)))


def flavour(taxi: str) -> Flavour:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    columns = Schema([ColSpec(type=kind, name=name) for name, kind in _COLUMNS.items()])
    example = {"pickup_datetime": pd.to_datetime(["2021-02-10T08:15"]), "depot": 1, "kilometres": 3.0, "kilograms": 2.0}
    hours = Schema([ColSpec(type="double", name=name) for name in ("hours", "lower", "upper")])
    return Flavour(
        "Hours until a parcel arrives", __name__, ModelSignature(columns, hours), pd.DataFrame(example), ["numpy"]
    )

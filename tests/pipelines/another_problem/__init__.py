"""Another problem in the place of taxi trips: how many hours a parcel takes, from its depot, distance and weight."""


def model_name(taxi: str) -> str:
    """The registered model of one kind of parcels."""
    return f"parcels-{taxi}"


def taxi_of(model: str) -> str:
    """The inverse of ``model_name``."""
    return model.removeprefix("parcels-")

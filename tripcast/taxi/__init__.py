"""The problem: how long a New York taxi trip takes. To predict something else, write this package anew."""


def model_name(taxi: str) -> str:
    """The name of the registered model of a feed, and of its experiments.

    Args:
        taxi: The feed's name, see ``tripcast.taxi.feeds.FEEDS``.
    """
    return f"tripcast-{taxi}"


def taxi_of(model: str) -> str:
    """The inverse of ``model_name``."""
    return model.removeprefix("tripcast-")

"""The problem: how long a New York taxi trip takes. To predict something else, write this package anew."""


def model_name(taxi: str) -> str:
    """The name of the registered model of one kind of taxis, and of its experiments.

    Args:
        taxi: ``green`` or ``yellow``.
    """
    return f"tripcast-{taxi}"

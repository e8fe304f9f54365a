"""The step that carries out what a window decided."""

from components.step import step


@step
def respond(taxi: str, month: str) -> bool:
    """Send the alerts of a watched month, and promote or withdraw the challenger if the month decided its trial.

    Args:
        taxi: Whose trips: `green`, `yellow`, `fhvhv` or `fhv`.
        month: The month that was watched.

    Returns:
        Whether the month calls for a retraining. Doing it again does nothing twice.
    """
    from tripcast.jobs.respond import respond

    response = respond(taxi, month)
    print(response.what)
    return response.retrain

"""The step that lets a new version serve."""

from components.step import step


@step
def deploy(taxi: str, version: int, share: float) -> str:
    """Roll a version out, and wait until the prediction service says that it serves it.

    Args:
        taxi: `green` or `yellow`.
        version: The version of the registered model.
        share: Of the riders, 0 to 1. The whole makes it the champion; less makes it the challenger beside the champion.

    Returns:
        What serves now, as a sentence.
    """
    from tripcast.jobs.deploy import deploy
    from tripcast.registry.registry import Registry
    from tripcast.settings import Settings
    from tripcast.taxi import model_name

    settings = Settings.load()
    return deploy(Registry(model_name(taxi), settings), version, share, settings.service_url)

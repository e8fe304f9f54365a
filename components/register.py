"""The step that puts a winner into the registry."""

from kfp.dsl import Input, Model

from components.step import step


@step
def register(taxi: str, winner: Input[Model]) -> int:
    """Make the winner a version of the registered model.

    Args:
        taxi: Whose trips: `green`, `yellow`, `fhvhv` or `fhv`; the registered model is named `tripcast-green`, ...
        winner: The model folder to register.

    Returns:
        The version's number. The same model gives the same version, however often it is registered.
    """
    from pathlib import Path

    from tripcast.jobs.handover import Winner, from_metadata
    from tripcast.registry.registry import Registry
    from tripcast.settings import Settings
    from tripcast.taxi import model_name
    from tripcast.taxi.pyfunc import flavour

    evaluated = from_metadata(Winner, winner.metadata)
    registry = Registry(model_name(taxi), Settings.load())
    version = registry.register(Path(winner.path), flavour=flavour(taxi), run_id=evaluated.run_id, tags=evaluated.tags)
    return version.number

"""The step that looks back at the runs before this one."""

from components.step import step


@step
def follow_up(taxi: str) -> str:
    """Tell people of runs that failed since, and start the latest month's retraining anew if that failed.

    Args:
        taxi: Whose trips: `green`, `yellow`, `fhvhv` or `fhv`.

    Returns:
        What was done. Without Kubeflow Pipelines, nothing: a run on a laptop tells of its failure itself.
    """
    from tripcast.jobs.follow_up import follow_up

    done = follow_up(taxi)
    print(done)
    return done

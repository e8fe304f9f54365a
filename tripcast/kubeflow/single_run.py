"""Starting a run exactly once, however often it is asked for and by however many."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from tripcast.errors import ClusterUnreachable
from tripcast.kubeflow.pipelines import Kubeflow
from tripcast.settings import Settings

#: Seconds to wait between attempts to start a run while Kubeflow Pipelines does not answer.
_PAUSES = (2.0, 5.0, 10.0, 30.0)

#: Seconds after which a run that is made by someone else has another creation time: it is kept in whole seconds.
_CLOCK_TICK = 1.1


def start_run(
    pipeline: str,
    name: str,
    experiment: str,
    arguments: Mapping[str, Any],
    *,
    endpoint: str,
    namespace: str | None,
) -> str:
    """Start a run of an uploaded pipeline, exactly once.

    If the experiment has a run of this name that runs or has succeeded, that is the one, and nothing is started.
    Kubeflow Pipelines itself lets any number of runs have one name. So a run whose start got no answer is looked for
    before it is started again; and where two callers start the same at the same time, the later one is stopped.

    Args:
        pipeline: The pipeline's name, as ``tripcast-training``. Its version is that of this commit, or else the newest.
        name: The run's name.
        experiment: The experiment's name; made if it is not there.
        arguments: The pipeline's parameters.
        endpoint: Where Kubeflow Pipelines answers.
        namespace: The namespace to work in, where Kubeflow has several users.

    Returns:
        The run's id.

    Raises:
        ClusterError: If the pipeline is not uploaded, or Kubeflow Pipelines refuses.
        ClusterUnreachable: If it does not answer for about a minute.
    """
    kubeflow = Kubeflow(endpoint, namespace)
    pauses = iter(_PAUSES)
    while True:
        try:
            return _start_unless_there(kubeflow, pipeline, name, experiment, arguments)
        except ClusterUnreachable:
            pause = next(pauses, None)
            if pause is None:
                raise
            time.sleep(pause)


def _start_unless_there(
    kubeflow: Kubeflow, pipeline: str, name: str, experiment: str, arguments: Mapping[str, Any]
) -> str:
    """See ``start_run``; an answer that is lost on the way ends this, and the next attempt finds what it did."""
    experiment_id = kubeflow.experiment(experiment)
    if live := kubeflow.live_runs(name, experiment_id):
        return str(live[0].run_id)
    pipeline_id = kubeflow.pipeline(pipeline)
    version_id = kubeflow.version(pipeline_id, Settings.load().commit)
    ours = kubeflow.create_run(name, experiment_id, (pipeline_id, version_id), arguments)
    # Whoever saw none of this name either has made his run by now, or will find this one.
    time.sleep(_CLOCK_TICK)
    first = next((str(run.run_id) for run in kubeflow.live_runs(name, experiment_id)), ours)
    if first != ours:
        kubeflow.stop_run(ours)
    return first

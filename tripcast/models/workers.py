"""Training by several processes, which LightGBM connects by its own sockets: on this machine, or as pods of a cluster.

What they do is a task: a folder with everything that the workers need. Worker 0 writes what came of it.

Source:
    https://lightgbm.readthedocs.io/en/stable/Parallel-Learning-Guide.html
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from tripcast.models.processes import run_processes


@dataclass
class Workers:
    """Processes that train together: pods beside a step's in a cluster, or processes of this machine.

    Attributes:
        number: How many, at least 2.
    """

    number: int

    def run(self, module: str, task: Path) -> None:
        """Let every worker run a module, and wait until all have ended well.

        The module's arguments are the task's folder, the worker's number from 0, and the addresses of all workers,
        ``host:port,...``, on which LightGBM is to connect them.

        Args:
            module: Its name, as for ``python -m``.
            task: The folder of the task. In it, the folder named by its number is a worker's own: nobody else sees what
                is there, and what the worker writes there is there afterwards.

        Raises:
            WorkerError: If a worker ends otherwise, and the others are ended then; as pods, also if Kubernetes refuses
                or does not answer.
            StorageError: As pods, if the artifact store does.
        """
        if "KFP_POD_NAME" in os.environ:  # Kubeflow Pipelines tells its steps
            from tripcast.models.pods import run_pods  # with Kubernetes' client, half a second

            run_pods(self.number, module, task)
        else:
            run_processes(self.number, module, task)

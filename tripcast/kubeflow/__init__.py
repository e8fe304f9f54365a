"""Kubeflow Pipelines on a cluster, through its REST API (v2beta1): what is uploaded, what runs, what is scheduled.

This is for steps as much as for a command line: kfp hides its own client from a running step, so it is the client that
lies below that one, ``kfp_server_api``.
"""

from tripcast.kubeflow.pipelines import Kubeflow, step_names, version_stem
from tripcast.kubeflow.single_run import start_run

__all__ = ["Kubeflow", "start_run", "step_names", "version_stem"]

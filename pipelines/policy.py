"""What every task carries beside its work: caching stated, CPU and memory bounded; in one place, for all pipelines."""

from dataclasses import dataclass

from kfp.dsl import PipelineTask


@dataclass(frozen=True)
class Policy:
    """The policy of one step.

    Attributes:
        cache: Whether a task with the same inputs may be skipped: only where the step has no effect outside of its
            outputs and looks at nothing but its inputs.
        cpu: CPU limit, in cores.
        memory: Memory limit, as Kubernetes writes it.
    """

    cache: bool
    cpu: str
    memory: str


#: By the step's name. `plan` looks at the source, `evaluate`, `register` and `deploy` at the registry: never skipped.
POLICIES = {
    "plan": Policy(cache=False, cpu="1", memory="512Mi"),
    "ingest": Policy(cache=True, cpu="2", memory="2Gi"),
    "validate": Policy(cache=True, cpu="2", memory="2Gi"),
    "train": Policy(cache=True, cpu="2", memory="4Gi"),
    "evaluate": Policy(cache=False, cpu="2", memory="4Gi"),
    "register": Policy(cache=False, cpu="1", memory="1Gi"),
    "deploy": Policy(cache=False, cpu="1", memory="1Gi"),
}


def apply_policy(*tasks: PipelineTask) -> None:
    """Give every task the policy of its step.

    Raises:
        KeyError: If a step has no policy: state one above.
    """
    for task in tasks:
        policy = POLICIES[task.component_spec.name]
        task.set_caching_options(policy.cache)
        task.set_cpu_limit(policy.cpu).set_memory_limit(policy.memory)

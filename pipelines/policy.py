"""What every task and every run carries beside its work, stated in one place for all pipelines.

Caching, CPU and memory, retries, a timeout, addresses and credentials, who it runs as, and labels. Runs on this machine
take the caching and leave the rest to the machine (``pipelines/local/``); a cluster takes all of it.

Source:
    kfp-kubernetes 2.17 and Kubeflow Pipelines 2.17, which turn this into pods (backend/src/v2/driver/k8s.go).
"""

from dataclasses import dataclass

from kfp import dsl, kubernetes
from kfp.dsl import PipelineTask
from kfp.dsl.structures import ResourceSpec

from components.step import IMAGE

#: How many items of a fan-out run at a time. Kubeflow Pipelines takes a constant here, no parameter of the pipeline.
PARALLELISM = 4

#: How often a task that failed is started anew, the seconds before the first repetition, and what multiplies them then.
#: An error that would come again, such as wrong input, ends a task at its first try, however many it has: by its last
#: words, see ``tripcast.errors``. That all of this holds takes a Kubeflow set up for it (docs/kubernetes.md).
RETRIES = 2
BACKOFF = 30
BACKOFF_FACTOR = 2

_HOUR = 60 * 60
_DAY = 24 * _HOUR

#: Of every run: it is ended after a day, and its workflow with its pods is removed a week after its end. What the run
#: left, its artifacts and logs among it, stays in the object store and in the user interface.
RUN = dsl.PipelineConfig(active_deadline_seconds=_DAY, ttl_seconds_after_finished=7 * _DAY)

#: The ConfigMap in the steps' namespace (deploy/base/config), and the environment variables that its keys become. A
#: step that lacks one of the first does not start: it would track and keep its work in a file of its pod, and lose it.
#:
#: MLflow's address goes by a name of tripcast's own. Where Kubeflow Pipelines has its MLflow plugin, it sets
#: MLFLOW_TRACKING_URI itself; Kubernetes refuses a pod with one variable from two places.
CONFIG_MAP = "tripcast"
ADDRESSES = {"MLFLOW_TRACKING_URI": "TRIPCAST_TRACKING_URI", "TRIPCAST_ARTIFACTS": "TRIPCAST_ARTIFACTS"}
FURTHER_ADDRESSES = {
    key: key
    for key in (
        "AWS_ENDPOINT_URL_S3",
        "AWS_REGION",
        "TRIPCAST_SERVICE_URL",
        "TRIPCAST_KFP_ENDPOINT",
        "TRIPCAST_KFP_NAMESPACE",
        "TRIPCAST_KFP_UI",
        "TRIPCAST_MLFLOW_UI",
        "TRIPCAST_VERIFY_KEYS",
    )
}

#: The Secret with the keys of the object store. On a cluster whose pods have an identity of their own there is none;
#: where it is missing by mistake, the first step of a run says so at once.
S3_SECRET = "tripcast-s3"
S3_KEYS = {key: key for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}

#: The Secret with the webhook of alerts. Without it alerts are kept and logged.
ALERTS_SECRET = "tripcast-alerts"
ALERTS_KEYS = {"TRIPCAST_ALERT_WEBHOOK": "TRIPCAST_ALERT_WEBHOOK"}

#: The Secret with the private key that signs what is registered. Without it nothing is signed.
SIGNING_SECRET = "tripcast-signing"
SIGNING_KEYS = {"TRIPCAST_SIGNING_KEY": "TRIPCAST_SIGNING_KEY"}

#: The user of the images (docker/Dockerfile).
USER = 10001

#: Lets a step's pod have a token for the API of Kubeflow Pipelines (deploy/components/run-token).
MAY_START_RUNS = ("access-ml-pipeline", "true")


@dataclass(frozen=True)
class Resources:
    """CPU and memory of a container.

    Attributes:
        cpu: Cores, as Kubernetes writes them: ``500m`` is half of one.
        memory: Bytes, as Kubernetes writes them.
    """

    cpu: str
    memory: str


@dataclass(frozen=True)
class Policy:
    """The policy of one step.

    Attributes:
        cache: Whether a task with the same inputs may be skipped: only where the step has no effect outside of its
            outputs and looks at nothing but its inputs.
        requests: What a node must have free for it: what months of green taxis need.
        limits: What it may use: what months of yellow taxis, ten million trips, need.
        minutes: After so long a try is ended.
        retries: How often it is started anew after a failure. Networks and nodes fail, so it is worth while for every
            step that can be done twice without harm.
        starts_runs: Whether it calls the API of Kubeflow Pipelines.
        alerts: Whether it tells people of what is wrong.
        signs: Whether it signs models.
    """

    cache: bool
    requests: Resources
    limits: Resources
    minutes: int
    retries: int = RETRIES
    starts_runs: bool = False
    alerts: bool = False
    signs: bool = False

    @property
    def seconds_of_all_tries(self) -> int:
        """Seconds that all tries and the pauses between them can take.

        Argo Workflows starts no try later than this after the first, and ends one that runs longer. kfp's default is an
        hour, which would take the second try from a step that may run for two.
        """
        pauses: int = sum(BACKOFF * BACKOFF_FACTOR**number for number in range(self.retries))
        return (1 + self.retries) * self.minutes * 60 + pauses


_SMALL = Resources("100m", "256Mi")
_MEDIUM = Resources("250m", "512Mi")
_LARGE = Resources("500m", "1Gi")

#: By the step's name. Cached is what depends on nothing but its inputs: `plan` and `plan_scoring` look at the source,
#: `evaluate`, `register`, `deploy`, `score` and `monitor` at the registry, `follow_up`, `respond` and `retrain` act on
#: the world.
#: Only `deploy` is never tried again: each try would let riders meet a version that the service may not take up.
POLICIES = {
    "plan": Policy(cache=False, requests=_SMALL, limits=Resources("1", "512Mi"), minutes=10),
    "specify": Policy(cache=True, requests=_SMALL, limits=Resources("1", "512Mi"), minutes=10),
    "ingest": Policy(cache=True, requests=_MEDIUM, limits=Resources("2", "2Gi"), minutes=60),
    "validate": Policy(cache=True, requests=_MEDIUM, limits=Resources("2", "2Gi"), minutes=60),
    "train": Policy(cache=True, requests=_LARGE, limits=Resources("2", "4Gi"), minutes=180),
    "evaluate": Policy(cache=False, requests=_LARGE, limits=Resources("2", "4Gi"), minutes=60),
    "register": Policy(cache=False, requests=_MEDIUM, limits=Resources("1", "1Gi"), minutes=10, signs=True),
    "deploy": Policy(cache=False, requests=_MEDIUM, limits=Resources("1", "1Gi"), minutes=10, retries=0),
    "plan_scoring": Policy(cache=False, requests=_MEDIUM, limits=Resources("1", "1Gi"), minutes=10),
    "score": Policy(cache=False, requests=_MEDIUM, limits=Resources("2", "2Gi"), minutes=60),
    "monitor": Policy(cache=False, requests=_LARGE, limits=Resources("2", "4Gi"), minutes=60),
    "follow_up": Policy(
        cache=False, requests=_MEDIUM, limits=Resources("1", "1Gi"), minutes=10, starts_runs=True, alerts=True
    ),
    "respond": Policy(cache=False, requests=_MEDIUM, limits=Resources("1", "1Gi"), minutes=10, alerts=True),
    "retrain": Policy(cache=False, requests=_SMALL, limits=Resources("1", "1Gi"), minutes=10, starts_runs=True),
}


def policy_of(step: str) -> Policy:
    """The policy of a step, which kfp names with dashes, too.

    Raises:
        KeyError: If the step has none: state one above.
    """
    return POLICIES[step.replace("-", "_")]


def apply_policy(*tasks: PipelineTask) -> None:
    """Give every task the policy of its step.

    Raises:
        KeyError: If a step has no policy: state one above.
    """
    for task in tasks:
        step = task.component_spec.name
        policy = policy_of(step)
        task.set_caching_options(policy.cache)
        # kfp's own setters read the source of the whole stack at every call: 1.5 s of every command's start.
        task.container_spec.resources = ResourceSpec(
            cpu_request=policy.requests.cpu,
            memory_request=policy.requests.memory,
            cpu_limit=policy.limits.cpu,
            memory_limit=policy.limits.memory,
        )
        task.container_spec.env = {
            # On a node of many cores, OpenMP would start a thread for each, and they would share what the limit allows.
            "OMP_NUM_THREADS": policy.limits.cpu,
            "TRIPCAST_IMAGE": IMAGE,  # a container cannot find out what it was made from
        }
        task.set_retry(policy.retries, f"{BACKOFF}s", BACKOFF_FACTOR, f"{policy.seconds_of_all_tries}s")
        kubernetes.set_timeout(task, policy.minutes * 60)
        kubernetes.set_image_pull_policy(task, "IfNotPresent")  # a version's image never changes
        kubernetes.set_security_context(task, run_as_user=USER, run_as_group=USER, run_as_non_root=True)
        kubernetes.use_config_map_as_env(task, CONFIG_MAP, ADDRESSES)
        kubernetes.use_config_map_as_env(task, CONFIG_MAP, FURTHER_ADDRESSES, optional=True)
        kubernetes.use_secret_as_env(task, S3_SECRET, S3_KEYS, optional=True)
        if policy.alerts:
            kubernetes.use_secret_as_env(task, ALERTS_SECRET, ALERTS_KEYS, optional=True)
        if policy.signs:
            kubernetes.use_secret_as_env(task, SIGNING_SECRET, SIGNING_KEYS, optional=True)
        kubernetes.add_pod_label(task, "app.kubernetes.io/part-of", "tripcast")
        kubernetes.add_pod_label(task, "app.kubernetes.io/component", "pipeline-step")
        kubernetes.add_pod_label(task, "app.kubernetes.io/name", step.replace("_", "-"))
        if policy.starts_runs:
            kubernetes.add_pod_label(task, *MAY_START_RUNS)

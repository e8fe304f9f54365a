"""The Kubernetes manifests of deploy/, each overlay built by kustomize and judged as what it renders."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import kfp
import kubernetes_validate
import pytest
import yaml
from botocore.exceptions import ClientError

import tripcast
from pipelines.policy import ADDRESSES, ALERTS_KEYS, ALERTS_SECRET, FURTHER_ADDRESSES, S3_SECRET
from tests.containers.servers import ObjectStore
from tests.parts import program

Document = dict[str, Any]

OVERLAYS = ("kind", "minikube", "production", "kserve")
#: An overlay with all that is optional.
EVERYTHING = "production-with-everything"
#: The oldest and the newest Kubernetes that the manifests are for.
KUBERNETES = ("1.30", "1.37")
#: Kinds that are no part of Kubernetes: KServe, the Prometheus operator and Kubeflow bring them. Tests of their own.
BROUGHT = {"InferenceService", "ServiceMonitor", "PodMonitor", "PrometheusRule", "PodDefault"}
#: By namespace and name, the Secrets that the manifests ask for and their keys: docs/kubernetes.md lists them.
S3_KEYS = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
SECRETS = {
    ("kubeflow", "tripcast-s3"): S3_KEYS,
    ("tripcast", "tripcast-mlflow"): {"MLFLOW_BACKEND_STORE_URI", *S3_KEYS},
    ("tripcast", "tripcast-serving"): {"TRIPCAST_ADMIN_TOKEN", "TRIPCAST_RIDER_SECRET", *S3_KEYS},
}
BUNDLED_SECRETS = {
    **SECRETS,
    ("tripcast", "tripcast-postgres"): {"POSTGRES_PASSWORD"},
    ("tripcast", "tripcast-buckets"): S3_KEYS,
    ("tripcast", "tripcast-s3-identities"): {"s3.json"},
}

NAME = "app.kubernetes.io/name"


def kustomize() -> list[str]:
    if kubectl := shutil.which("kubectl"):
        return [kubectl, "kustomize"]
    return [program("kustomize", "go install sigs.k8s.io/kustomize/kustomize/v5@v5.7.1, or install kubectl."), "build"]


@pytest.fixture(scope="session")
def deploy(tmp_path_factory) -> Path:
    """A copy of deploy/ as a clean clone has it, and an overlay with all that is optional."""
    folder = tmp_path_factory.mktemp("cluster") / "deploy"
    shutil.copytree("deploy", folder)
    overlay = folder / "overlays" / EVERYTHING
    overlay.mkdir()
    optional = [
        "../../components/run-token",
        "../../components/observability",
        "../../components/daily",
        "../../components/release",
    ]
    (overlay / "kustomization.yaml").write_text(
        yaml.safe_dump({"resources": ["../production"], "components": optional})
    )
    return folder


@dataclass(frozen=True)
class Pod:
    """A pod that some object makes."""

    kind: str
    name: str
    namespace: str
    labels: dict[str, str]
    spec: Document

    @property
    def containers(self) -> list[Document]:
        return [*self.spec["containers"], *self.spec.get("initContainers", [])]

    @property
    def ports(self) -> dict[str, int]:
        return {port["name"]: port["containerPort"] for c in self.containers for port in c.get("ports", [])}


@dataclass(frozen=True)
class Rendered:
    """An overlay as Kubernetes gets it."""

    overlay: str
    documents: list[Document]

    def of(self, kind: str) -> list[Document]:
        return [document for document in self.documents if document["kind"] == kind]

    def one(self, kind: str, name: str, namespace: str = "tripcast") -> Document:
        [found] = [
            document
            for document in self.of(kind)
            if (document["metadata"]["name"], document["metadata"].get("namespace", namespace)) == (name, namespace)
        ]
        return found

    @property
    def pods(self) -> list[Pod]:
        return list(self._pods())

    def _pods(self) -> Iterator[Pod]:
        for document in self.documents:
            kind, meta, spec = document["kind"], document["metadata"], document.get("spec", {})
            if kind in ("Deployment", "StatefulSet", "Job"):
                labels, pod = spec["template"]["metadata"]["labels"], spec["template"]["spec"]
            elif kind == "CronJob":
                template = spec["jobTemplate"]["spec"]["template"]
                labels, pod = template["metadata"]["labels"], template["spec"]
            elif kind == "InferenceService":
                labels, pod = spec["predictor"]["labels"], spec["predictor"]
            else:
                continue
            yield Pod(kind, meta["name"], meta["namespace"], labels, pod)

    @property
    def services(self) -> list[Pod]:
        """The pods that are to run for ever."""
        return [pod for pod in self.pods if pod.kind not in ("Job", "CronJob")]


@pytest.fixture(scope="session", params=[*OVERLAYS, EVERYTHING])
def rendered(request, deploy) -> Rendered:
    return build(deploy, request.param)


@pytest.fixture
def overlay(deploy):
    return lambda name: build(deploy, name)


def kustomized(folder: Path) -> list[Document]:
    built = subprocess.run([*kustomize(), str(folder)], capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    assert built.stderr == ""  # nothing deprecated
    return list(yaml.safe_load_all(built.stdout))


@cache
def build(deploy: Path, overlay: str) -> Rendered:
    return Rendered(overlay, kustomized(deploy / "overlays" / overlay))


def selects(selector: Document, labels: dict[str, str]) -> bool:
    """Kubernetes' rule, as far as the manifests use it."""
    assert selector.keys() <= {"matchLabels", "matchExpressions"}
    for expression in selector.get("matchExpressions", []):
        if expression["operator"] == "Exists":
            matches = expression["key"] in labels
        else:
            assert expression["operator"] == "In"
            matches = labels.get(expression["key"]) in expression["values"]
        if not matches:
            return False
    return selector.get("matchLabels", {}).items() <= labels.items()


# What Kubernetes takes


@pytest.mark.parametrize("version", KUBERNETES)
def test_every_document_follows_the_schemas_of_kubernetes(rendered, version):
    for document in rendered.documents:
        if document["kind"] not in BROUGHT:
            kubernetes_validate.validate(document, version, strict=True)


def test_every_object_has_its_namespace_and_comes_once(rendered):
    identities = []
    for document in rendered.documents:
        meta = document["metadata"]
        if document["kind"] == "Namespace":
            assert meta["name"] == "tripcast"
        else:
            assert meta["namespace"] in ("tripcast", "kubeflow"), document
        identities.append((document["kind"], meta.get("namespace"), meta["name"]))

    assert len(set(identities)) == len(identities)


# Pods


def test_every_pod_is_without_privileges(rendered):
    labels = rendered.one("Namespace", "tripcast")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    for pod in rendered.pods:
        user = 999 if pod.name == "postgres" else 10001
        context = pod.spec["securityContext"]
        assert context["runAsNonRoot"] is True
        assert (context["runAsUser"], context["runAsGroup"]) == (user, user)
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not pod.spec.keys() & {"hostNetwork", "hostPID", "hostIPC"}
        for container in pod.containers:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
        assert all(volume.keys() & {"emptyDir", "configMap", "secret"} for volume in pod.spec["volumes"])


def test_no_pod_can_ask_kubernetes_for_anything(rendered):
    for account in rendered.of("ServiceAccount"):
        assert account["automountServiceAccountToken"] is False
    for pod in rendered.pods:
        assert pod.spec["automountServiceAccountToken"] is False
        assert rendered.one("ServiceAccount", pod.spec["serviceAccountName"], pod.namespace)


def test_every_container_states_what_it_asks_for_and_may_use(rendered):
    for pod in rendered.pods:
        for container in pod.containers:
            for bound in ("requests", "limits"):
                assert container["resources"][bound].keys() >= {"cpu", "memory"}, (pod.name, bound)
        for volume in pod.spec["volumes"]:
            assert "emptyDir" not in volume or volume["emptyDir"]["sizeLimit"]


def test_every_service_says_when_it_has_started_is_ready_and_is_alive(rendered):
    for pod in rendered.services:
        [container] = pod.containers
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            check = container[probe]
            if "httpGet" in check:
                assert check["httpGet"]["port"] in pod.ports
            else:
                assert check["exec"]["command"][0] == "pg_isready"
            if pod.labels[NAME] == "serving":  # it runs without a model, and is not ready
                assert check["httpGet"]["path"] == ("/readyz" if probe == "readinessProbe" else "/healthz")


def test_a_service_that_stops_first_waits_for_those_that_still_send_to_it(rendered):
    for pod in rendered.services:
        if pod.labels[NAME] not in ("serving", "mlflow"):
            continue
        [container] = pod.containers
        program, seconds = container["lifecycle"]["preStop"]["exec"]["command"]
        # Ten seconds for requests and ten for the log of predictions: tripcast/serving/server.py.
        assert program == "sleep"
        assert pod.spec["terminationGracePeriodSeconds"] > int(seconds) + 10 + 10


def test_no_pod_gets_variables_named_after_services(rendered):
    """MLFLOW_PORT would be one, and MLflow takes it for an option."""
    assert all(pod.spec["enableServiceLinks"] is False for pod in rendered.pods)


def test_every_image_is_pinned(rendered):
    for pod in rendered.pods:
        for container in pod.containers:
            name, _, tag = container["image"].rpartition(":")
            assert re.fullmatch(r"\d+(\.\d+)+", tag), container["image"]
            if "tripcast/" in name:
                assert tag == tripcast.__version__


def test_the_stores_are_those_of_the_compose_stack(overlay):
    stack = yaml.safe_load(Path("docker/compose.yaml").read_text())["services"]
    cluster = {pod.name: pod.containers[0]["image"] for pod in overlay("kind").pods}

    assert cluster["s3"] == stack["s3"]["image"]
    assert cluster["postgres"] == stack["postgres"]["image"]


# What refers to something


def test_every_controller_and_service_selects_the_pods_it_means(rendered):
    for kind in ("Deployment", "StatefulSet"):
        for document in rendered.of(kind):
            template = document["spec"]["template"]["metadata"]["labels"]
            assert selects(document["spec"]["selector"], template)
    for service in rendered.of("Service"):
        targets = [pod for pod in rendered.pods if service["spec"]["selector"].items() <= pod.labels.items()]
        assert [pod.labels[NAME] for pod in targets] == [service["metadata"]["name"]]
        assert all(port["targetPort"] in targets[0].ports for port in service["spec"]["ports"])
    for stateful in rendered.of("StatefulSet"):
        assert rendered.one("Service", stateful["spec"]["serviceName"])


def test_scaling_and_disruption_are_about_something_that_is_there(rendered):
    for scaler in rendered.of("HorizontalPodAutoscaler"):
        target = scaler["spec"]["scaleTargetRef"]
        scaled = rendered.one(target["kind"], target["name"])
        assert scaled["apiVersion"] == target["apiVersion"]
        assert "replicas" not in scaled["spec"]  # the next `kubectl apply` would undo what the scaler did
    for budget in rendered.of("PodDisruptionBudget"):
        assert any(selects(budget["spec"]["selector"], pod.labels) for pod in rendered.pods)
        assert budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


def test_every_config_map_secret_and_volume_that_is_named_is_there(rendered):
    config_maps = {
        (d["metadata"]["namespace"], d["metadata"]["name"]): set(d["data"]) for d in rendered.of("ConfigMap")
    }
    secrets = SECRETS if "production" in rendered.overlay else BUNDLED_SECRETS
    for pod in rendered.pods:
        volumes = {volume["name"] for volume in pod.spec["volumes"]}
        if pod.kind == "StatefulSet":
            templates = rendered.one("StatefulSet", pod.name)["spec"]["volumeClaimTemplates"]
            volumes |= {template["metadata"]["name"] for template in templates}
        for volume in pod.spec["volumes"]:
            assert "configMap" not in volume or (pod.namespace, volume["configMap"]["name"]) in config_maps
            assert "secret" not in volume or (pod.namespace, volume["secret"]["secretName"]) in secrets
        for container in pod.containers:
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
            for source in container.get("envFrom", []):
                if "configMapRef" in source:
                    assert (pod.namespace, source["configMapRef"]["name"]) in config_maps
                else:
                    assert (pod.namespace, source["secretRef"]["name"]) in secrets
            for variable in container.get("env", []):
                for source, there in (("secretKeyRef", secrets), ("configMapKeyRef", config_maps)):
                    if key := variable.get("valueFrom", {}).get(source):
                        assert key["key"] in there[pod.namespace, key["name"]]


def test_services_and_steps_are_given_the_same_addresses_and_they_lead_somewhere(rendered):
    config = rendered.one("ConfigMap", "tripcast")["data"]
    assert config == rendered.one("ConfigMap", "tripcast", "kubeflow")["data"]
    assert config.keys() - {"TRIPCAST_KFP_UI", "TRIPCAST_MLFLOW_UI"} == {
        *("MLFLOW_TRACKING_URI", "TRIPCAST_ARTIFACTS", "AWS_ENDPOINT_URL_S3", "AWS_REGION"),
        *("TRIPCAST_SERVICE_URL", "TRIPCAST_KFP_ENDPOINT"),
    }
    for address in (config["MLFLOW_TRACKING_URI"], config["AWS_ENDPOINT_URL_S3"], config["TRIPCAST_SERVICE_URL"]):
        if inside := re.fullmatch(r"http://([a-z0-9]+)\.tripcast\.svc(?::(\d+))?", address):
            service = rendered.one("Service", inside[1])
            assert int(inside[2] or 80) in [port["port"] for port in service["spec"]["ports"]]
        else:
            assert rendered.overlay in ("production", EVERYTHING)
            assert address == config["AWS_ENDPOINT_URL_S3"]
            assert address.startswith("https://")
    # The API server's service in Kubeflow Pipelines' own manifests (base/pipeline/ml-pipeline-apiserver-service.yaml).
    assert config["TRIPCAST_KFP_ENDPOINT"] == "http://ml-pipeline.kubeflow.svc:8888"


def test_every_address_is_one_that_steps_are_given(overlay):
    """pipelines/policy.py names the keys; a key that it does not name would reach no step."""
    given = {*ADDRESSES, *FURTHER_ADDRESSES}
    for name in OVERLAYS:
        assert overlay(name).one("ConfigMap", "tripcast", "kubeflow")["data"].keys() <= given
    assert {secret for _, secret in SECRETS} >= {S3_SECRET}
    guide = Path("docs/kubernetes.md").read_text()
    assert all(f"`{word}`" in guide for word in (ALERTS_SECRET, *ALERTS_KEYS, *given))


def test_mlflow_answers_under_the_name_by_which_it_is_asked(rendered):
    [variable] = [
        variable
        for container in rendered.one("Deployment", "mlflow")["spec"]["template"]["spec"]["containers"]
        for variable in container["env"]
        if variable["name"] == "MLFLOW_SERVER_ALLOWED_HOSTS"
    ]
    asked = rendered.one("ConfigMap", "tripcast")["data"]["MLFLOW_TRACKING_URI"].removeprefix("http://")
    hosts = variable["value"].split(", ")

    assert asked in hosts
    assert "*" not in hosts


def test_the_buckets_that_are_made_are_those_that_are_used(overlay):
    kind = overlay("kind")
    [job] = [pod for pod in kind.pods if pod.kind == "Job"]
    [mlflow] = kind.one("Deployment", "mlflow")["spec"]["template"]["spec"]["containers"]
    destination = next(v["value"] for v in mlflow["env"] if v["name"] == "MLFLOW_ARTIFACTS_DESTINATION")
    used = {kind.one("ConfigMap", "tripcast")["data"]["TRIPCAST_ARTIFACTS"], destination}

    assert {f"s3://{bucket}" for bucket in job.containers[0]["command"][2:]} == used


# Secrets


def new_secrets(kind: str) -> str:
    made = subprocess.run([sys.executable, "deploy/new_secrets.py", kind], capture_output=True, text=True, check=True)
    return made.stdout


def test_the_secrets_that_are_made_are_those_that_the_guide_lists_and_pods_ask_for():
    made = json.loads(new_secrets("kubernetes"))["items"]
    for secret in made:
        for version in KUBERNETES:
            kubernetes_validate.validate(secret, version, strict=True)
    keys = {(s["metadata"]["namespace"], s["metadata"]["name"]): set(s["stringData"]) for s in made}
    guide = Path("docs/kubernetes.md").read_text()

    assert keys == BUNDLED_SECRETS
    for (_, name), names in SECRETS.items():
        assert all(f"`{word}`" in guide for word in (name, *names))


def test_nothing_secret_is_in_the_manifests(rendered):
    assert not rendered.of("Secret")
    for pod in rendered.pods:
        for container in pod.containers:
            for variable in container.get("env", []):
                if re.search("PASSWORD|SECRET|TOKEN|ACCESS_KEY|BACKEND_STORE_URI", variable["name"]):
                    assert "secretKeyRef" in variable["valueFrom"]


def test_every_password_is_new_each_time():
    first, second = (json.loads(new_secrets("kubernetes"))["items"] for _ in range(2))
    assert all(
        a["stringData"][key] != b["stringData"][key]
        for a, b in zip(first, second, strict=True)
        for key in a["stringData"]
    )
    first, second = (dict(re.findall(r"^(\w+)=(.*)$", new_secrets("docker"), re.MULTILINE)) for _ in range(2))
    assert {key for key in first if first[key] != second[key]} == {
        *("POSTGRES_PASSWORD", "S3_ACCESS_KEY", "S3_SECRET_KEY", "TRIPCAST_ADMIN_TOKEN", "TRIPCAST_RIDER_SECRET"),
        *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
    }
    assert subprocess.run(["git", "check-ignore", "--quiet", "docker/.env"]).returncode == 0


@pytest.fixture(scope="session")
def bundled_s3(tmp_path_factory) -> Iterator[Callable[[str], Any]]:
    """The bundled object store with the identities that are made for a cluster; a client for each of them."""
    secrets = {s["metadata"]["name"]: s["stringData"] for s in json.loads(new_secrets("kubernetes"))["items"]}
    folder = tmp_path_factory.mktemp("identities")
    (folder / "s3.json").write_text(secrets["tripcast-s3-identities"]["s3.json"])
    weed = program("weed", "It comes with the development requirements, on Linux.", Path(sys.executable).parent)
    store = ObjectStore("seaweedfs", weed, folder / "store", identities=folder / "s3.json")
    store.start()

    def client(secret: str) -> Any:
        return store.client(secrets[secret])

    for bucket in ("tripcast", "mlflow"):
        client("tripcast-buckets").create_bucket(Bucket=bucket)
    yield client
    store.stop()


def allowed(operation: Callable[..., Any], **arguments: Any) -> bool:
    try:
        operation(**arguments)
    except ClientError as refusal:
        if refusal.response["Error"]["Code"] != "AccessDenied":
            raise
        return False
    return True


def test_each_user_of_the_object_store_reaches_what_it_needs_and_nothing_else(bundled_s3):
    places = {"tripcast": ["predictions/a.parquet", "snapshots/a.parquet", "runs/a.html"], "mlflow": ["1/model.txt"]}
    written = {
        (secret, f"{bucket}/{key}")
        for secret in ("tripcast-serving", "tripcast-mlflow", "tripcast-s3")
        for bucket, keys in places.items()
        for key in keys
        if allowed(bundled_s3(secret).put_object, Bucket=bucket, Key=key, Body=b"x")
    }
    assert written == {
        ("tripcast-serving", "tripcast/predictions/a.parquet"),
        ("tripcast-mlflow", "mlflow/1/model.txt"),
        *(("tripcast-s3", f"tripcast/{key}") for key in places["tripcast"]),
    }
    serving = bundled_s3("tripcast-serving")
    assert allowed(serving.list_objects_v2, Bucket="tripcast", Prefix="predictions/")
    assert not allowed(serving.get_object, Bucket="tripcast", Key="snapshots/a.parquet")
    assert not allowed(serving.delete_object, Bucket="tripcast", Key="runs/a.html")


# Who may do what


def test_steps_may_start_and_stop_runs_and_workers_and_see_them_and_nothing_else(rendered):
    """Resources and verbs of runs are those that the API server asks about (backend/src/apiserver/common/const.go)."""
    assert not [*rendered.of("ClusterRole"), *rendered.of("ClusterRoleBinding")]
    allowed = {
        role["metadata"]["name"]: [(rule["apiGroups"], rule["resources"], rule["verbs"]) for rule in role["rules"]]
        for role in rendered.of("Role")
    }
    assert allowed == {
        "tripcast-start-runs": [
            (["pipelines.kubeflow.org"], ["runs"], ["create", "get", "list", "terminate"]),
            (["pipelines.kubeflow.org"], ["experiments"], ["create", "get", "list"]),
            (["pipelines.kubeflow.org"], ["pipelines"], ["get", "list"]),
        ],
        "tripcast-workers": [
            (["batch"], ["jobs"], ["create", "delete"]),
            ([""], ["services"], ["create"]),
            ([""], ["pods"], ["get", "list"]),
        ],
    }
    assert {binding["roleRef"]["name"] for binding in rendered.of("RoleBinding")} == allowed.keys()
    for granted in (*rendered.of("Role"), *rendered.of("RoleBinding")):
        assert granted["metadata"]["namespace"] == "kubeflow"
    for binding in rendered.of("RoleBinding"):
        assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "pipeline-runner", "namespace": "kubeflow"}]


def test_whatever_no_policy_names_is_denied_and_both_ends_name_what_is_allowed(rendered):
    """That the policies do what they say, a cluster has to show: tests/e2e."""
    assert rendered.one("NetworkPolicy", "deny-all")["spec"] == {
        "podSelector": {},
        "policyTypes": ["Ingress", "Egress"],
    }
    leaving, entering = set(), set()
    ours = [policy for policy in rendered.of("NetworkPolicy") if policy["metadata"]["namespace"] == "tripcast"]
    for policy in ours:
        spec = policy["spec"]
        ends = [pod for pod in rendered.pods if selects(spec["podSelector"], pod.labels)]
        assert ends, policy["metadata"]
        for direction, peers in (("ingress", "from"), ("egress", "to")):
            for rule in spec.get(direction, []):
                for peer in rule[peers]:
                    if "namespaceSelector" in peer or "ipBlock" in peer:
                        continue
                    others = [pod for pod in rendered.pods if selects(peer["podSelector"], pod.labels)]
                    assert others, policy["metadata"]
                    pairs = {(a.name, b.name, port["port"]) for a in ends for b in others for port in rule["ports"]}
                    if direction == "egress":
                        leaving |= pairs
                    else:
                        entering |= {(b, a, port) for a, b, port in pairs}
                if direction == "ingress":
                    assert {port["port"] for port in rule["ports"]} <= {n for pod in ends for n in pod.ports.values()}
    assert leaving == entering
    # The steps' namespace is Kubeflow's: what is said there is said in test_worker_pods.
    others = [policy["metadata"]["name"] for policy in rendered.of("NetworkPolicy") if policy not in ours]
    assert others == ["tripcast-workers"]


def test_only_the_steps_of_tripcasts_pipelines_come_in_from_kubeflow(rendered):
    compiled = "".join(file.read_text() for file in Path("compiled").glob("*.yaml"))
    peers = [
        peer["podSelector"]["matchLabels"]
        for policy in rendered.of("NetworkPolicy")
        for rule in policy["spec"].get("ingress", [])
        for peer in rule["from"]
        if peer.get("namespaceSelector", {}).get("matchLabels", {}).get("kubernetes.io/metadata.name") == "kubeflow"
    ]
    assert peers
    for labels in peers:
        assert labels
        assert all(f"{key}: {value}\n" in compiled for key, value in labels.items())


# What each overlay is for


@pytest.mark.parametrize("name", ["kind", "minikube"])
def test_a_cluster_on_one_machine_runs_images_that_were_built_there_and_fits(overlay, name):
    rendered = overlay(name)
    asked = 0.0
    for pod in rendered.pods:
        for container in pod.containers:
            ours = container["image"].startswith("tripcast/")
            assert container["imagePullPolicy"] == ("Never" if ours else "IfNotPresent")
            asked += float(container["resources"]["requests"]["memory"].removesuffix("Mi"))
    assert asked <= 1200
    assert [s["spec"]["minReplicas"] for s in rendered.of("HorizontalPodAutoscaler")] == (
        [1] if name == "minikube" else []
    )


def test_production_survives_a_node_and_brings_no_stores(overlay):
    rendered = overlay("production")
    assert {pod.name for pod in rendered.pods} == {"mlflow", "serving"}
    assert rendered.one("Deployment", "mlflow")["spec"]["replicas"] >= 2
    assert rendered.one("HorizontalPodAutoscaler", "serving")["spec"]["minReplicas"] >= 2
    assert {budget["metadata"]["name"] for budget in rendered.of("PodDisruptionBudget")} == {"mlflow", "serving"}
    for pod in rendered.pods:
        assert pod.containers[0]["image"].startswith("registry.example.com/tripcast/")
        assert all(selects(s["labelSelector"], pod.labels) for s in pod.spec["topologySpreadConstraints"])


def test_the_outside_reaches_predictions_by_tls_and_nothing_else(overlay):
    [ingress] = overlay("production").of("Ingress")
    [rule], [tls] = ingress["spec"]["rules"], ingress["spec"]["tls"]
    paths = {(path["path"], path["pathType"]) for path in rule["http"]["paths"]}

    assert tls["hosts"] == [rule["host"]]
    assert {path["backend"]["service"]["name"] for path in rule["http"]["paths"]} == {"serving"}
    assert {("/", "Exact"), ("/static", "Prefix"), ("/predict", "Prefix"), ("/v2", "Prefix")} <= paths
    assert ("/", "Prefix") not in paths
    assert not {path for path, _ in paths} & {"/metrics", "/reload"}


def test_kserve_runs_the_same_container_by_the_open_inference_protocol(overlay):
    [service] = overlay("kserve").of("InferenceService")
    predictor = service["spec"]["predictor"]
    [container] = predictor["containers"]
    deployed = overlay("minikube").one("Deployment", "serving")["spec"]["template"]["spec"]
    [same] = overlay(EVERYTHING).one("Deployment", "serving")["spec"]["template"]["spec"]["containers"]

    assert service["apiVersion"] == "serving.kserve.io/v1beta1"
    assert service["metadata"]["name"] == "tripcast"  # one for all models
    assert container["name"] == "kserve-container"
    assert {"name": "PROTOCOL", "value": "v2"} in container["env"]
    assert not overlay("kserve").of("HorizontalPodAutoscaler")
    [budget] = overlay("kserve").of("PodDisruptionBudget")
    assert selects(budget["spec"]["selector"], predictor["labels"])
    for key in container.keys() - {"name", "env", "image"}:
        assert container[key] == same[key], key
    assert [variable for variable in container["env"] if variable["name"] != "PROTOCOL"] == same["env"]
    for key in ("volumes", "securityContext", "terminationGracePeriodSeconds", "serviceAccountName"):
        assert predictor[key] == deployed[key]


# Kubeflow Pipelines


def test_kubeflow_pipelines_is_the_version_that_the_pipelines_are_compiled_for():
    installed = [path.read_text() for path in sorted(Path("deploy/kubeflow").glob("*/kustomization.yaml"))]
    assert len(installed) == 2
    assert {version for text in installed for version in re.findall(r"\?ref=([\d.]+)&", text)} == {kfp.__version__}
    guide = Path("docs/kubernetes.md").read_text()
    assert set(re.findall(r"Kubeflow Pipelines (\d+\.\d+\.\d+)", guide)) == {kfp.__version__}


def test_retries_and_lifetimes_are_added_to_kubeflow_and_the_rest_of_its_settings_stays(deploy):
    """The ConfigMap as Kubeflow Pipelines has it, cut short."""
    folder = deploy / "installation"
    folder.mkdir()
    data = {
        "artifactRepository": "archiveLogs: true\n",
        "executor": "imagePullPolicy: IfNotPresent\n",
        "workflowDefaults": "spec: {templateDefaults: {retryStrategy: {limit: '2', retryPolicy: OnError}}}\n",
    }
    metadata = {"name": "workflow-controller-configmap", "namespace": "kubeflow"}
    config_map = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}
    (folder / "kubeflow.yaml").write_text(yaml.safe_dump(config_map))
    (folder / "kustomization.yaml").write_text(
        yaml.safe_dump({"resources": ["kubeflow.yaml"], "components": ["../components/workflow-defaults"]})
    )
    [patched] = kustomized(folder)
    defaults = yaml.safe_load(patched["data"].pop("workflowDefaults"))["spec"]

    assert patched["data"].items() < data.items()
    assert defaults["ttlStrategy"].keys() == {"secondsAfterCompletion"}  # the others would win over a pipeline's own
    assert "retryPolicy" not in defaults["templateDefaults"]["retryStrategy"]


# A cluster on this machine


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["kind", "up"], 1, "docker is missing: get 20.10 or later from https://docs.docker.com/engine/install"),
        (["kind", "open"], 1, "kubectl is missing: get 1.30 or later from https://kubernetes.io/docs/tasks/tools"),
        (
            ["minikube", "down"],
            1,
            "minikube is missing: get 1.38 or later from https://minikube.sigs.k8s.io/docs/start",
        ),
        (["kind", "rebuild"], 1, "There is no 'rebuild'. There are up, train, open and down."),
        (["k3s", "up"], 2, "deploy/cluster.sh kind up"),
    ],
)
def test_what_is_missing_or_mistyped_is_said_before_anything_is_made(tmp_path, arguments, code, said):
    for tool in ("dirname", "sed", "env"):
        (tmp_path / tool).symlink_to(shutil.which(tool))
    bash = shutil.which("bash")
    ended = subprocess.run(
        [bash, "deploy/cluster.sh", *arguments], env={"PATH": str(tmp_path)}, capture_output=True, text=True
    )
    assert (ended.returncode, said in ended.stderr) == (code, True), ended.stderr

"""`tripcast submit`: a run on a cluster, started, followed and ended, in good and bad weather."""

import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from pipelines.cluster.compilation import PIPELINES
from tests.cluster.kubeflow_api import SUCCEEDS, Frame, KubeflowApi, Refused, pod_of, running
from tripcast.kubeflow.failures import POD_KINDS

LOGIN = (302, "text/html", '<a href="/dex/auth">Found</a>')
PAGE = (200, "text/html", "<!doctype html><title>Sign in</title>")


def test_a_run_is_started_followed_and_ends_well(cluster, tripcast):
    result = tripcast("submit", "training", "-p", "train_months=2022-01", "-p", "test_month=2022-02")

    (run,) = cluster.runs
    assert result.exit_code == 0
    assert run["display_name"] == "training green 2022-01 -> 2022-02"
    assert cluster.experiments[0]["display_name"] == "tripcast-green"
    assert run["experiment_id"] == cluster.experiments[0]["experiment_id"]
    assert run["pipeline_version_reference"]["pipeline_version_id"] == cluster.versions[0]["pipeline_version_id"]
    assert f"{cluster.url}/#/runs/details/{run['run_id']}" in result.stdout
    assert "'training green 2022-01 -> 2022-02' succeeded." in result.stdout
    assert result.stderr.splitlines() == [
        "plan: started",
        "plan: succeeded in 7.0 s",
        "ingest: succeeded in 7.0 s",
        "ingest 2: started",
        "ingest 2: succeeded in 7.0 s",
    ]


def test_parameters_have_the_types_of_the_pipeline(cluster, tripcast):
    given = ["taxi=yellow", "trials=3", "rollout=1", "candidates=linear, tuned", "source=s3://trips/a=b"]
    result = tripcast("submit", "training", "--no-wait", *(word for text in given for word in ("--param", text)))

    assert result.exit_code == 0
    parameters = cluster.runs[0]["runtime_config"]["parameters"]
    assert parameters["trials"] == 3
    assert type(parameters["rollout"]) is float
    assert parameters["candidates"] == ["linear", "tuned"]
    assert parameters["source"] == "s3://trips/a=b"
    assert parameters["train_months"] == "2021-01..2021-02"
    assert cluster.experiments[0]["display_name"] == "tripcast-yellow"


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_every_pipeline_can_be_submitted(cluster, tripcast, pipeline):
    result = tripcast("submit", pipeline, "--no-wait")

    assert result.exit_code == 0, result.stderr
    assert cluster.pipelines[0]["name"] == f"tripcast-{pipeline}"
    assert cluster.runs[0]["display_name"].startswith(f"{pipeline} green")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("trials=many", "'many' is no value for the parameter 'trials': it is of type Integer."),
        ("trials=2.5", "'2.5' is no value for the parameter 'trials'"),
        ("trials=true", "'true' is no value for the parameter 'trials'"),
        ("rollout=", "'' is no value for the parameter 'rollout': it is of type Float."),
        ('candidates={"a": 1', None),
        ("candidates=[1", "'[1' is no value for the parameter 'candidates'"),
        ("trails=5", "no parameter 'trails'. It takes: source (String), taxi (String)"),
        ("trials", "'trials' is no parameter: write name=value."),
    ],
)
def test_a_parameter_that_does_not_fit_is_refused_before_anything_is_asked(cluster, tripcast, given, said):
    result = tripcast("submit", "training", "--no-wait", "-p", given)

    if said is None:  # a list of one strange name, which the pipeline itself refuses
        assert result.exit_code == 0
        return
    assert result.exit_code == 2
    assert said in result.stderr
    assert cluster.seen == []


def test_an_unknown_pipeline_is_refused(cluster, tripcast):
    result = tripcast("submit", "traning")

    assert result.exit_code == 2
    assert "There is no pipeline 'traning'. There are: training" in result.stderr


def test_without_a_cluster_it_says_how_to_name_one(cluster, tripcast, monkeypatch):
    monkeypatch.setenv("TRIPCAST_KFP_ENDPOINT", "")

    result = tripcast("submit", "training")

    assert result.exit_code == 2
    assert "give --host, or set TRIPCAST_KFP_ENDPOINT" in result.stderr


def test_options_go_before_the_environment(cluster, tripcast, monkeypatch, tmp_path):
    cluster.token, cluster.multi_user = "of-the-file", True
    (tmp_path / "token").write_text("of-the-file\n")
    monkeypatch.setenv("TRIPCAST_KFP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("KF_PIPELINES_TOKEN", "another")

    result = tripcast(
        "submit", "training", "--no-wait", "--host", cluster.url, "--namespace", "taxis",
        "--token-file", str(tmp_path / "token"), "--image", "registry.example/tripcast:7", "--name", "mine",
    )  # fmt: skip

    assert result.exit_code == 0, result.stderr
    assert cluster.runs[0]["display_name"] == "mine"
    assert cluster.experiments[0]["namespace"] == cluster.pipelines[0]["namespace"] == "taxis"
    assert "registry.example/tripcast:7" in str(cluster.versions[0]["pipeline_spec"])


def test_pages_are_linked_where_people_see_them(cluster, tripcast, monkeypatch):
    monkeypatch.setenv("KF_PIPELINES_UI_ENDPOINT", "https://kubeflow.example/pipeline/")

    result = tripcast("submit", "training", "--no-wait")

    assert f"https://kubeflow.example/pipeline/#/runs/details/{cluster.runs[0]['run_id']}" in result.stdout


def test_a_failed_run_names_its_step_and_what_that_said(cluster, tripcast, monkeypatch):
    cluster.script = (Frame("RUNNING", (("plan", "RUNNING"),)), Frame("FAILED", (("plan", "FAILED"),)))
    began = cluster._create_run

    def begin(**request):
        run = began(**request)
        cluster.logs[pod_of(run["run_id"], "plan")] = (
            "Traceback (most recent call last):\n  ...\n"
            "tripcast.errors.SourceError: tlc has no month 2031-01 yet.\n"
            "F1123 09:00:00.000000      11 main.go:50] failed to execute component: exit status 1\n"
        )
        return run

    monkeypatch.setattr(cluster, "_create_run", begin)

    result = tripcast("submit", "training")

    assert result.exit_code == 1
    assert "The step 'plan' failed: tlc has no month 2031-01 yet." in result.stderr
    assert f"/#/runs/details/{cluster.runs[0]['run_id']}" in result.stderr


def test_pods_are_named_by_the_annotations_and_labels_that_the_steps_have():
    kinds = set()
    for file in Path("compiled").glob("*.yaml"):
        _, platform = yaml.safe_load_all(file.read_text())
        for config in platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"].values():
            metadata = config["podMetadata"]
            annotations, labels = len(metadata.get("annotations", {})), len(metadata["labels"])
            kinds.add(f"metadata-{annotations}-{labels}-retry-system-container-impl")
    assert kinds == set(POD_KINDS)


def test_the_log_is_also_read_through_the_pages(cluster, tripcast, monkeypatch):
    cluster.script = (Frame("FAILED", (("plan", "SUCCEEDED"), ("ingest", "SUCCEEDED"), ("ingest", "FAILED"))),)
    cluster.fail("GET /apis/v1alpha1", times=99, answer=PAGE)
    cluster.fail(
        "GET /k8s/pod/logs", times=99, answer=(200, "text/plain", "tripcast.errors.ContractError: Too dirty.\n")
    )

    result = tripcast("submit", "training")

    assert result.exit_code == 1
    assert "The step 'ingest' failed: Too dirty." in result.stderr


@pytest.mark.parametrize(
    ("step", "tries", "said"),
    [("ingest", 1, True), ("ingest", 3, False), ("deploy", 1, False)],
)
def test_a_kubeflow_that_overrules_the_retries_is_told_of(cluster, tripcast, step, tries, said):
    nodes = tuple((f"executor({number})", "FAILED") for number in range(tries))
    cluster.script = (Frame("FAILED", ((step, "FAILED"), *nodes)),)

    result = tripcast("submit", "training")

    assert f"The step '{step}' failed" in result.stderr
    assert ("It was tried once: this Kubeflow overrules" in result.stderr) is said


@pytest.mark.parametrize(
    ("frames", "said"),
    [
        # Whatever Kubeflow calls the end of a run that was stopped.
        ((Frame("RUNNING"), Frame("CANCELING"), Frame("FAILED", (("plan", "FAILED"),))), "Somebody stopped it."),
        ((Frame("RUNNING"), Frame("CANCELING"), Frame("CANCELED")), "Somebody stopped it."),
        (
            (Frame("FAILED", (("plan", "SUCCEEDED"), ("validate", "FAILED"))),),
            "The step 'validate' failed: its log says",
        ),
        ((Frame("FAILED"),), "The run failed before any of its steps."),
    ],
)
def test_a_run_that_ends_badly_says_how_and_is_linked(cluster, tripcast, frames, said):
    cluster.script = frames

    result = tripcast("submit", "training")

    assert result.exit_code == 1
    assert said in result.stderr
    assert " The run: http://" in result.stderr


@pytest.mark.parametrize("answer", [None, (503, "text/plain", "no healthy upstream"), (500, "application/json", "{}")])
def test_a_lost_connection_is_taken_up_again(cluster, tripcast, answer):
    cluster.fail("GET /apis/v2beta1/runs/", times=2, answer=answer)

    result = tripcast("submit", "training")

    assert result.exit_code == 0
    assert result.stderr.count("Trying again in") == 2
    assert "Kubeflow Pipelines answers again." in result.stderr


def test_a_connection_that_stays_lost_is_given_up_with_the_run_going_on(cluster, tripcast, monkeypatch):
    monkeypatch.setattr("pipelines.cluster.runs.PATIENCE_SECONDS", 0.05)
    cluster.fail("GET /apis/v2beta1/runs/", times=10_000)

    result = tripcast("submit", "training")

    assert result.exit_code == 1
    assert "The run goes on: http://" in result.stderr.splitlines()[-1]


def test_a_token_that_expires_meanwhile_ends_the_wait_and_not_the_run(cluster, tripcast, monkeypatch):
    monkeypatch.setenv("KF_PIPELINES_TOKEN", "of-a-person")
    cluster.token = "of-a-person"
    expired = (401, "application/json", '{"code": 16, "message": "token has expired"}')
    cluster.fail("GET /apis/v2beta1/runs/", times=99, answer=expired)

    result = tripcast("submit", "training")

    assert result.exit_code == 1
    assert "(HTTP 401)" in result.stderr
    assert "The run goes on: http://" in result.stderr


def test_a_token_file_that_is_renewed_is_read_again(cluster, tripcast, monkeypatch, tmp_path):
    file = tmp_path / "token"
    file.write_text("first")
    cluster.token = "first"
    answers = cluster.handle

    def expire_after_the_start(*request):
        if cluster.requests("GET /apis/v2beta1/runs/"):
            cluster.token = "second"
        try:
            return answers(*request)
        except Refused:
            file.write_text("second")
            raise

    monkeypatch.setattr(cluster, "handle", expire_after_the_start)

    result = tripcast("submit", "training", "--token-file", str(file))

    assert result.exit_code == 0, result.stderr
    assert result.stderr.count("(HTTP 401)") == 1
    assert "Kubeflow Pipelines answers again." in result.stderr


@pytest.mark.parametrize("answer", [LOGIN, PAGE, (404, "text/html", "<html>nothing here</html>")])
def test_a_login_page_in_place_of_the_api_is_recognised(cluster, tripcast, answer):
    cluster.fail(".", times=99, answer=answer)

    result = tripcast("submit", "training")

    assert result.exit_code == 1
    assert "answers with a page instead of Kubeflow Pipelines' API: a login page" in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("cause", "said"),
    [
        ({"token": "wanted"}, "does not accept who asks (HTTP 401)"),
        ({"multi_user": True}, "(HTTP 400): Failed to list pipelines: namespace cannot be empty in multi-user mode."),
        ({}, "does not permit this (HTTP 403): RBAC: access denied. Check the namespace"),
    ],
)
def test_a_refusal_is_said_in_the_servers_words(cluster, tripcast, cause, said):
    for name, value in cause.items():
        setattr(cluster, name, value)
    cluster.fail("POST /apis/v2beta1/runs", times=9, answer=(403, "text/plain", "RBAC: access denied"))

    result = tripcast("submit", "training")

    assert result.exit_code == 1
    assert said in result.stderr


def test_a_cluster_that_is_not_there_is_one_sentence(cluster, tripcast):
    result = tripcast("submit", "training", "--host", "http://127.0.0.1:9")

    assert result.exit_code == 1
    assert "http://127.0.0.1:9 does not answer" in result.stderr
    assert "kubectl port-forward" in result.stderr
    assert "Traceback" not in result.output


def test_a_certificate_is_trusted_where_its_authority_is_named(cluster, tripcast, monkeypatch, tmp_path):
    request = "req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    key, certificate, both = tmp_path / "key.pem", tmp_path / "certificate.pem", tmp_path / "both.pem"
    subprocess.run(["openssl", *request.split(), "-keyout", key, "-out", certificate], check=True, capture_output=True)
    both.write_text(key.read_text() + certificate.read_text())

    with running(KubeflowApi(), both) as api:
        distrusted = tripcast("submit", "training", "--no-wait", "--host", api.url)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        trusted = tripcast("submit", "training", "--no-wait", "--host", api.url)

    assert distrusted.exit_code == 1
    assert f"The certificate of {api.url} is not trusted" in distrusted.stderr
    assert "SSL_CERT_FILE" in distrusted.stderr
    assert trusted.exit_code == 0, trusted.stderr


@pytest.mark.parametrize(
    ("host", "said"),
    [
        ("localhost:8888", "'localhost:8888' is no address of Kubeflow Pipelines: write http:// or https://"),
        ("http://[::1", "is no address of Kubeflow Pipelines: write http:// or https://"),
        ("http://localhost:99999", "is no address of Kubeflow Pipelines: write http:// or https://"),
        ("https://me:hush@kubeflow.example", "holds a user's name: give credentials as KF_PIPELINES_TOKEN"),
    ],
)
def test_an_address_that_is_none_is_refused(cluster, tripcast, host, said):
    result = tripcast("submit", "training", "--host", host)

    assert result.exit_code == 2
    assert said in result.stderr
    assert "hush" not in result.output


@pytest.mark.parametrize(("page", "namespace"), [("/#/runs", None), ("/_/?ns=team-a#/runs", "team-a")])
def test_the_address_of_a_page_will_do_and_that_of_the_dashboard_names_the_namespace(
    cluster, tripcast, page, namespace
):
    cluster.multi_user = namespace is not None
    result = tripcast("submit", "training", "--no-wait", "--host", cluster.url + page)

    assert result.exit_code == 0, result.stderr
    assert f"{cluster.url}/#/runs/details/" in result.stdout
    assert {run["namespace"] or None for run in cluster.experiments} == {namespace}


@pytest.mark.parametrize("variable", ["KF_PIPELINES_TOKEN", "KF_PIPELINES_COOKIE", "KF_PIPELINES_SA_TOKEN_PATH"])
def test_a_line_break_behind_a_secret_is_left_out_and_one_within_it_refused(
    cluster, tripcast, monkeypatch, tmp_path, variable
):
    for secret, code in (("hush=token\n", 0), ("hush=tok\nen", 2), ("hush=\u00e9", 2)):
        file = tmp_path / "token"
        file.write_text(secret)
        monkeypatch.setenv(variable, str(file) if variable.endswith("PATH") else secret)
        result = tripcast("submit", "training", "--no-wait")
        assert result.exit_code == code, result.output
        assert "hush" not in result.output
        assert (variable in result.stderr) == bool(code)


def test_a_proxy_of_the_environment_is_gone_through(cluster, tripcast, monkeypatch):
    asked = []

    class Proxy(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append((self.path, self.headers["Proxy-Authorization"]))
            self.send_error(502)

        def log_message(self, *arguments):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as proxy:
        threading.Thread(target=proxy.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setenv("HTTP_PROXY", f"http://me:hush@127.0.0.1:{proxy.server_port}")
        away = tripcast("submit", "training", "--host", "http://kubeflow.invalid")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        here = tripcast("submit", "training", "--no-wait", "--host", cluster.url)
        proxy.shutdown()
    assert away.exit_code == 1
    assert "hush" not in away.output
    assert here.exit_code == 0, here.stderr
    ((address, authorization),) = asked
    assert address.startswith("http://kubeflow.invalid/apis/v2beta1/")
    assert authorization == "Basic bWU6aHVzaA=="


def test_no_secret_reaches_output_or_what_is_sent(cluster, tripcast, monkeypatch):
    monkeypatch.setenv("KF_PIPELINES_TOKEN", "hush-token")
    monkeypatch.setenv("KF_PIPELINES_COOKIE", "authservice_session=hush-cookie")

    results = [tripcast("submit", "training")]
    cluster.fail(".", times=1, answer=(403, "text/plain", "RBAC: access denied"))
    results.append(tripcast("submit", "training"))
    results.append(tripcast("submit", "training", "--host", "http://127.0.0.1:9"))

    assert [result.exit_code for result in results] == [0, 1, 1]
    assert not any("hush" in result.output for result in results)
    for _, path, headers, body in cluster.seen:
        assert headers["authorization"] == "Bearer hush-token"
        assert headers["cookie"] == "authservice_session=hush-cookie"
        assert b"hush" not in body
        assert "hush" not in path


def test_ctrl_c_leaves_the_run_and_says_how_to_stop_it(cluster):
    cluster.script = (*SUCCEEDS[:2],)
    command = [sys.executable, "-c", "from tripcast.cli import main; main()", "submit", "training"]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # As in a terminal: what runs in a shell's background has Ctrl-C ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        while not cluster.requests("GET /apis/v2beta1/runs/"):
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)

    assert process.returncode == 130
    assert "The run goes on. To stop it, press 'Terminate' here: http://" in said
    assert cluster.requests(":terminate") == []

"""`tripcast upload`: the pipelines on a cluster, a version for each commit."""

import pytest
import yaml

from components.step import IMAGE
from pipelines.cluster.compilation import PIPELINES, compile_all

COMMIT = "c0ffee" * 6 + "c0ff"


def test_every_pipeline_gets_a_version_of_this_commit(cluster, tripcast, tmp_path):
    result = tripcast("upload")

    assert result.exit_code == 0, result.stderr
    assert {pipeline["name"] for pipeline in cluster.pipelines} == {f"tripcast-{name}" for name in PIPELINES}
    compiled = {file.stem: next(yaml.safe_load_all(file.read_text())) for file in compile_all(tmp_path, IMAGE)}
    names = {pipeline["pipeline_id"]: pipeline["name"].removeprefix("tripcast-") for pipeline in cluster.pipelines}
    for version in cluster.versions:
        assert version["pipeline_spec"] == compiled[names[version["pipeline_id"]]]
        assert version["name"].startswith("c0ffeec0ffee-")
        assert version["description"] == f"Commit {COMMIT}. Steps run in {IMAGE}."
        assert (
            f"/#/pipelines/details/{version['pipeline_id']}/version/{version['pipeline_version_id']}" in result.stdout
        )
    assert len(cluster.versions) == len(PIPELINES)


def test_uploading_again_changes_nothing(cluster, tripcast):
    tripcast("upload")
    before = list(cluster.versions)

    result = tripcast("upload")

    assert cluster.versions == before
    assert result.stdout.count("there already") == len(PIPELINES)


def test_another_image_is_another_version(cluster, tripcast):
    tripcast("upload")
    tripcast("upload", "--image", "registry.example/tripcast@sha256:ab")

    assert len(cluster.pipelines) == len(PIPELINES)
    assert len({version["name"] for version in cluster.versions}) == 2 * len(PIPELINES)
    assert "registry.example/tripcast@sha256:ab" in str(cluster.versions[-1]["pipeline_spec"])


def test_a_work_tree_that_differs_from_its_commit_is_named_so(cluster, tripcast, monkeypatch):
    monkeypatch.setenv("TRIPCAST_COMMIT", f"{COMMIT}+dirty")

    tripcast("upload")

    assert all(version["name"].startswith("c0ffeec0ffee-dirty-") for version in cluster.versions)


def test_names_are_such_that_kubernetes_can_keep_them(cluster, tripcast):
    # Kubeflow Pipelines can keep pipelines as Kubernetes objects: unique in a namespace, and named like hosts.
    tripcast("upload")

    names = [entry["name"] for entry in cluster.versions]
    assert len(set(names)) == len(names)
    assert all(name.replace("-", "").isalnum() and name == name.lower() and len(name) <= 63 for name in names)


def test_a_lost_answer_leaves_something_that_the_next_upload_completes(cluster, tripcast):
    cluster.fail("POST /apis/v2beta1/pipelines/upload_version", after=True)

    assert tripcast("upload").exit_code == 1
    assert tripcast("upload").exit_code == 0

    assert len(cluster.versions) == len(cluster.pipelines) == len(PIPELINES)


@pytest.mark.parametrize("status", [401, 403])
def test_who_may_not_upload_is_told_so(cluster, tripcast, status):
    cluster.fail("POST /apis/v2beta1/pipelines", answer=(status, "application/json", '{"message": "no rights."}'))

    result = tripcast("upload")

    assert result.exit_code == 1
    assert f"(HTTP {status})" in result.stderr

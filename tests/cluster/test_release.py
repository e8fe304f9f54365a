"""What a release hands out beside its images."""

import re
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml

import tripcast
from tests.cluster.test_manifests import kustomized
from tests.parts import program

REPOSITORY = Path(tripcast.__file__).parents[1]
IMAGES = {
    target: f"ghcr.io/example/tripcast/{target}@sha256:{number:064x}"
    for number, target in enumerate(("pipeline", "serving", "mlflow"), 1)
}


def release(images: Path, dist: Path) -> subprocess.CompletedProcess[str]:
    command = [REPOSITORY / "deploy" / "release.sh", images, dist]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def dist(tmp_path_factory) -> Path:
    images, dist = tmp_path_factory.mktemp("images"), tmp_path_factory.mktemp("release") / "dist"
    for target, image in IMAGES.items():
        (images / f"image-{target}").write_text(f"{image}\n")
    done = release(images, dist)
    assert done.returncode == 0, done.stderr
    return dist


def test_a_release_is_a_wheel_pipelines_and_manifests(dist):
    wheel = f"tripcast-{tripcast.__version__}-py3-none-any.whl"

    assert {file.name for file in dist.iterdir()} == {wheel, "pipelines.tar.gz", "manifests.tar.gz"}
    packed = set(zipfile.ZipFile(dist / wheel).namelist())
    assert "tripcast/taxi/web/page/index.html" in packed
    packages = [REPOSITORY / name for name in ("tripcast", "pipelines", "components")]
    modules = [file for package in packages for file in package.rglob("*.py")]
    assert {name for name in packed if name.endswith(".py")} == {str(file.relative_to(REPOSITORY)) for file in modules}


def test_its_pipelines_name_the_image_of_every_step_by_digest(dist):
    with tarfile.open(dist / "pipelines.tar.gz") as archive:
        texts = {
            name: archive.extractfile(name).read().decode() for name in archive.getnames() if name.endswith("yaml")
        }

    assert {Path(name).stem for name in texts} == {"training", "scoring", "monitoring"}
    for text in texts.values():
        assert set(re.findall(r"image: (\S+)", text)) == {IMAGES["pipeline"]}


def test_its_manifests_name_the_images_by_digest(dist):
    with tarfile.open(dist / "manifests.tar.gz") as archive:
        component = yaml.safe_load(archive.extractfile("deploy/components/release/kustomization.yaml"))

    named = {entry["name"]: f"{entry['newName']}@{entry['digest']}" for entry in component["images"]}
    assert named == {f"tripcast/{target}": image for target, image in IMAGES.items()}


@pytest.mark.parametrize("overlay", ["production", "kserve"])
def test_its_overlays_run_the_images_of_the_release(dist, tmp_path, overlay):
    with tarfile.open(dist / "manifests.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")

    text = "\n".join(yaml.safe_dump(document) for document in kustomized(tmp_path / "deploy" / "overlays" / overlay))

    own = {image for image in re.findall(r"image: (\S+)", text) if "tripcast" in image}
    assert own == {IMAGES["serving"], IMAGES["mlflow"]}


def test_an_image_without_a_digest_is_refused(tmp_path):
    for target in IMAGES:
        (tmp_path / f"image-{target}").write_text(f"ghcr.io/example/tripcast/{target}:v1\n")

    done = release(tmp_path, tmp_path / "dist")

    assert done.returncode == 1
    assert "image-pipeline does not name an image by its digest" in done.stderr
    assert not (tmp_path / "dist").exists()


def test_workflows_are_what_github_takes():
    actionlint = program("actionlint", "go install github.com/rhysd/actionlint/cmd/actionlint@v1.7.12")
    # Not by whether a linter of shell scripts is there, too.
    command = [actionlint, "-shellcheck=", *sorted((REPOSITORY / ".github" / "workflows").iterdir())]

    done = subprocess.run(command, capture_output=True, text=True)

    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("target", ["images", "kind-up", "minikube-up", "stack-up"])
def test_released_images_stand_in_for_built_ones_under_their_names(target):
    command = ["make", "--dry-run", "--always-make", target, "IMAGES=ghcr.io/example/tripcast"]
    version = tripcast.__version__

    script = subprocess.run(command, capture_output=True, text=True, check=True, cwd=REPOSITORY).stdout

    # The tag is that of .github/workflows/release.yaml, the name that of the overlays and of docker/compose.yaml.
    words = script.replace("\\\n", " ").split()
    assert " ".join(["pull", f"ghcr.io/example/tripcast/$image:v{version}", "&&"]) in " ".join(words)
    assert f"tag ghcr.io/example/tripcast/$image:v{version} tripcast/$image:{version}" in " ".join(words)
    assert "build" not in words

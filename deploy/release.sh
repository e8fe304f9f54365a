#!/usr/bin/env bash
# What a release consists of beside its images: the wheel, the compiled pipelines, and manifests that name the images by
# digest.
#
#   deploy/release.sh IMAGES DIST     IMAGES: a folder of files image-pipeline, image-serving, image-mlflow, each holding
#                                     the image's name with its digest; DIST: where the files go
set -euo pipefail
[ $# -eq 2 ] || { sed -n '5,6p' "$0" >&2; exit 2; }
images=$(realpath "$1") dist=$(realpath -m "$2")
cd "$(dirname "$0")/.."
for target in pipeline serving mlflow; do
  grep -Eq '^[^@ ]+@sha256:[0-9a-f]{64}$' "$images/image-$target" ||
    { echo "$images/image-$target does not name an image by its digest." >&2; exit 1; }
done
mkdir -p "$dist"

make --silent .venv/laptop
rm -rf build # what another wheel was made of would be in this one, too
.venv/bin/uv build --quiet --wheel --no-build-isolation --python .venv --out-dir "$dist" .
rm -f "$dist/.gitignore" # uv's
.venv/bin/tripcast compile --image "$(cat "$images/image-pipeline")" --output "$dist/pipelines"

# The manifests as they are in the repository, with the images of this release.
cp -r deploy "$dist/deploy"
for target in pipeline serving mlflow; do
  IFS=@ read -r name digest <"$images/image-$target"
  sed -i "s#{name: tripcast/$target, .*}#{name: tripcast/$target, newName: $name, digest: \"$digest\"}#" \
    "$dist/deploy/components/release/kustomization.yaml"
done

tar -C "$dist" -czf "$dist/pipelines.tar.gz" pipelines
tar -C "$dist" -czf "$dist/manifests.tar.gz" deploy
rm -rf "$dist/pipelines" "$dist/deploy"

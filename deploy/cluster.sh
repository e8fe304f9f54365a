#!/usr/bin/env bash
# A whole cluster on this machine: Kubernetes by kind or minikube, Kubeflow Pipelines, and tripcast in it.
#
#   deploy/cluster.sh kind up        make it; run again, it goes on where it stopped
#   deploy/cluster.sh kind train     upload the pipelines and run the training; what follows is for `tripcast submit`
#   deploy/cluster.sh kind open      pages and predictions on this machine's ports, until Ctrl-C
#   deploy/cluster.sh kind down      remove it, with all of its data
#
# The same with minikube. `make kind-up` and the others call this.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() { echo "$*" >&2; exit 1; }

need() { # PROGRAM OLDEST WHERE ARGUMENTS...: with the arguments it prints its version
  local name=$1 oldest=$2 where=$3 found
  shift 3
  command -v "$name" >/dev/null || fail "$name is missing: get $oldest or later from $where"
  found=$("$name" "$@" 2>/dev/null | grep -Eo '[0-9]+\.[0-9]+' | head -n 1)
  [ "$(printf '%s\n' "$oldest" "$found" | sort -V | head -n 1)" = "$oldest" ] ||
    fail "$name is $found: get $oldest or later from $where"
}

run() { # HOW-TO-LOOK COMMAND...
  local look=$1
  shift
  echo "\$ $*"
  "$@" || fail "This failed, for the reason above:
  $*
To see more:
  $look
Mend it and run the same again: it goes on where it stopped."
}

case "${1-} ${2-}" in
  "kind "*) context=kind-tripcast ;;
  "minikube "*) context=tripcast ;;
  *) sed -n '2,9p' "$0" >&2; exit 2 ;;
esac
cluster=$1 command=$2
shift 2
version=$(sed -n 's/^__version__ = "\(.*\)"/\1/p' tripcast/__init__.py)
images="tripcast/pipeline:$version tripcast/serving:$version tripcast/mlflow:$version"
on="kubectl --context $context" # whatever else kubectl's configuration knows
pods="$on get pods --all-namespaces; $on get events --all-namespaces"

need_kubectl() { need kubectl 1.30 https://kubernetes.io/docs/tasks/tools version --client; }

need_cluster_maker() {
  case $cluster in
    kind) need kind 0.32 https://kind.sigs.k8s.io/docs/user/quick-start/#installation version ;;
    minikube) need minikube 1.38 https://minikube.sigs.k8s.io/docs/start version --short ;;
  esac
}

make_cluster() {
  if [ "$cluster" = minikube ]; then
    # Starts one that has stopped, too. Its own network would ignore network policies. The newest Kubernetes it knows.
    run "minikube logs --profile tripcast" minikube start --profile tripcast --kubernetes-version v1.35.1 --cpus 4 \
      --memory 8g --cni calico --addons metrics-server --wait all
    run "docker image ls" minikube image load --profile tripcast $images
  else
    kind get clusters 2>/dev/null | grep -qx tripcast ||
      run "docker ps --all" kind create cluster --name tripcast --config deploy/kind/cluster.yaml --wait 5m
    run "docker image ls" kind load docker-image --name tripcast $images
  fi
}

up() {
  need docker 20.10 https://docs.docker.com/engine/install --version
  need git 2.0 "https://git-scm.com/downloads: kubectl fetches Kubeflow's manifests by it" --version
  need_kubectl
  need_cluster_maker
  docker info >/dev/null 2>&1 || fail "Docker does not answer: start it, and see that you may use it (docker info)."
  for image in $images; do
    docker image inspect "$image" >/dev/null 2>&1 || fail "The image $image is missing: run 'make images'."
  done
  make_cluster

  local apply="$on apply --kustomize"
  run "kubectl kustomize deploy/kubeflow/cluster-scoped" $apply deploy/kubeflow/cluster-scoped
  run "$pods" $on wait --for condition=established --timeout 1m crd/applications.app.k8s.io crd/workflows.argoproj.io
  run "kubectl kustomize deploy/kubeflow/pipelines" $apply deploy/kubeflow/pipelines
  run "kubectl kustomize deploy/base/namespace" $apply deploy/base/namespace
  # The last of them: if it is there, all are.
  $on get secret tripcast-serving --namespace tripcast >/dev/null 2>&1 ||
    ${PYTHON:-python3} deploy/new_secrets.py kubernetes | run "$pods" $on apply -f -
  run "kubectl kustomize deploy/overlays/$cluster" $apply "deploy/overlays/$cluster"

  echo "Waiting for all of it; the first time, images of some gigabytes come over the network."
  run "$pods" $on wait --namespace tripcast --for condition=complete --timeout 20m job/buckets
  run "$pods" $on rollout status --namespace tripcast --timeout 20m statefulset/s3 statefulset/postgres deployment/mlflow
  run "$pods" $on wait --namespace kubeflow --for condition=available --timeout 20m deployment --all
  echo "Everything runs. The prediction service is ready once a model is trained: make $cluster-train.
To look at it: make $cluster-open"
}

forwards=
trap '[ -z "$forwards" ] || kill $forwards 2>/dev/null' EXIT

forward() { # PORT NAMESPACE SERVICE ITS-PORT: a port of this machine leads to a service until this script ends
  $on port-forward --namespace "$2" "service/$3" "$1:$4" >/dev/null &
  local process=$!
  forwards="$forwards $process"
  until
    sleep 0.5
    kill -0 $process 2>/dev/null ||
      fail "Port $1 of this machine leads nowhere, for the reason above: another program has it, or the cluster is not up."
    listens "$1"
  do :; done
}

listens() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

train() {
  need_kubectl
  [ -x .venv/bin/tripcast ] || fail ".venv/bin/tripcast is missing: run 'make setup'."
  # Where `open` has the pages, so that the links which are printed lead there.
  listens 8888 || forward 8888 kubeflow ml-pipeline-ui 80
  run "$on logs --namespace kubeflow deployment/ml-pipeline" \
    .venv/bin/tripcast upload --host http://localhost:8888
  local code=0
  .venv/bin/tripcast submit training --host http://localhost:8888 "$@" || code=$?
  [ -z "$forwards" ] || echo "The links above lead to the pages while 'make $cluster-open' runs."
  return $code
}

open() {
  need_kubectl
  forward 8888 kubeflow ml-pipeline-ui 80
  forward 5000 tripcast mlflow 5000
  forward 8080 tripcast serving 80
  echo "Pipelines and runs: http://localhost:8888
MLflow:             http://localhost:5000
Predictions:        http://localhost:8080
Ctrl-C ends this."
  local process
  while sleep 2; do
    for process in $forwards; do
      kill -0 "$process" 2>/dev/null ||
        fail "A connection to the cluster ended, perhaps because its pod was replaced. Run the same again."
    done
  done
}

down() {
  need_cluster_maker
  case $cluster in
    kind) run "docker ps --all" kind delete cluster --name tripcast ;;
    minikube) run "minikube status --profile tripcast" minikube delete --profile tripcast ;;
  esac
}

case $command in
  up | train | open | down) "$command" "$@" ;;
  *) fail "There is no '$command'. There are up, train, open and down." ;;
esac

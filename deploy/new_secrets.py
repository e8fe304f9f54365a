"""Prints new passwords, made for one clone or one cluster alone.

    python3 deploy/new_secrets.py docker > docker/.env               for `docker compose`
    python3 deploy/new_secrets.py kubernetes | kubectl apply -f -    for a cluster with the bundled stores

Stores remember the passwords they started with, so this is done once: `make stack-up` and `make kind-up` look first.
"""

import json
import secrets
import sys
from typing import Any


def new_keys() -> dict[str, str]:
    """The keys of an identity of the object store."""
    return {
        "AWS_ACCESS_KEY_ID": f"tripcast{secrets.token_hex(4)}",
        "AWS_SECRET_ACCESS_KEY": secrets.token_urlsafe(32),
    }


def environment() -> str:
    """docker/.env: what docker/compose.yaml asks for, and what programs outside of its containers need to use it."""
    keys = new_keys()
    return f"""\
# Made for this clone alone, and never to be committed. The first five are the stack's own.
POSTGRES_PASSWORD={secrets.token_hex(24)}
S3_ACCESS_KEY={keys["AWS_ACCESS_KEY_ID"]}
S3_SECRET_KEY={keys["AWS_SECRET_ACCESS_KEY"]}
TRIPCAST_ADMIN_TOKEN={secrets.token_urlsafe(32)}
TRIPCAST_RIDER_SECRET={secrets.token_hex(32)}

# For programs on this machine: set -a && . docker/.env
AWS_ACCESS_KEY_ID={keys["AWS_ACCESS_KEY_ID"]}
AWS_SECRET_ACCESS_KEY={keys["AWS_SECRET_ACCESS_KEY"]}
AWS_REGION=us-east-1
AWS_ENDPOINT_URL_S3=http://127.0.0.1:8333
MLFLOW_TRACKING_URI=http://127.0.0.1:5000
TRIPCAST_ARTIFACTS=s3://tripcast
TRIPCAST_SERVICE_URL=http://127.0.0.1:8080"""


#: What each user of the bundled object store may do (SeaweedFS' actions): a step keeps data, models and reports; the
#: prediction service adds to the log of predictions and changes nothing else; MLflow has a bucket of its own.
S3_ACTIONS = {
    "buckets": ["Admin"],
    "mlflow": ["Read:mlflow", "List:mlflow", "Write:mlflow"],
    "serving": ["Read:tripcast/predictions/*", "List:tripcast/predictions/*", "Write:tripcast/predictions/*"],
    "steps": ["Read:tripcast", "List:tripcast", "Write:tripcast"],
}


def manifests() -> str:
    """The Secrets that docs/kubernetes.md lists, and those of the bundled stores."""
    keys = {user: new_keys() for user in S3_ACTIONS}
    password = secrets.token_hex(24)
    identities = [
        {
            "name": user,
            "credentials": [
                {"accessKey": keys[user]["AWS_ACCESS_KEY_ID"], "secretKey": keys[user]["AWS_SECRET_ACCESS_KEY"]}
            ],
            "actions": actions,
        }
        for user, actions in S3_ACTIONS.items()
    ]
    database = f"postgresql://mlflow:{password}@postgres:5432/mlflow"
    made = [
        _secret("tripcast", "tripcast-s3-identities", {"s3.json": json.dumps({"identities": identities})}),
        _secret("tripcast", "tripcast-buckets", keys["buckets"]),
        _secret("tripcast", "tripcast-postgres", {"POSTGRES_PASSWORD": password}),
        _secret("kubeflow", "tripcast-s3", keys["steps"]),
        _secret("tripcast", "tripcast-mlflow", {"MLFLOW_BACKEND_STORE_URI": database, **keys["mlflow"]}),
        _secret(
            "tripcast",
            "tripcast-serving",
            {
                "TRIPCAST_ADMIN_TOKEN": secrets.token_urlsafe(32),
                "TRIPCAST_RIDER_SECRET": secrets.token_hex(32),
                **keys["serving"],
            },
        ),
    ]
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": made})


def _secret(namespace: str, name: str, data: dict[str, str]) -> dict[str, Any]:
    metadata = {"name": name, "namespace": namespace, "labels": {"app.kubernetes.io/part-of": "tripcast"}}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": data}


if __name__ == "__main__":
    makers = {"docker": environment, "kubernetes": manifests}
    if len(sys.argv) != 2 or sys.argv[1] not in makers:
        sys.exit(__doc__)
    print(makers[sys.argv[1]]())

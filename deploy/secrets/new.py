"""Makes the passwords of a cluster's bundled stores, once: the volumes of the stores remember them."""

import os
import secrets
import sys
from pathlib import Path

password = secrets.token_hex(24)
files = {
    "s3.env": {
        "AWS_ACCESS_KEY_ID": f"tripcast{secrets.token_hex(4)}",
        "AWS_SECRET_ACCESS_KEY": secrets.token_urlsafe(32),
    },
    "postgres.env": {"POSTGRES_PASSWORD": password},
    "mlflow.env": {"MLFLOW_BACKEND_STORE_URI": f"postgresql://mlflow:{password}@postgres:5432/mlflow"},
    "serving.env": {"TRIPCAST_ADMIN_TOKEN": secrets.token_urlsafe(32)},
}
folder = Path(__file__).parent
if there := [name for name in files if (folder / name).exists()]:
    sys.exit(f"{folder} holds {', '.join(there)} already. Remove all *.env there to make new ones.")
os.umask(0o077)
for name, entries in files.items():
    (folder / name).write_text("".join(f"{key}={value}\n" for key, value in entries.items()))

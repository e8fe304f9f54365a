"""The model registry and the experiment tracker, on MLflow."""

import os

# Before anything imports MLflow, which reads the first as it is imported. It reports its use to its makers unless told
# not to.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

# And it draws a bar for every handful of files.
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

# A minute of trying again, in which a server can be restarted; MLflow's own measure is four.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "5")

# Files come through its server, which otherwise tells an address of its object store: one that other machines may not
# reach, or whose certificate they do not know.
os.environ.setdefault("MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD", "false")

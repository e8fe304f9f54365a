"""The model registry and the experiment tracker, on MLflow."""

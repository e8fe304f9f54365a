"""Runs the pipelines on Kubeflow: compiling, uploading, submitting, scheduling."""

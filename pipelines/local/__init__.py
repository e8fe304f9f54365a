"""Runs the pipelines on this machine: steps as processes or containers."""

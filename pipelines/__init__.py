"""The pipelines: each a graph of steps that reads like its diagram."""

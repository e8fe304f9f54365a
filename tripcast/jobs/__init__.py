"""What the steps of the pipelines do: one module a step, named as its component."""

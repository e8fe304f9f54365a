"""Compile every pipeline to compiled/*.yaml; with --check, fail if they are not up to date."""

from tripcast.cli import compile_pipelines

if __name__ == "__main__":
    compile_pipelines()

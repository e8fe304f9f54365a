"""The ways to set up a machine install the same packages."""

import json
import re
from pathlib import Path

import yaml

import tripcast

REPOSITORY = Path(tripcast.__file__).parents[1]


def test_conda_installs_the_locked_requirements_of_a_laptop():
    environment = yaml.safe_load((REPOSITORY / "environment.yml").read_text())

    python, pip, packages = environment["dependencies"]
    assert packages == {"pip": ["--require-hashes -r requirements/laptop.txt"]}
    assert pip == "pip"
    assert python == "python=3.13"


def test_a_codespace_is_set_up_by_the_makefile_from_the_locked_requirements():
    text = (REPOSITORY / ".devcontainer" / "devcontainer.json").read_text()
    container = json.loads(re.sub(r"^\s*//.*$", "", text, flags=re.MULTILINE))

    assert container["postCreateCommand"] == "make .venv/dev"
    assert re.search(r"^\.venv/laptop \.venv/dev: .*requirements/%\.txt", (REPOSITORY / "Makefile").read_text(), re.M)
    assert container["image"].partition(":")[2].startswith("3.13-")


def test_a_laptops_lock_is_part_of_developments():
    def pins(name: str) -> set[str]:
        return set(re.findall(r"^\S+==\S+", (REPOSITORY / "requirements" / name).read_text(), re.M))

    assert pins("laptop.txt") <= pins("dev.txt")
    assert pins("pipeline.txt") | pins("serving.txt") <= pins("laptop.txt")

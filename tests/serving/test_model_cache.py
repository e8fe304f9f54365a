"""The local copy of what should serve."""

from pathlib import Path

import pytest

from tripcast.errors import StorageError
from tripcast.serving.model_cache import DesiredState, ModelCache, ServedVersion


@pytest.fixture
def copy(tmp_path) -> ModelCache:
    return ModelCache(tmp_path, "tripcast-green")


def folder_of(copy: ModelCache, digest: str) -> Path:
    """A model folder in the copy, as far as that goes here."""
    with copy.scratch() as scratch:
        made = scratch / "model"
        made.mkdir()
        (made / "manifest.json").write_text(digest)
        return copy.keep(made, digest)


def test_what_served_last_is_read_back(copy):
    champion = ServedVersion(2, copy.model("b"), {"tripcast.rmse": "5.19"})
    deployment = DesiredState(champion, ServedVersion(3, copy.model("c"), {}), 0.25)

    assert copy.read() is None
    copy.write(deployment)
    assert copy.read() == deployment


def test_what_0_1_0_served_last_is_read(copy):
    copy.folder.mkdir(parents=True)
    champion = '{\n  "version": 2,\n  "folder": "/home/models/b",\n  "tags": {}\n }'
    text = f'{{\n "champion": {champion},\n "challenger": null,\n "share": 0.0\n}}\n'
    (copy.folder / "deployment.json").write_text(text)
    assert copy.read() == DesiredState(ServedVersion(2, Path("/home/models/b"), {}), None, 0.0)


@pytest.mark.parametrize("damaged", [b'{"champion": 2', b'{"champion": {"version": "\xff', b"null", b""])
def test_a_damaged_record_of_what_served_last_is_named(copy, damaged):
    copy.write(DesiredState(ServedVersion(2, copy.model("b"), {}), None, 0.0))
    (copy.folder / "deployment.json").write_bytes(damaged)

    folder = folder_of(copy, "b")

    with pytest.raises(StorageError, match=r"deployment\.json does not say what served last"):
        copy.read()
    copy.remove_all_but(set())
    assert folder.exists()


def test_folders_that_nothing_needs_are_removed(copy):
    last, wanted, old = (folder_of(copy, digest) for digest in ("last", "wanted", "old"))
    copy.write(DesiredState(ServedVersion(1, last, {}), None, 0.0))

    copy.remove_all_but({wanted})

    assert (last.exists(), wanted.exists(), old.exists()) == (True, True, False)
    assert (wanted / "manifest.json").read_text() == "wanted"

"""The artifact store, a folder and a bucket alike: what is removed is gone, and nothing else is."""

from __future__ import annotations

from pathlib import Path

import pytest

from tripcast.errors import StorageError
from tripcast.storage.store import Store, open_store


@pytest.fixture
def bucket(s3) -> str:
    s3.create_bucket(Bucket="kept")
    return "s3://kept"


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "folder":
        return open_store(str(tmp_path / "store"))
    return open_store(f"{request.getfixturevalue('bucket')}/{tmp_path.name}")


def test_what_is_removed_is_gone_and_its_neighbours_stay(store: Store, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("content")
    for key in ("scores/a", "scores/a.parquet", "scores/b", "a"):
        store.put(file, key)

    store.delete("scores/a")

    assert store.list("") == ["a", "scores/a.parquet", "scores/b"]
    with pytest.raises(StorageError, match=r"There is no .*scores/a"):
        store.get("scores/a", tmp_path / "back")
    assert file.read_text() == "content"


def test_a_key_can_be_kept_again_after_it_was_removed(store: Store, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("content")
    store.put(file, "a")
    store.delete("a")

    store.put(file, "a")

    store.get("a", tmp_path / "back")
    assert (tmp_path / "back").read_text() == "content"


def test_where_nothing_is_kept_removing_it_does_nothing(store: Store) -> None:
    store.delete("scores/none")

    assert store.list("") == []


def test_a_folder_in_place_of_a_file_is_named_and_not_removed(tmp_path: Path) -> None:
    (tmp_path / "store" / "scores" / "a").mkdir(parents=True)

    with pytest.raises(StorageError, match="store/scores"):
        open_store(str(tmp_path / "store")).delete("scores")

    assert (tmp_path / "store" / "scores" / "a").is_dir()


def test_a_bucket_that_is_not_there_is_named(bucket: str) -> None:
    with pytest.raises(StorageError, match=r"s3://elsewhere/a cannot be removed.*NoSuchBucket.*Create the bucket"):
        open_store("s3://elsewhere").delete("a")


def test_what_another_tool_put_into_the_bucket_can_be_read(s3, bucket: str, tmp_path: Path) -> None:
    """Nobody but tripcast tags an object with its hash."""
    s3.put_object(Bucket="kept", Key="truth/green/2021-06.parquet", Body=b"true durations")
    open_store(bucket).get("truth/green/2021-06.parquet", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == b"true durations"

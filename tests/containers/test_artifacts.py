"""The artifact store on real object stores."""

import os
import subprocess
import sys
from pathlib import Path

import boto3
import pytest

from tripcast.errors import StorageError
from tripcast.storage.store import open_store, sha256_of


@pytest.fixture
def store(any_store, monkeypatch):
    for name, value in any_store.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    return any_store


@pytest.fixture
def large_file(tmp_path) -> Path:
    """Larger than one part of a multipart upload."""
    file = tmp_path / "large"
    file.write_bytes(os.urandom(20_000_000))
    return file


def test_a_large_file_comes_back_as_it_went(store, large_file, tmp_path):
    artifacts = open_store("s3://tripcast/some/where")

    uri = artifacts.put(large_file, "month.parquet", "application/vnd.apache.parquet")
    artifacts.get("month.parquet", tmp_path / "back")

    assert uri == "s3://tripcast/some/where/month.parquet"
    assert (tmp_path / "back").read_bytes() == large_file.read_bytes()
    head = store.client().head_object(Bucket="tripcast", Key="some/where/month.parquet", ChecksumMode="ENABLED")
    assert head["Metadata"] == {"sha256": sha256_of(large_file)}
    assert head["ContentType"] == "application/vnd.apache.parquet"
    assert head["ETag"].endswith('-3"')  # uploaded in three parts
    assert head["ChecksumSHA256"]


def test_what_is_there_already_is_not_sent_again(store, large_file):
    artifacts = open_store("s3://tripcast/once")
    artifacts.put(large_file, "a")
    first = store.client().head_object(Bucket="tripcast", Key="once/a")["LastModified"]

    artifacts.put(large_file, "a")
    assert store.client().head_object(Bucket="tripcast", Key="once/a")["LastModified"] == first

    large_file.write_bytes(b"other")
    artifacts.put(large_file, "a")
    assert store.client().get_object(Bucket="tripcast", Key="once/a")["Body"].read() == b"other"


def test_keys_are_listed_by_prefix(store, tmp_path):
    artifacts = open_store("s3://tripcast/listed/")
    (tmp_path / "file").write_text("content")
    for key in ("b/2", "a/1", "b/1"):
        artifacts.put(tmp_path / "file", key)

    assert artifacts.list("") == ["a/1", "b/1", "b/2"]
    assert artifacts.list("b/") == ["b/1", "b/2"]


def test_an_object_that_was_changed_behind_our_back_is_refused(store, large_file, tmp_path):
    artifacts = open_store("s3://tripcast/changed")
    artifacts.put(large_file, "a")
    store.client().put_object(
        Bucket="tripcast", Key="changed/a", Body=b"other", Metadata={"sha256": sha256_of(large_file)}
    )

    with pytest.raises(StorageError, match="changed/a is not what was stored there"):
        artifacts.get("a", tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_an_object_that_is_not_there_is_named(store, tmp_path):
    with pytest.raises(StorageError, match="There is no s3://tripcast/none"):
        open_store("s3://tripcast").get("none", tmp_path / "back")


def test_wrong_credentials_are_named(store, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(StorageError, match=r"SignatureDoesNotMatch.*Check AWS_SECRET_ACCESS_KEY"):
        open_store("s3://tripcast").check()

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    with pytest.raises(StorageError, match=r"InvalidAccessKeyId.*Check AWS_ACCESS_KEY_ID"):
        open_store("s3://tripcast").check()


def test_a_missing_bucket_is_named(store):
    with pytest.raises(StorageError, match=r"NoSuchBucket.*Create the bucket no-such-bucket"):
        open_store("s3://no-such-bucket/prefix").check()


def test_an_upload_that_is_killed_leaves_nothing_to_see(store, tmp_path):
    script = """
import os, sys
from pathlib import Path
from s3transfer.tasks import Task
from tripcast.storage.store import open_store
import s3transfer.upload
original = s3transfer.upload.UploadPartTask._main
def killed(self, *arguments, part_number, **rest):
    if part_number == 3:
        os.kill(os.getpid(), 9)
    return original(self, *arguments, part_number=part_number, **rest)
s3transfer.upload.UploadPartTask._main = killed
open_store("s3://tripcast/killed").put(Path(sys.argv[1]), "a")
"""
    file = tmp_path / "large"
    file.write_bytes(os.urandom(40_000_000))

    ended = subprocess.run([sys.executable, "-c", script, file], capture_output=True)

    assert ended.returncode == -9
    assert open_store("s3://tripcast/killed").list("") == []


def test_clocks_that_differ_are_named(store):
    script = "from tripcast.storage.store import open_store; open_store('s3://tripcast').check()"

    ended = subprocess.run(["faketime", "+2 hours", sys.executable, "-c", script], capture_output=True, text=True)

    assert "StorageError" in ended.stderr
    assert "RequestTimeTooSkewed" in ended.stderr
    assert "clock" in ended.stderr

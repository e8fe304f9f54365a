"""The artifact store, a folder and a bucket alike: what is removed is gone, and nothing else is."""

from __future__ import annotations

import os
import ssl
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import boto3
import pytest
from click.testing import CliRunner

from tripcast.cli import main
from tripcast.errors import InvalidRequest, StorageError
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


def test_bytes_are_read_as_they_were_written(store: Store) -> None:
    content = bytes(range(256))
    assert store.write("alerts/a.json", content) == f"{store.uri}/alerts/a.json"
    assert store.read("alerts/a.json") == content
    with pytest.raises(StorageError, match=r"There is no .*alerts/b"):
        store.read("alerts/b.json")


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


KEYS = {"AWS_ACCESS_KEY_ID": "hush", "AWS_SECRET_ACCESS_KEY": "hush"}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {**KEYS, "AWS_ENDPOINT_URL_S3": "127.0.0.1:9000"},
            "Invalid endpoint: 127.0.0.1:9000. Write http:// or https://",
        ),
        ({**KEYS, "AWS_ENDPOINT_URL": "ftp://store"}, "Write http:// or https:// and a host in AWS_ENDPOINT_URL_S3"),
        ({"AWS_PROFILE": "nobody"}, "(nobody) could not be found. Correct or unset AWS_PROFILE."),
        ({"AWS_ACCESS_KEY_ID": "hush"}, "Half of the S3 credentials is missing (AWS_SECRET_ACCESS_KEY)"),
        ({"AWS_ACCESS_KEY_ID": "hush\n", "AWS_SECRET_ACCESS_KEY": "hush"}, "AWS_ACCESS_KEY_ID holds a line break"),
        ({"AWS_CONFIG_FILE": "{broken}"}, "broken. Mend that file, or name another one in AWS_CONFIG_FILE."),
        ({"AWS_SHARED_CREDENTIALS_FILE": "{broken}"}, "Unable to parse config file"),
        ({**KEYS, "AWS_REGION": "no region"}, "supported format. Correct AWS_REGION."),
        ({**KEYS, "AWS_CA_BUNDLE": "/nowhere.pem"}, "AWS_CA_BUNDLE names /nowhere.pem, which is not there."),
        ({**KEYS, "AWS_REQUEST_CHECKSUM_CALCULATION": "no"}, "The settings for S3 cannot be used: Unsupported"),
    ],
)
def test_settings_for_s3_that_are_none_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, settings: dict[str, str], said: str
) -> None:
    (tmp_path / "broken").write_text("[default\nx")
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    defaults = {"AWS_CONFIG_FILE": "/dev/null", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null", "AWS_DEFAULT_REGION": ""}
    for name, value in {**defaults, "AWS_EC2_METADATA_DISABLED": "true", **settings}.items():
        monkeypatch.setenv(name, value.format(broken=tmp_path / "broken"))
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    with pytest.raises(InvalidRequest) as error:
        open_store("s3://bucket/prefix").check()
    assert said in str(error.value)
    assert "hush" not in str(error.value)


class Refusing(BaseHTTPRequestHandler):
    """A store that answers every request with one error."""

    code = ""
    asked: ClassVar[list[dict[str, str]]] = []

    def do_GET(self) -> None:
        self.asked.append(dict(self.headers))
        self.send_response(503 if self.code == "SlowDown" else 400)
        self.end_headers()
        self.wfile.write(f"<Error><Code>{self.code}</Code><Message>said so</Message></Error>".encode())

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def refusing(s3, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Refusing]]:
    monkeypatch.setattr(Refusing, "asked", [])
    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{server.server_port}")
        yield Refusing
        server.shutdown()


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        ("SlowDown", "The store is busy or down: wait, then run again."),
        ("ExpiredToken", "The session has expired: get new credentials (aws sso login, or another AWS_SESSION_TOKEN)."),
        ("AuthorizationHeaderMalformed", "Set AWS_REGION to the region of the bucket kept."),
        ("AccessDenied", "Permit these credentials to list, read and write the bucket kept."),
    ],
)
def test_a_refusal_of_s3_comes_with_its_own_remedy(refusing: type[Refusing], code: str, remedy: str) -> None:
    refusing.code = code
    with pytest.raises(StorageError) as error:
        open_store("s3://kept").check()
    assert f"s3://kept cannot be used, S3 answers {code}: " in str(error.value)
    assert str(error.value).endswith(remedy)


def test_the_region_that_aws_region_names_is_signed_for(
    refusing: type[Refusing], monkeypatch: pytest.MonkeyPatch
) -> None:
    refusing.code = "AccessDenied"
    monkeypatch.setenv("AWS_DEFAULT_REGION", "")
    monkeypatch.setenv("AWS_REGION", "garage")
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    with pytest.raises(StorageError):
        open_store("s3://kept").check()
    assert "/garage/s3/aws4_request" in refusing.asked[0]["Authorization"]


def test_s3_that_speaks_no_tls_is_named(s3, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3_endpoint.replace("http:", "https:"))
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(StorageError, match=r"the endpoint does not speak TLS .* write http:// in AWS_ENDPOINT_URL_S3"):
        open_store("s3://kept").check()


@pytest.mark.slow
def test_a_certificate_of_s3_that_nobody_trusts_is_named(s3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    request = "req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=localhost"
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(["openssl", *request.split(), "-keyout", key, "-out", certificate], check=True, capture_output=True)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"https://localhost:{server.server_port}")
        with pytest.raises(StorageError, match=r"is not trusted .* authority that signed it in AWS_CA_BUNDLE\."):
            open_store("s3://kept").check()
        server.shutdown()


@pytest.mark.parametrize(("setting", "checksums"), [("when_supported", True), ("when_required", False)])
def test_checksums_are_sent_unless_the_settings_say_otherwise(
    s3, bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, setting: str, checksums: bool
) -> None:
    monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", setting)
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    (tmp_path / "file").write_text("content")
    open_store(bucket).put(tmp_path / "file", "a")
    assert ("ChecksumSHA256" in s3.head_object(Bucket="kept", Key="a", ChecksumMode="ENABLED")) == checksums
    open_store(bucket).get("a", tmp_path / "back")
    assert (tmp_path / "back").read_text() == "content"


@pytest.mark.parametrize("text", ["gs://bucket/x", "https://store/x", "file:///tmp/x", "s3:/bucket", "az:/x"])
def test_an_address_of_another_kind_is_no_folder(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidRequest, match=f"'{text}' is no place for files: .* Write s3://bucket/prefix"):
        open_store(text)
    result = CliRunner().invoke(main, ["train", "--artifacts", text])
    assert (result.exit_code, "is no place for files" in result.stderr) == (2, True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["S3://kept", " s3://kept\n"])
def test_s3_may_be_written_in_capitals_and_with_blanks_around_it(bucket: str, text: str) -> None:
    assert open_store(text).uri == "s3://kept"

"""Where months come from, against a publisher and an S3 endpoint of this process's own."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tripcast.errors import InvalidRequest, SourceError, StorageError
from tripcast.months import Month
from tripcast.taxi.sources import open_source
from tripcast.taxi.sources.raw import RawMonth
from tripcast.taxi.sources.s3 import S3
from tripcast.taxi.sources.tlc import TLC

JANUARY = Month(2021, 1)


def month_bytes(rows: int = 3) -> bytes:
    """A parquet file with one column, ``row``: 0, 1, 2, ..."""
    file = io.BytesIO()
    pq.write_table(pa.table({"row": list(range(rows))}), file, compression="none", use_dictionary=False)
    return file.getvalue()


def rows_of(raw: RawMonth) -> int:
    return sum(len(batch) for batch in raw.read(["row"]))


# A folder.


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["green_tripdata_2021-01.csv.gz", "green_tripdata_2021-01.csv", "green_tripdata_2021-01.parquet"], ".parquet"),
        (["green_tripdata_2021-01.csv.gz", "green_tripdata_2021-01.csv"], ".csv"),
        (["green_tripdata_2021-01.csv.gz", "yellow_tripdata_2021-01.parquet"], ".csv.gz"),
    ],
)
def test_parquet_is_preferred_to_csv_and_csv_to_gzip(tmp_path: Path, names: list[str], expected: str) -> None:
    import gzip

    for name in names:
        content = month_bytes() if name.endswith(".parquet") else b"row\n0\n1\n2\n"
        (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    raw = open_source(str(tmp_path), tmp_path / "downloads").month("green", JANUARY)
    assert raw.location == str(tmp_path / f"green_tripdata_2021-01{expected}")
    assert raw.columns == ("row",)
    assert rows_of(raw) == 3


def test_a_missing_month_names_the_months_that_are_there(tmp_path: Path) -> None:
    for name in ("green_tripdata_2021-02.parquet", "green_tripdata_2021-03.csv", "yellow_tripdata_2021-01.parquet"):
        (tmp_path / name).touch()
    with pytest.raises(SourceError) as error:
        open_source(str(tmp_path), tmp_path).month("green", JANUARY)
    assert str(error.value) == (
        f"There is no 2021-01 of the green taxi in {tmp_path}. It has 2021-02, 2021-03: ask for one of these, "
        "or put green_tripdata_2021-01.parquet (or .csv, or .csv.gz) there."
    )


def test_a_folder_without_months_says_so(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"It has no month of the yellow taxi at all, or put yellow_tripdata_2021-01"):
        open_source(str(tmp_path), tmp_path).month("yellow", JANUARY)


def test_a_folder_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"The source '.*nowhere' does not exist .*s3://bucket/prefix or simulated"):
        open_source(str(tmp_path / "nowhere"), tmp_path)


def test_an_unknown_kind_of_source_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="'gs://bucket' is not a source of months: gs:// is not supported"):
        open_source("gs://bucket", tmp_path)


def test_the_simulated_city_is_a_source(tmp_path: Path) -> None:
    raw = open_source("simulated?trips=200", tmp_path).month("green", JANUARY)
    batches = list(raw.read(["PULocationID", "lpep_pickup_datetime"]))
    assert raw.location == "simulated?trips=200"
    assert "trip_distance" in raw.columns
    assert batches[0].schema.names == ["PULocationID", "lpep_pickup_datetime"]
    assert sum(map(len, batches)) >= 200


# The publisher.


class Publisher(ThreadingHTTPServer):
    """A website that misbehaves as it is told to, one entry of ``script`` a request; then it behaves."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), PublisherHandler)
        self.content, self.etag = month_bytes(100_000), '"first"'
        self.script: list[str] = []
        self.asked: list[dict[str, str]] = []
        self.sent = 0


class PublisherHandler(BaseHTTPRequestHandler):
    server: Publisher

    def do_GET(self) -> None:
        server = self.server
        server.asked.append(dict(self.headers))
        act, _, detail = (server.script.pop(0) if server.script else "").partition(" ")
        if act == "status" or "2021-01" not in self.path:
            return self._answer(int(detail or 403), b"<html>no</html>", {})
        etag, content, headers = server.etag, server.content, {"ETag": server.etag}
        if self.headers.get("If-None-Match") == etag:
            return self._answer(304, b"", headers)
        first = 0
        wanted = self.headers.get("Range")
        if wanted and act != "ignore-range" and (self.headers["If-Range"] == etag or act == "ignore-if-range"):
            first = int(wanted.removeprefix("bytes=").rstrip("-"))
            if first >= len(content):
                return self._answer(416, b"", {"Content-Range": f"bytes */{len(content)}"})
            headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
        return self._answer(206 if first else 200, content[first:], headers, int(detail) if act == "cut" else None)

    def _answer(self, status: int, body: bytes, headers: dict[str, str], cut: int | None = None) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.server.sent += len(body[:cut])  # before: who has read the last byte may look at once
        self.wfile.write(body[:cut])
        self.close_connection = True

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    with Publisher() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def tlc(publisher: Publisher, downloads: Path, retries: int = 2) -> TLC:
    return TLC(downloads, f"http://127.0.0.1:{publisher.server_port}/trip-data", retries)


def test_a_month_is_downloaded_whole(publisher: Publisher, tmp_path: Path) -> None:
    raw = tlc(publisher, tmp_path).month("green", JANUARY)
    assert raw.location == f"http://127.0.0.1:{publisher.server_port}/trip-data/green_tripdata_2021-01.parquet"
    assert rows_of(raw) == 100_000
    assert (tmp_path / "tlc" / "green_tripdata_2021-01.parquet").read_bytes() == publisher.content
    assert not list(tmp_path.rglob("*.part*"))


def test_what_has_not_changed_is_not_sent_again(publisher: Publisher, tmp_path: Path) -> None:
    tlc(publisher, tmp_path).month("green", JANUARY)
    assert rows_of(tlc(publisher, tmp_path).month("green", JANUARY)) == 100_000
    assert publisher.sent == len(publisher.content)


def test_a_month_that_was_replaced_is_downloaded_again(publisher: Publisher, tmp_path: Path) -> None:
    tlc(publisher, tmp_path).month("green", JANUARY)
    publisher.content, publisher.etag = month_bytes(7), '"second"'
    assert rows_of(tlc(publisher, tmp_path).month("green", JANUARY)) == 7


def test_a_busy_server_is_asked_again(publisher: Publisher, tmp_path: Path) -> None:
    publisher.script = ["status 503", "status 429"]
    assert rows_of(tlc(publisher, tmp_path).month("green", JANUARY)) == 100_000
    assert len(publisher.asked) == 3


def test_a_cut_download_goes_on_where_it_stopped(publisher: Publisher, tmp_path: Path) -> None:
    publisher.script = ["cut 131072", "cut 65536"]
    assert rows_of(tlc(publisher, tmp_path).month("green", JANUARY)) == 100_000
    assert publisher.asked[1]["Range"] == "bytes=131072-"
    assert publisher.asked[2]["Range"] == "bytes=196608-"
    assert publisher.sent == len(publisher.content)


def test_a_later_process_goes_on_where_the_first_stopped(publisher: Publisher, tmp_path: Path) -> None:
    publisher.script = ["cut 131072", "status 403"]
    with pytest.raises(SourceError):
        tlc(publisher, tmp_path).month("green", JANUARY)
    assert rows_of(tlc(publisher, tmp_path).month("green", JANUARY)) == 100_000
    assert publisher.asked[2]["Range"] == "bytes=131072-"


@pytest.mark.parametrize("obedience", ["ignore-range", "ignore-if-range", ""])
def test_a_file_that_changed_on_the_way_is_begun_again(publisher: Publisher, tmp_path: Path, obedience: str) -> None:
    publisher.script = ["cut 131072", "status 403"]
    with pytest.raises(SourceError):
        tlc(publisher, tmp_path).month("green", JANUARY)
    publisher.content, publisher.etag = month_bytes(120_000), '"second"'
    publisher.script = [obedience]
    assert rows_of(tlc(publisher, tmp_path).month("green", JANUARY)) == 120_000
    assert (tmp_path / "tlc" / "green_tripdata_2021-01.parquet").read_bytes() == publisher.content


def test_a_part_that_was_whole_already_is_fetched_again(publisher: Publisher, tmp_path: Path) -> None:
    tlc(publisher, tmp_path).month("green", JANUARY)
    for file in list((tmp_path / "tlc").iterdir()):
        file.rename(file.with_name(file.name.replace(".parquet", ".parquet.part")))
    assert rows_of(tlc(publisher, tmp_path).month("green", JANUARY)) == 100_000


def test_a_connection_that_always_breaks_is_given_up(publisher: Publisher, tmp_path: Path) -> None:
    publisher.script = ["cut 131072"] + ["cut 0"] * 10
    with pytest.raises(SourceError, match=r"2021-01 of the green taxi cannot be downloaded from http://.*broke off"):
        tlc(publisher, tmp_path, retries=1).month("green", JANUARY)
    assert not (tmp_path / "tlc" / "green_tripdata_2021-01.parquet").exists()


def test_an_unpublished_month_says_when_months_are_published(publisher: Publisher, tmp_path: Path) -> None:
    with pytest.raises(SourceError) as error:
        tlc(publisher, tmp_path).month("yellow", Month(2031, 5))
    assert str(error.value) == (
        "The 2031-05 of the yellow taxi is not published: "
        f"http://127.0.0.1:{publisher.server_port}/trip-data/yellow_tripdata_2031-05.parquet answers 403. "
        "TLC publishes a month about two months after its end: ask for an earlier one."
    )


def test_without_a_network_the_copy_that_is_here_is_used(
    publisher: Publisher, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tlc(publisher, tmp_path, retries=0)
    source.month("green", JANUARY)
    publisher.shutdown()
    publisher.server_close()
    assert rows_of(source.month("green", JANUARY)) == 100_000
    assert "Using the copy of http://" in capsys.readouterr().err
    with pytest.raises(SourceError, match="Check the network"):
        source.month("yellow", JANUARY)


def test_an_error_page_saved_as_a_month_is_named(publisher: Publisher, tmp_path: Path) -> None:
    publisher.content = b"<!DOCTYPE html><html><body>Sorry</body></html>"
    with pytest.raises(SourceError, match=r"green_tripdata_2021-01.parquet is a web page \(HTML or XML\)"):
        tlc(publisher, tmp_path).month("green", JANUARY)


def test_downloads_that_cannot_be_written_are_named(publisher: Publisher, tmp_path: Path) -> None:
    (tmp_path / "tlc").write_text("a file where the folder should be")
    with pytest.raises(StorageError, match=r"green_tripdata_2021-01.parquet cannot be written: .*MB free there"):
        tlc(publisher, tmp_path).month("green", JANUARY)


def test_a_download_shows_its_progress_on_standard_error(
    publisher: Publisher, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tlc(publisher, tmp_path).month("green", JANUARY)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "green_tripdata_2021-01.parquet: 100%|" in shown.err


# S3.


@pytest.fixture
def bucket(s3: Any) -> Any:
    """A client of the endpoint, with a bucket ``trips``."""
    s3.create_bucket(Bucket="trips")
    return s3


def put(client: Any, key: str, content: bytes) -> None:
    client.put_object(Bucket="trips", Key=key, Body=content)


@pytest.mark.parametrize(("source", "folder"), [("s3://trips/raw/", "raw/"), ("s3://trips", "")])
def test_a_month_comes_from_s3(bucket: Any, tmp_path: Path, source: str, folder: str) -> None:
    put(bucket, f"{folder}green_tripdata_2021-01.parquet", month_bytes(500))
    raw = open_source(source, tmp_path).month("green", JANUARY)
    assert raw.location == f"s3://trips/{folder}green_tripdata_2021-01.parquet"
    assert rows_of(raw) == 500


def test_an_object_is_downloaded_again_only_when_it_has_changed(bucket: Any, tmp_path: Path) -> None:
    put(bucket, "same/green_tripdata_2021-01.parquet", month_bytes(500))
    source = S3("s3://trips/same", tmp_path)
    source.month("green", JANUARY)
    (file,) = tmp_path.rglob("*.parquet")
    before = file.stat().st_mtime_ns
    source.month("green", JANUARY)
    assert file.stat().st_mtime_ns == before
    put(bucket, "same/green_tripdata_2021-01.parquet", month_bytes(9))
    assert rows_of(source.month("green", JANUARY)) == 9


def test_a_month_that_is_not_in_the_bucket_names_those_that_are(bucket: Any, tmp_path: Path) -> None:
    put(bucket, "few/green_tripdata_2021-04.csv.gz", b"")
    with pytest.raises(SourceError, match=r"no 2021-01 of the green taxi in s3://trips/few. It has 2021-04: ask for"):
        open_source("s3://trips/few", tmp_path).month("green", JANUARY)


def test_a_bucket_that_does_not_exist_is_named(bucket: Any, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"s3://absent/x cannot be read, S3 answers NoSuchBucket: .*Create the"):
        open_source("s3://absent/x", tmp_path).month("green", JANUARY)


def test_missing_credentials_are_named(bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("boto3.DEFAULT_SESSION", None)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(SourceError, match="s3://trips cannot be read: it needs credentials, and there are none"):
        open_source("s3://trips", tmp_path).month("green", JANUARY)


def test_an_endpoint_that_is_not_there_is_named(bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    with pytest.raises(SourceError, match=r"s3://trips cannot be read: .*127.0.0.1:9.* Check the network"):
        open_source("s3://trips", tmp_path).month("green", JANUARY)


def test_an_address_without_a_bucket_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="'s3://' names no bucket: write s3://bucket/prefix"):
        open_source("s3://", tmp_path)

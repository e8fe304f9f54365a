"""The publisher's files: which columns a month has, in which order and of which types."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa


def _schema(columns: str) -> pa.Schema:
    return pa.schema([(name, pa.type_for_alias(kind)) for name, kind in map(str.split, columns.split(","))])


#: The columns of a published month, by feed: names, order and types of the publisher's parquet files of 2021. Those of
#: for-hire vehicles are as others describe them: no file of theirs was at hand.
SCHEMAS: Mapping[str, pa.Schema] = {
    "green": _schema(
        "VendorID int64, lpep_pickup_datetime timestamp[us], lpep_dropoff_datetime timestamp[us], "
        "store_and_fwd_flag string, RatecodeID double, PULocationID int64, DOLocationID int64, "
        "passenger_count double, trip_distance double, fare_amount double, extra double, mta_tax double, "
        "tip_amount double, tolls_amount double, ehail_fee null, improvement_surcharge double, total_amount double, "
        "payment_type double, trip_type double, congestion_surcharge double"
    ),
    "yellow": _schema(
        "VendorID int64, tpep_pickup_datetime timestamp[us], tpep_dropoff_datetime timestamp[us], "
        "passenger_count double, trip_distance double, RatecodeID double, store_and_fwd_flag string, "
        "PULocationID int64, DOLocationID int64, payment_type int64, fare_amount double, extra double, "
        "mta_tax double, tip_amount double, tolls_amount double, improvement_surcharge double, total_amount double, "
        "congestion_surcharge double, airport_fee double"
    ),
    "fhvhv": _schema(
        "hvfhs_license_num string, dispatching_base_num string, originating_base_num string, "
        "request_datetime timestamp[us], on_scene_datetime timestamp[us], pickup_datetime timestamp[us], "
        "dropoff_datetime timestamp[us], PULocationID int64, DOLocationID int64, trip_miles double, trip_time int64, "
        "base_passenger_fare double, tolls double, bcf double, sales_tax double, congestion_surcharge double, "
        "airport_fee double, tips double, driver_pay double, shared_request_flag string, shared_match_flag string, "
        "access_a_ride_flag string, wav_request_flag string, wav_match_flag string"
    ),
    "fhv": _schema(
        "dispatching_base_num string, pickup_datetime timestamp[us], dropOff_datetime timestamp[us], "
        "PUlocationID double, DOlocationID double, SR_Flag int32, Affiliated_base_number string"
    ),
}

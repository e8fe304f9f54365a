"""Makes the buckets that are named on the command line."""

import os
import sys

import boto3
from botocore.config import Config

client = boto3.client(
    "s3", region_name=os.environ["AWS_REGION"], config=Config(retries={"mode": "standard", "max_attempts": 10})
)
there = {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}
for name in sys.argv[1:]:
    if name not in there:
        client.create_bucket(Bucket=name)
    print(f"The bucket {name} is there.")

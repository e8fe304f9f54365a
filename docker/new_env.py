"""Prints docker/.env: new passwords for the stack, and what programs outside of its containers need to use it."""

import secrets

access_key, secret_key = f"tripcast{secrets.token_hex(4)}", secrets.token_urlsafe(32)
print(f"""\
# Made for this clone alone, and never to be committed. The first four are the stack's own.
POSTGRES_PASSWORD={secrets.token_hex(24)}
S3_ACCESS_KEY={access_key}
S3_SECRET_KEY={secret_key}
TRIPCAST_ADMIN_TOKEN={secrets.token_urlsafe(32)}

# For programs on this machine: set -a && . docker/.env
AWS_ACCESS_KEY_ID={access_key}
AWS_SECRET_ACCESS_KEY={secret_key}
AWS_REGION=us-east-1
AWS_ENDPOINT_URL_S3=http://127.0.0.1:8333
MLFLOW_TRACKING_URI=http://127.0.0.1:5000
TRIPCAST_ARTIFACTS=s3://tripcast
TRIPCAST_SERVICE_URL=http://127.0.0.1:8080""")

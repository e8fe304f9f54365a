"""What the prediction log keeps of riders: not their ids, but what a secret of the installation makes of them.

With the secret the same rider is the same pseudonym in every log of the installation, so that one rider's rows can be
found and removed. Without it nobody can try ids until one fits. A new secret makes all earlier rows nobody's.

Source:
    RFC 2104 (HMAC); its output of SHA-256 is cut to 128 bits, as its section 5 allows.
"""

from __future__ import annotations

import hmac
import os
import secrets
from pathlib import Path

from tripcast.errors import InvalidRequest
from tripcast.storage.files import storage_errors

#: The environment variable that holds the secret.
RIDER_SECRET = "TRIPCAST_RIDER_SECRET"

#: Characters that a secret has at least: fewer could be tried out.
_SHORTEST = 32


def pseudonym(rider_id: bytes, secret: bytes) -> bytes:
    """What the log keeps of a rider: 32 hexadecimal digits.

    Args:
        rider_id: The id as UTF-8.
        secret: Of the installation.
    """
    return hmac.digest(secret, rider_id, "sha256")[:16].hex().encode()


def rider_secret(home: Path) -> bytes:
    """The installation's secret: ``TRIPCAST_RIDER_SECRET``, or that of the home, which is made if there is none.

    Raises:
        InvalidRequest: If it is too short to be one.
        StorageError: If the home cannot be read or written.
    """
    secret = os.environ.get(RIDER_SECRET) or _of_home(home / "rider-secret")
    if len(secret) < _SHORTEST:
        raise InvalidRequest(
            f"{RIDER_SECRET} has less than {_SHORTEST} characters: make one with 'openssl rand -hex 32'."
        )
    return secret.encode()


def _of_home(file: Path) -> str:
    with storage_errors(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(f".{secrets.token_hex(4)}")
        try:
            descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with open(descriptor, "w", encoding="ascii") as written:
                written.write(secrets.token_hex(32))
            # Of two processes that start at once the first one's stays, and it is whole from the beginning.
            os.link(part, file)
        except FileExistsError:
            pass
        finally:
            part.unlink(missing_ok=True)
        return file.read_text(encoding="ascii").strip()

"""The signature of a model folder: whoever holds the private key says which models may be loaded.

Ed25519, over the registered model's name and every file of the folder: the manifest, the files that it lists, and what
lies beside them. The private key belongs to whoever registers, the public ones to whoever loads, and these cannot sign:
with one secret for both (HMAC) every service could make models of its own.

Source:
    RFC 8032; ``cryptography.hazmat.primitives.asymmetric.ed25519``.
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from binascii import Error as NotBase64
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from tripcast.errors import InvalidRequest, SignatureError
from tripcast.storage.files import storage_errors

# Imported where a key is configured: it costs a process ten megabytes of memory.
if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

#: Tag of a registered version: the signature of its folder.
SIGNATURE = "tripcast.signature"

_PUBLIC_KEY = re.compile(r"-----BEGIN PUBLIC KEY-----.*?-----END PUBLIC KEY-----", re.DOTALL)


def sign(folder: Path, model: str, key: str) -> str:
    """Sign a model folder. The same folder and key give the same signature.

    Args:
        folder: The model folder.
        model: The registered model's name, for example ``tripcast-green``.
        key: The private key, an Ed25519 key as PEM.

    Returns:
        The signature, as Base64.

    Raises:
        InvalidRequest: If that is no such key.
        StorageError: If the folder cannot be read.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        private = load_pem_private_key(key.encode(), password=None)
    except (TypeError, ValueError) as trouble:  # TypeError: it is encrypted
        raise _no_key("TRIPCAST_SIGNING_KEY", "openssl genpkey -algorithm ed25519") from trouble
    if not isinstance(private, Ed25519PrivateKey):
        raise _no_key("TRIPCAST_SIGNING_KEY", "openssl genpkey -algorithm ed25519")
    return b64encode(private.sign(_message(folder, model))).decode()


def verify(folder: Path, model: str, signature: str | None, keys: str) -> None:
    """Refuse a model folder that none of the keys has signed as it is.

    Args:
        folder: The model folder.
        model: The registered model's name, for example ``tripcast-green``.
        signature: As ``sign`` returns it; None if there is none.
        keys: Public Ed25519 keys as PEM, one after the other; any one of them suffices.

    Raises:
        InvalidRequest: If these are no such keys.
        SignatureError: If it is not signed, or its signature is of another folder, another model or another key.
        StorageError: If the folder cannot be read.
    """
    from cryptography.exceptions import InvalidSignature

    trusted = list(_public_keys(keys))
    if not signature:
        raise SignatureError("it is not signed, and TRIPCAST_VERIFY_KEYS asks for that.")
    message = _message(folder, model)
    for key in trusted:
        try:
            key.verify(b64decode(signature, validate=True), message)
        except (InvalidSignature, NotBase64):
            continue
        return
    raise SignatureError("its files are not those that were signed, or no key of TRIPCAST_VERIFY_KEYS signed them.")


def _message(folder: Path, model: str) -> bytes:
    """What is signed: the model's name, and each file's name and SHA-256."""
    with storage_errors(folder):
        files = sorted(file for file in folder.rglob("*") if not file.is_dir())
        lines = [f"{sha256(file.read_bytes()).hexdigest()} {file.relative_to(folder).as_posix()!r}" for file in files]
    return "\n".join(["tripcast model", repr(model), *lines]).encode()


def _public_keys(text: str) -> Iterator[Ed25519PublicKey]:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    refusal = _no_key("TRIPCAST_VERIFY_KEYS", "openssl pkey -pubout")
    found = _PUBLIC_KEY.findall(text)
    if not found:
        raise refusal
    for pem in found:
        try:
            key = load_pem_public_key(pem.encode())
        except ValueError as trouble:
            raise refusal from trouble
        if not isinstance(key, Ed25519PublicKey):
            raise refusal
        yield key


def _no_key(setting: str, command: str) -> InvalidRequest:
    # Without the value: it may be a secret.
    return InvalidRequest(f"{setting} is no Ed25519 key in PEM, as '{command}' prints it: see docs/signing.md.")

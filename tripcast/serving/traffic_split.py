"""The rollout: which riders the challenger answers.

A rider is given a place between 0 and 1 by a hash, and the challenger answers those below its share. So a rider meets
the same model in every request, process and release, and a larger share only adds riders. The hash is salted with the
challenger's version: the next one is tried on other riders.
"""

from __future__ import annotations

import random
from hashlib import blake2b

_PLACES = 1 << 64


def place(rider_id: str, salt: str) -> float:
    """A rider's place in [0, 1), evenly spread over riders, independent between salts.

    Args:
        rider_id: Any text.
        salt: What the rollout is of, for example ``tripcast-green/3``.
    """
    digest = blake2b(f"{salt}:{rider_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / _PLACES


def takes_part(rider_id: str | None, share: float, salt: str) -> bool:
    """Whether the challenger is to answer.

    Args:
        rider_id: Who asks; None is decided by chance, each time anew.
        share: The challenger's share of the riders, 0 to 1.
        salt: What the rollout is of.
    """
    if share <= 0.0:
        return False
    return (random.random() if rider_id is None else place(rider_id, salt)) < share

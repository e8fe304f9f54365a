"""The one HTTP session of the library: it tries again what may succeed in a moment, and does not wait for ever."""

from __future__ import annotations

import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

#: Answers of servers that may answer better in a moment.
_TRY_AGAIN = (429, 500, 502, 503, 504)

#: Seconds before the second repetition, which then double; the first is at once.
_PAUSE = 0.5


def http_session(retries: int, longest_wait: int, *, sends: bool = False) -> requests.Session:
    """A session that repeats requests that failed.

    Args:
        retries: How often, at most.
        longest_wait: Seconds, at most, that a server may ask to wait with Retry-After.
        sends: Whether messages are sent (POST), which have arrived if only the answer is late: they are not repeated
            for that, and the last answer is returned whatever it says. Otherwise only what changes nothing is repeated.
    """
    patience = Retry(
        retries,
        read=0 if sends else None,
        allowed_methods=("POST",) if sends else Retry.DEFAULT_ALLOWED_METHODS,
        status_forcelist=_TRY_AGAIN,
        backoff_factor=_PAUSE,
        raise_on_status=not sends,
        retry_after_max=longest_wait,
    )
    session = requests.Session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(max_retries=patience))
    return session

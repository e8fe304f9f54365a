"""Alerts: tell people what is wrong, once per incident, in the log and by a webhook.

An alert is first put in the *outbox*, a store, and then sent; what was sent is noted there, too. So a webhook that does
not answer fails nothing: the alert waits, and goes out with the next call, from this process or another. ::

    alerts/waiting/{key}.json    every alert there ever was
    alerts/sent/{key}.json       those that the webhook has taken

A repeated alert, known by its key, does nothing. Only a process that dies between the webhook's answer and the note
of it makes an alert go out twice; the other way round, it would be lost.

The webhook's address is a secret, for whoever has it can write to the channel. It is read from the environment and
appears in no message, no error and no file.

Source:
    Slack, Sending messages using incoming webhooks, and Formatting text for app surfaces (the JSON, its escapes and
    limits); Mattermost, Discord (at ``/slack``) and others take the same.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import msgspec
import requests

from tripcast.errors import StorageError
from tripcast.http import http_session

if TYPE_CHECKING:
    from tripcast.storage.store import Store

logger = logging.getLogger(__name__)

#: The environment variable that holds the webhook's address.
WEBHOOK = "TRIPCAST_ALERT_WEBHOOK"

#: Seconds to wait for a connection, and for the answer.
_TIMEOUT = (5.0, 10.0)

#: How often an alert is sent again in one call.
_RETRIES = 3

#: The longest wait, in seconds, that a server may ask for with Retry-After.
_LONGEST_WAIT = 30

#: Slack refuses longer sections.
_LONGEST_TEXT = 3000


@dataclass(frozen=True)
class Alert:
    """Something that people have to know.

    Attributes:
        key: The incident: an alert goes out once for each. For example ``green/error/v3/2021-06``.
        what: What is wrong, as a sentence.
        since: When it began, for people: a month or a moment.
        how_bad: How bad it is, as a sentence.
        link: Where to read more, a URL or a path; None if there is nothing.
    """

    key: str
    what: str
    since: str
    how_bad: str
    link: str | None = None

    def message(self) -> dict[str, Any]:
        """What the webhook is sent: Slack's JSON, with the same in plain text for notifications."""
        text = f"{self.what} Since {self.since}. {self.how_bad}"
        details = [f"*Since* {_escape(self.since)}", _escape(self.how_bad)]
        if self.link:
            details.append(_escape(self.link))
        return {
            "text": _escape(text),
            "blocks": [_section(f"*{_escape(self.what)}*"), _section("\n".join(details))],
        }


@dataclass(frozen=True)
class Delivery:
    """What became of the alerts.

    Attributes:
        sent: Keys of those that the webhook took now, earlier ones that had waited among them.
        waiting: Keys of those that it has not taken yet.
    """

    sent: tuple[str, ...]
    waiting: tuple[str, ...]


def webhook_address() -> str | None:
    """The webhook's address, a secret: ``TRIPCAST_ALERT_WEBHOOK``; None if there is none."""
    return os.environ.get(WEBHOOK) or None


def send(alerts: Sequence[Alert], webhook: str | None, outbox: Store) -> Delivery:
    """Tell people about incidents that they have not been told about, and about those that still wait.

    Each new alert is logged. Whatever the webhook does, nothing is raised: what it does not take waits.

    Args:
        alerts: The incidents; those that were sent before are passed over.
        webhook: Its address, see ``webhook_address``; None keeps all waiting.
        outbox: What remembers them.

    Raises:
        StorageError: If the outbox cannot be read or written.
    """
    known = set(_keys(outbox, "waiting"))
    for alert in alerts:
        if _name(alert.key) not in known:
            _keep(outbox, "waiting", alert)
            known.add(_name(alert.key))
            logger.warning("%s Since %s. %s %s", alert.what, alert.since, alert.how_bad, alert.link or "")
    sent: list[str] = []
    due = [_load(outbox, name) for name in sorted(known - set(_keys(outbox, "sent")))]
    waiting = [alert.key for alert in due]
    if webhook is None:
        return Delivery((), tuple(waiting))
    with http_session(_RETRIES, _LONGEST_WAIT, sends=True) as session, _quiet_urllib3():
        for alert in due:
            trouble, answers = _post(session, webhook, alert)
            if trouble is None:
                _keep(outbox, "sent", alert)
                sent.append(alert.key)
                waiting.remove(alert.key)
                continue
            logger.warning("The alert %s waits, and is sent with the next ones: the webhook %s.", alert.key, trouble)
            if not answers:  # it would keep us waiting for each of the others, too
                break
    return Delivery(tuple(sent), tuple(waiting))


def was_raised(key: str, outbox: Store) -> bool:
    """Whether an alert was raised before, and is sent or waits.

    Raises:
        StorageError: If the outbox cannot be read.
    """
    return _name(key) in _keys(outbox, "waiting")


def _post(session: requests.Session, webhook: str, alert: Alert) -> tuple[str | None, bool]:
    """Send an alert.

    Returns:
        What the webhook did instead of taking it, None if it took it; and whether it is worth sending it others.
    """
    try:
        # Redirects are not followed: the address is a secret, and nobody else's business.
        with session.post(webhook, json=alert.message(), timeout=_TIMEOUT, allow_redirects=False) as answer:
            if answer.status_code // 100 == 2:
                return None, True
            return f"answered {answer.status_code}", answer.status_code < 500
    except (requests.RequestException, ValueError) as trouble:  # urllib3's LocationParseError is a ValueError
        # Its message would name the address.
        return f"did not answer ({type(trouble).__name__})", False


@contextmanager
def _quiet_urllib3() -> Iterator[None]:
    """Keep urllib3 from logging the address, which it does at each retry; other threads may log as they like."""
    here = threading.get_ident()

    def elsewhere(record: logging.LogRecord) -> bool:
        return record.thread != here

    noisy = [logging.getLogger(f"urllib3.{name}") for name in ("connectionpool", "util.retry")]
    for each in noisy:
        each.addFilter(elsewhere)
    try:
        yield
    finally:
        for each in noisy:
            each.removeFilter(elsewhere)


def _section(text: str) -> dict[str, Any]:
    short = text if len(text) <= _LONGEST_TEXT else f"{text[: _LONGEST_TEXT - 1]}…"
    return {"type": "section", "text": {"type": "mrkdwn", "text": short}}


def _escape(text: str) -> str:
    """Slack's three control characters, which would make links and mentions."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _name(key: str) -> str:
    """A key as a file name."""
    return f"{quote(key, safe='')}.json"


def _keys(outbox: Store, state: str) -> list[str]:
    prefix = f"alerts/{state}/"
    return [key.removeprefix(prefix) for key in outbox.list(prefix)]


def _keep(outbox: Store, state: str, alert: Alert) -> None:
    outbox.write(f"alerts/{state}/{_name(alert.key)}", msgspec.json.encode(alert), "application/json")


def _load(outbox: Store, name: str) -> Alert:
    key = f"alerts/waiting/{name}"
    try:
        return msgspec.json.decode(outbox.read(key), type=Alert)
    except msgspec.MsgspecError as trouble:
        raise StorageError(f"{outbox.uri}/{key} is not an alert ({trouble}). Look at it, then remove it.") from trouble

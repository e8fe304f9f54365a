"""The generated client of Kubeflow Pipelines, with what it lacks: who asks, time limits, errors that say what to do.

Who asks is read from the environment, as kfp's own client does where it has a name for it:

* ``KF_PIPELINES_SA_TOKEN_PATH``: a file with a token. It is read again for every request, since Kubernetes renews it.
* ``KF_PIPELINES_TOKEN``, ``KF_PIPELINES_COOKIE``: a token, or the cookie of a session (``name=value``), as they are.
* ``SSL_CERT_FILE``: certificates to trust instead of the usual ones.
* ``HTTP_PROXY``, ``HTTPS_PROXY``, ``NO_PROXY``: the way out of a network that has one.
* ``KF_PIPELINES_UI_ENDPOINT``: where people see the pages, if that is not where the API is.

None of them is ever part of a message, a run or a parameter.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import kfp_server_api  # type: ignore[import-untyped, unused-ignore]
import urllib3
from kfp_server_api import rest
from requests.adapters import HTTPAdapter
from requests.utils import get_environ_proxies, select_proxy

from tripcast.errors import ClusterError, ClusterUnreachable, InvalidRequest

#: Answers of a server, or of a gateway before it, that is not there at the moment.
_NOT_NOW = (429, 502, 503, 504)

#: Seconds to connect, and to wait for an answer.
_TIMEOUT = (5, 60)


class Client(kfp_server_api.ApiClient):  # type: ignore[misc, unused-ignore]
    """The generated client, with what it lacks: time limits, and errors that say what to do.

    It would follow a redirect to a login page, and take that page for an empty answer.
    """

    def __init__(self, endpoint: str) -> None:
        self.token_file = os.environ.get("KF_PIPELINES_SA_TOKEN_PATH") or None
        configuration = kfp_server_api.Configuration(host=endpoint)
        configuration.retries = urllib3.Retry(0, redirect=False)
        configuration.ssl_ca_cert = os.environ.get("SSL_CERT_FILE") or None
        if proxy := select_proxy(endpoint, get_environ_proxies(endpoint)):
            configuration.proxy, configuration.proxy_headers = proxy, HTTPAdapter().proxy_headers(proxy)
        token = _header("KF_PIPELINES_TOKEN", os.environ.get("KF_PIPELINES_TOKEN", ""))
        if self.token_file:
            configuration.refresh_api_key_hook = self._read_token
        if self.token_file or token:
            configuration.api_key["authorization"] = token
            configuration.api_key_prefix["authorization"] = "Bearer"
        cookie = _header("KF_PIPELINES_COOKIE", os.environ.get("KF_PIPELINES_COOKIE", ""))
        super().__init__(configuration, cookie=cookie or None)

    def _read_token(self, configuration: Any) -> None:
        assert self.token_file is not None
        try:
            token = Path(self.token_file).read_text()
        except OSError as trouble:
            raise ClusterError(
                f"The token for Kubeflow Pipelines cannot be read from {self.token_file} ({trouble.strerror}). "
                "Correct KF_PIPELINES_SA_TOKEN_PATH."
            ) from trouble
        except UnicodeDecodeError:
            raise _no_header("KF_PIPELINES_SA_TOKEN_PATH") from None
        configuration.api_key["authorization"] = _header("KF_PIPELINES_SA_TOKEN_PATH", token)

    def request(self, method: str, url: str, **options: Any) -> Any:
        """See ``kfp_server_api.ApiClient``."""
        response = self._ask(method, url, **options)
        if "json" not in (response.getheader("content-type") or ""):
            raise self._no_api(200)
        return response

    def text(self, path: str, query: Mapping[str, str]) -> str:
        """A text that the server has, a log."""
        headers: dict[str, str] = dict(self.default_headers)
        if self.cookie:
            headers["Cookie"] = self.cookie
        self.update_params_for_auth(headers, [], ["Bearer"])
        response = self._ask("GET", self.configuration.host + path, headers=headers, query_params=list(query.items()))
        return str(response.data.decode(errors="replace"))

    def _ask(self, method: str, url: str, **options: Any) -> Any:
        options["_request_timeout"] = options.get("_request_timeout") or _TIMEOUT
        try:
            return super().request(method, url, **options)
        except rest.ApiException as answer:
            if answer.status:
                raise self._refusal(answer) from None
            raise self._not_trusted(answer.reason) from None
        except urllib3.exceptions.MaxRetryError as trouble:
            if isinstance(trouble.reason, urllib3.exceptions.SSLError):
                raise self._not_trusted(trouble.reason) from None
            raise self._no_answer(trouble.reason) from None
        except urllib3.exceptions.HTTPError as trouble:
            raise self._no_answer(trouble) from None

    def _no_answer(self, trouble: object) -> ClusterUnreachable:
        return ClusterUnreachable(
            f"Kubeflow Pipelines at {self.configuration.host} does not answer ({_brief(trouble)}). Check the address "
            "and that the cluster is up; for one without an address of its own: "
            "kubectl port-forward --namespace kubeflow service/ml-pipeline-ui 8888:80."
        )

    def _not_trusted(self, trouble: object) -> ClusterError:
        return ClusterError(
            f"The certificate of {self.configuration.host} is not trusted ({_brief(trouble)}). Name the file of the "
            "authority that signed it in SSL_CERT_FILE."
        )

    def _no_api(self, status: int) -> ClusterError:
        return ClusterError(
            f"{self.configuration.host} answers with a page instead of Kubeflow Pipelines' API: a login page, or "
            "another service. Give a token or your session (KF_PIPELINES_TOKEN, KF_PIPELINES_COOKIE), or go past the "
            "login: kubectl port-forward --namespace kubeflow service/ml-pipeline-ui 8888:80.",
            status,
        )

    def _refusal(self, answer: Any) -> ClusterError:
        """What an answer that is no success means."""
        status, host, said = answer.status, self.configuration.host, _message(answer.body)
        if status in _NOT_NOW:
            return ClusterUnreachable(
                f"Kubeflow Pipelines at {host} cannot answer now (HTTP {status}). Check its pods: "
                "kubectl get pods --namespace kubeflow.",
                status,
            )
        if status == 401:
            return ClusterError(
                f"Kubeflow Pipelines at {host} does not accept who asks (HTTP 401): the token or session is missing, "
                "wrong or has expired. Set KF_PIPELINES_SA_TOKEN_PATH, KF_PIPELINES_TOKEN or KF_PIPELINES_COOKIE.",
                status,
            )
        if status == 403:
            return ClusterError(
                f"Kubeflow Pipelines at {host} does not permit this (HTTP 403): {said or 'it gives no reason'}. Check "
                "the namespace, and the rights of your account in it.",
                status,
            )
        if 300 <= status < 400 or said is None:
            return self._no_api(status)
        return ClusterError(f"Kubeflow Pipelines at {host} refuses (HTTP {status}): {said}.", status)


def _header(variable: str, value: str) -> str:
    """A secret as it goes into a header: without the line break that files and clipboards add.

    Raises:
        InvalidRequest: If something that no header may have is in the middle of it. It is not shown.
    """
    value = value.strip()
    if not (value.isascii() and value.isprintable()):
        raise _no_header(variable)
    return value


def _no_header(variable: str) -> InvalidRequest:
    return InvalidRequest(
        f"What {variable} holds or names is no token or cookie: it has line breaks or odd signs in it."
    )


def _message(body: str | bytes | None) -> str | None:
    """The server's own words in an answer; None if they are not those of its API."""
    text = (body.decode(errors="replace") if isinstance(body, bytes) else body or "").strip()
    try:
        answer = json.loads(text)
    except ValueError:
        # An authorization proxy says 'RBAC: access denied', and nothing else.
        return None if not text or text.startswith("<") else text.rstrip(".")
    if not isinstance(answer, dict):
        return None
    # The details have the words that are meant for people, without the calls that led there.
    said = [detail.get("message") for detail in answer.get("details") or [] if isinstance(detail, dict)]
    said += [answer.get("message"), answer.get("error_message"), answer.get("error")]
    # Some answers have the server's stack below the first line.
    return next((str(words).splitlines()[0].rstrip(".") for words in said if words and str(words).strip()), None)


def _brief(trouble: object) -> str:
    """The gist of urllib3's nested messages."""
    return str(trouble).rpartition("): ")[2].partition(" (_ssl.c")[0] or type(trouble).__name__

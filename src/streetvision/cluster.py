"""The Kubernetes API: how it is reached, and what it refuses in one sentence."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast
from urllib.parse import urlencode

import yaml
from kubernetes import client, config
from urllib3 import Retry, Timeout
from urllib3.exceptions import HTTPError

from streetvision.errors import ClusterError, SettingsError

_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_TIMEOUT = Timeout(connect=5.0, read=20.0)
_RETRIES = Retry(2, allowed_methods={"GET"}, backoff_factor=0.2)  # what was sent may have been done

Body = dict[str, Any]  # a Kubernetes object as the API writes it


@dataclass(frozen=True, slots=True)
class Cluster:
    """One Kubernetes API server and who we are to it.

    Attributes:
        namespace: ours, where none is named.
        inside: whether we run in a pod of it, where names of Services can be resolved.
    """

    _api: Any
    namespace: str
    inside: bool

    @classmethod
    def connect(cls) -> Self:
        """The cluster of `$KUBECONFIG`, else the one whose pod we are, else that of `~/.kube/config`.

        Raises:
            SettingsError: there is none of them, or it cannot be used.
        """
        settings: Any = client.Configuration()
        try:
            if not os.environ.get("KUBECONFIG") and (_ACCOUNT / "token").exists():
                config.load_incluster_config(client_configuration=settings)
                namespace = os.environ.get("POD_NAMESPACE") or (_ACCOUNT / "namespace").read_text().strip()
                return cls(client.ApiClient(settings), namespace, inside=True)
            file = os.environ.get("KUBECONFIG") or None  # of now: the library looks once, at its import
            config.load_kube_config(file, client_configuration=settings)
            context: Body = config.list_kube_config_contexts(file)[1]["context"]
        except (config.ConfigException, yaml.YAMLError, OSError, ValueError, KeyError, TypeError) as err:
            raise SettingsError(
                f"no Kubernetes cluster can be reached from here: {' '.join(str(err).split()).rstrip('.')}",
                hint="run it in a pod, or name a file by $KUBECONFIG",
            ) from err
        return cls(client.ApiClient(settings), context.get("namespace") or "default", inside=False)

    def close(self) -> None:
        """Hangs up."""
        self._api.rest_client.pool_manager.clear()

    def get(self, path: str, **query: str) -> Body:
        """What lies at a path of the API.

        Raises:
            ClusterError: it refuses, has no such thing (status 404) or is out of reach.
        """
        return json.loads(self._ask("GET", path, query=query))

    def find(self, path: str, **query: str) -> Body | None:
        """What lies at a path, or nothing where there is no such thing.

        Raises:
            ClusterError: it refuses or is out of reach.
        """
        try:
            return self.get(path, **query)
        except ClusterError as err:
            if err.status == 404:
                return None
            raise

    def create(self, path: str, body: Body) -> Body:
        """The new object as it is kept.

        Raises:
            ClusterError: it refuses, the name is taken (status 409), or it is out of reach.
        """
        return json.loads(self._ask("POST", path, body=body))

    def replace(self, path: str, body: Body) -> Body:
        """The object as it is kept now.

        Raises:
            ClusterError: it refuses, somebody else replaced it since `resourceVersion` (status 409), or it is out of
                reach.
        """
        return json.loads(self._ask("PUT", path, body=body))

    def text(self, path: str, **query: str) -> str:
        """A log, or what a Service answers through the API server.

        Raises:
            ClusterError: it refuses, has no such thing (status 404) or is out of reach.
        """
        return self._ask("GET", path, query=query).decode(errors="replace")

    def _ask(
        self, method: str, path: str, *, query: Mapping[str, str] | None = None, body: Body | None = None
    ) -> bytes:
        headers = {"Accept": "application/json, */*", "Content-Type": "application/json"}
        # The library's own calls trip over urllib3 on every refusal, so it only lends its keys and connections.
        self._api.update_params_for_auth(headers, [], ["BearerToken"])
        url = self._api.configuration.host + path + (f"?{urlencode(query)}" if query else "")
        try:
            answer = self._api.rest_client.pool_manager.request(
                method,
                url,
                headers=headers,
                body=None if body is None else json.dumps(body),
                timeout=_TIMEOUT,
                retries=_RETRIES,
            )
        except HTTPError as err:
            raise ClusterError(
                f"the Kubernetes API `{self._api.configuration.host}` cannot be reached: {_reason(err)}",
                hint="check that the cluster is up and that $KUBECONFIG names it",
            ) from err
        if not 200 <= answer.status <= 299:
            raise _refusal(method, path, answer.status, answer.data)
        return cast(bytes, answer.data)


def _refusal(method: str, path: str, status: int, data: bytes) -> ClusterError:
    try:
        said = str(json.loads(data)["message"])
    except (ValueError, KeyError, TypeError):
        said = data.decode(errors="replace")[:200] or "no reason given"
    hint = "give this ServiceAccount or person that right (Role and RoleBinding)" if status == 403 else None
    return ClusterError(
        f"the Kubernetes API answered {method} `{path}` with {status}: {said}", hint=hint, status=status
    )


def _reason(err: HTTPError) -> str:
    cause = getattr(err, "reason", None) or err  # what made the last try fail
    return (str(cause).rpartition(": ")[2] or type(cause).__name__).splitlines()[0]

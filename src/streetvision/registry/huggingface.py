"""The hub on huggingface.co, or on any server that speaks its protocol."""

import os
import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx2
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import disable_progress_bars

from streetvision.errors import HubError
from streetvision.registry.hub import Commit, Files, compare, moved_on, sha256_of

disable_progress_bars()

_FAILURES = (
    httpx2.HTTPError,  # out of reach, or an answer that says no
    OSError,  # an answer without the hub's headers
    RuntimeError,  # the upload of one file; the reason is its cause
    *(ValueError, KeyError, TypeError, AttributeError),  # an answer that is not the hub's JSON, such as a login page
)
_KEPT = ".gitattributes"  # the hub's own: says which files are large


class HuggingFaceHub:
    """A model repository on a Hugging Face hub.

    Files go by the hub's HTTP upload (git LFS), not by Xet: the same requests then reach mirrors and tests.

    Args:
        repo_id: `owner/name`.
        endpoint: base URL of the hub; huggingface.co, or `HF_ENDPOINT`, by default.
        token_env: name of the environment variable that holds the token, which is read at each call and never kept.
        private: whether a repository that does not exist yet is made private.
    """

    def __init__(
        self,
        repo_id: str,
        *,
        endpoint: str | None = None,
        token_env: str = "HF_TOKEN",  # noqa: S107 (the name of a variable)
        private: bool = False,
    ) -> None:
        self.repo_id = repo_id
        self._endpoint = endpoint
        self._token_env = token_env
        self._private = private

    def head(self) -> str | None:
        """The newest revision, or nothing where the repository does not exist yet.

        Raises:
            HubError: the hub refused or is out of reach.
        """
        with self._one_sentence("reading"):
            try:
                return self._api().model_info(self.repo_id).sha
            except HfHubHTTPError as err:
                if err.response.status_code == 404:
                    return None
                raise

    def push(self, files: Files, *, message: str, parent: str | None) -> Commit:
        """The commit after which `main` holds exactly `files`, read back and compared by sha256.

        Where `parent` is nothing the repository is created.

        Raises:
            HubError: no token, the hub refused, is out of reach, moved on from `parent`, or what was read back differs.
        """
        if not os.environ.get(self._token_env):
            raise HubError(
                f"environment variable `{self._token_env}` is empty, expected a token that may write `{self.repo_id}`",
                hint="make a fine-grained token with write access to this one repository",
            )
        sha256 = {path: sha256_of(content) for path, content in files.items()}
        api = self._api()
        with self._one_sentence("pushing to"):
            try:
                if parent is None:
                    api.create_repo(self.repo_id, private=self._private)
                    parent = api.model_info(self.repo_id).sha
                commit = api.create_commit(
                    self.repo_id, self._operations(api, files, parent), commit_message=message, parent_commit=parent
                )
            except HfHubHTTPError as err:
                if err.response.status_code in {409, 412}:
                    raise moved_on(self.repo_id, expected=parent, got=self.head()) from err
                raise
        compare(self.repo_id, expected=sha256, got=self._read_back(list(files), commit.oid))
        return Commit(revision=commit.oid, url=commit.commit_url, sha256=sha256)

    def read(self, path: str, revision: str) -> bytes:
        """The content of one file at one revision.

        Raises:
            HubError: there is no such file or revision, or the hub is out of reach.
        """
        with self._one_sentence(f"reading `{path}` from"), tempfile.TemporaryDirectory() as cache:
            return Path(self._download(path, revision, cache)).read_bytes()

    def _api(self) -> HfApi:
        # Read by the client at each upload and download: a process-wide switch, as a client of its own has none.
        constants.HF_HUB_DISABLE_XET = True
        # `False`, not `None`: a token that lies about in the home folder is not meant for this.
        return HfApi(endpoint=self._endpoint, token=os.environ.get(self._token_env) or False)

    def _operations(
        self, api: HfApi, files: Files, parent: str | None
    ) -> list[CommitOperationAdd | CommitOperationDelete]:
        before = {sibling.rfilename for sibling in api.model_info(self.repo_id, revision=parent).siblings or ()}
        return [
            *(CommitOperationAdd(path_in_repo=path, path_or_fileobj=content) for path, content in files.items()),
            *(CommitOperationDelete(path_in_repo=path) for path in sorted(before - files.keys() - {_KEPT})),
        ]

    def _read_back(self, paths: Sequence[str], revision: str) -> dict[str, str]:
        with self._one_sentence("reading back from"), tempfile.TemporaryDirectory() as cache:
            return {path: sha256_of(Path(self._download(path, revision, cache))) for path in paths}

    def _download(self, path: str, revision: str, cache: str) -> str:
        return self._api().hf_hub_download(  # pyright: ignore[reportUnknownMemberType]
            self.repo_id, path, revision=revision, cache_dir=cache
        )

    @contextmanager
    def _one_sentence(self, doing: str) -> Generator[None]:
        """Turns whatever the client raises into one sentence that names no token."""
        try:
            yield
        except HubError:
            raise
        except _FAILURES as err:
            raise self._hub_error(doing, err) from err

    def _hub_error(self, doing: str, err: BaseException) -> HubError:
        what = f"{doing} `{self.repo_id}`"
        answer = _answer(err)
        if answer is None:
            root = err
            while root.__cause__ is not None:
                root = root.__cause__
            reason = (str(root).splitlines() or [type(root).__name__])[0].rstrip(".")
            return HubError(
                f"{what} failed: `{self._endpoint or constants.ENDPOINT}` gave no usable answer: {reason}",
                hint="check the address, the network and any proxy, then run it again",
            )
        status = answer.response.status_code
        match status:
            case 401:
                why = f"the token in `{self._token_env}` is missing or not accepted"
                hint = "make a new token with write access to this repository"
            case 403:
                why = f"the token in `{self._token_env}` lacks the right"
                hint = "give the token write access to this repository"
            case 404:
                why, hint = "there is no such repository, revision or file", "check the name of the repository"
            case 429 | 500 | 502 | 503 | 504:
                why, hint = "the hub is overloaded or down", "run it again later"
            case _:
                why = (answer.server_message or "the hub gives no reason").splitlines()[0].rstrip(".")
                hint = None
        return HubError(f"{what} failed: {why} (HTTP {status})", hint=hint)


def _answer(err: BaseException | None) -> HfHubHTTPError | None:
    """The HTTP answer behind an error, which uploads wrap."""
    while err is not None and not isinstance(err, HfHubHTTPError):
        err = err.__cause__ or err.__context__
    return err

"""A small hub that speaks the upload protocol of huggingface_hub 2.4: create, preupload, LFS, commit, resolve.

It checks what the real one checks: the token, the parent of a commit, that an LFS object was uploaded with its sha256
and size before a commit names it, and that a README's front matter is YAML.
"""

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import yaml

LFS_ABOVE = 1000  # bytes; the real hub goes by size and .gitattributes


@dataclass
class Revision:
    parent: str | None
    message: str
    files: dict[str, bytes]


@dataclass
class Repository:
    private: bool
    revisions: dict[str, Revision] = field(default_factory=dict)
    main: str = ""

    def commit(self, message, files):
        parent = self.main or None
        content = [(path, hashlib.sha256(data).hexdigest()) for path, data in sorted(files.items())]
        self.main = hashlib.sha1(repr((parent, message, content)).encode()).hexdigest()
        self.revisions[self.main] = Revision(parent, message, files)
        return self.main


class HubServer:
    """The hub on a free port of this machine; `token` may write.

    `faults` maps the start of a path to answers (status, body, content type) that are given instead, one a request.
    """

    def __init__(self, token="hf_right"):
        self.token = token
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.faults: dict[str, list[tuple[int, bytes, str]]] = {}
        self.corrupt: set[str] = set()  # paths that are answered altered
        self.lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def url(self):
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *exc):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class Refused(Exception):
    def __init__(self, status, message, code=None):
        super().__init__(message)
        self.status, self.message, self.code = status, message, code


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each answer waits 40 ms for the client's acknowledgement
    wbufsize = -1

    def log_message(self, *args):
        pass

    def do_GET(self):
        self._route("GET")

    def do_HEAD(self):
        self._route("HEAD")

    def do_POST(self):
        self._route("POST")

    def do_PUT(self):
        self._route("PUT")

    def _route(self, method):
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            self.body = self._chunks()
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{method} {path}")
        for start, answers in self.hub.faults.items():
            if path.startswith(start) and answers:
                return self._answer(*answers.pop(0))
        try:
            for verb, pattern, handle in _ROUTES:
                if verb in (method, "GET" if method == "HEAD" else method) and (found := re.fullmatch(pattern, path)):
                    with self.hub.lock:
                        return handle(self, *found.groups())
            raise Refused(404, f"no such route: {method} {path}")
        except Refused as refused:
            headers = {"X-Error-Message": refused.message} | ({"X-Error-Code": refused.code} if refused.code else {})
            return self._answer(refused.status, json.dumps({"error": refused.message}).encode(), headers=headers)

    def _chunks(self):
        data = b""
        while size := int(self.rfile.readline(), 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return data

    def _answer(self, status, body=b"", content_type="application/json", headers=()):
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _json(self, value):
        self._answer(200, json.dumps(value).encode())

    def _writer(self):
        given = self.headers.get("Authorization")
        if given is None:
            raise Refused(401, "Invalid username or password.")
        if given != f"Bearer {self.hub.token}":
            raise Refused(401, "Invalid credentials in Authorization header")

    def _repository(self, repo_id):
        repository = self.hub.repositories.get(repo_id)
        if repository is None:
            raise Refused(404, "Repository not found", "RepoNotFound")
        return repository

    def _revision(self, repo_id, revision):
        repository = self._repository(repo_id)
        oid = repository.main if revision in (None, "main") else revision
        if oid not in repository.revisions:
            raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return oid, repository.revisions[oid]

    def create(self):
        self._writer()
        asked = json.loads(self.body)
        repo_id = f"{asked['organization']}/{asked['name']}"
        if repo_id in self.hub.repositories:
            raise Refused(409, "You already created this model repo")
        repository = Repository(private=asked.get("visibility") == "private")
        repository.commit("initial commit", {".gitattributes": b"*.onnx filter=lfs diff=lfs merge=lfs -text\n"})
        self.hub.repositories[repo_id] = repository
        self._json({"url": f"{self.hub.url}/{repo_id}"})

    def info(self, repo_id, revision=None):
        oid, found = self._revision(repo_id, revision)
        siblings = [{"rfilename": path} for path in sorted(found.files)]
        self._json({"id": repo_id, "modelId": repo_id, "sha": oid, "private": False, "tags": [], "siblings": siblings})

    def validate_yaml(self):
        text = json.loads(self.body)["content"]
        front = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
        if front is None:
            return self._json({"errors": [], "warnings": [{"message": "empty or missing yaml metadata in repo card"}]})
        try:
            metadata = yaml.safe_load(front[1])
            metadata["license"], metadata["pipeline_tag"]
        except (yaml.YAMLError, KeyError, TypeError) as err:
            return self._answer(400, json.dumps({"errors": [{"message": str(err)}]}).encode())
        return self._json({"errors": [], "warnings": []})

    def preupload(self, repo_id, revision):
        self._writer()
        self._revision(repo_id, revision)
        files = []
        for asked in json.loads(self.body)["files"]:
            base64.b64decode(asked["sample"], validate=True)
            mode = "lfs" if asked["size"] > LFS_ABOVE else "regular"
            files.append({"path": asked["path"], "uploadMode": mode, "shouldIgnore": False})
        self._json({"files": files})

    def lfs_batch(self, repo_id):
        self._writer()
        self._repository(repo_id)
        asked = json.loads(self.body)
        if asked["operation"] != "upload" or "basic" not in asked["transfers"] or asked["hash_algo"] != "sha256":
            raise Refused(422, "unknown LFS request")
        objects = []
        for one in asked["objects"]:
            answer = {"oid": one["oid"], "size": one["size"]}
            if one["oid"] not in self.hub.objects:
                upload = {"href": f"{self.hub.url}/lfs/{one['oid']}?size={one['size']}"}
                verify = {"href": f"{self.hub.url}/api/verify"}
                answer |= {"authenticated": True, "actions": {"upload": upload, "verify": verify}}
            objects.append(answer)
        self._json({"transfer": "basic", "objects": objects})

    def lfs_put(self, oid):
        if hashlib.sha256(self.body).hexdigest() != oid or f"size={len(self.body)}" not in self.path:
            raise Refused(400, "the object is not what was announced")
        self.hub.objects[oid] = self.body
        self._answer(200)

    def verify(self):
        asked = json.loads(self.body)
        if len(self.hub.objects.get(asked["oid"], b"")) != asked["size"]:
            raise Refused(404, "no such object")
        self._json({})

    def commit(self, repo_id, revision):
        self._writer()
        repository = self._repository(repo_id)
        oid, before = self._revision(repo_id, revision)
        lines = [json.loads(line) for line in self.body.splitlines()]
        header = lines[0]["value"]
        if lines[0]["key"] != "header" or header.get("parentCommit", oid) != oid:
            raise Refused(412, "A commit has happened since. Please refresh and try again.")
        files = dict(before.files)
        for line in lines[1:]:
            value = line["value"]
            match line["key"]:
                case "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile":
                    data = self.hub.objects.get(value["oid"])
                    if data is None or len(data) != value["size"]:
                        raise Refused(400, f"LFS object {value['oid']} was not uploaded")
                    files[value["path"]] = data
                case "deletedFile":
                    del files[value["path"]]
                case other:
                    raise Refused(400, f"unknown operation {other}")
        new = repository.commit(header["summary"], files)
        self._json({"success": True, "commitOid": new, "commitUrl": f"{self.hub.url}/{repo_id}/commit/{new}"})

    def resolve(self, repo_id, revision, path):
        oid, found = self._revision(repo_id, revision)
        if path not in found.files:
            raise Refused(404, "Entry not found", "EntryNotFound")
        data = found.files[path]
        headers = {"X-Repo-Commit": oid, "ETag": f'"{hashlib.sha256(data).hexdigest()}"'}
        if path in self.hub.corrupt:
            data = data[:-1] + b"!"
        self._answer(200, data, "application/octet-stream", headers)


_ID = r"([^/]+/[^/]+)"
_ROUTES = [
    ("POST", "/api/repos/create", _Handler.create),
    ("POST", "/api/validate-yaml", _Handler.validate_yaml),
    ("POST", "/api/verify", _Handler.verify),
    ("GET", f"/api/models/{_ID}", _Handler.info),
    ("GET", f"/api/models/{_ID}/revision/([^/]+)", _Handler.info),
    ("POST", f"/api/models/{_ID}/preupload/([^/]+)", _Handler.preupload),
    ("POST", f"/api/models/{_ID}/commit/([^/]+)", _Handler.commit),
    ("POST", rf"/{_ID}\.git/info/lfs/objects/batch", _Handler.lfs_batch),
    ("PUT", "/lfs/([0-9a-f]{64})", _Handler.lfs_put),
    ("GET", f"/{_ID}/resolve/([^/]+)/(.+)", _Handler.resolve),
]

"""A server on this machine that speaks the part of the Hub's API that an upload and a download need, and fails where it is told to.

Written from the requests that huggingface_hub 2.4 makes. `faults` maps a route to what happens instead of an answer: a status, or "cut", which
reads half of the request and closes the connection. A commit is a mapping of paths to bytes, and is there as a whole.
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

LFS = (".safetensors", "tokenizer.json")


@dataclass
class Repo:
    private: bool
    gated: bool = False
    branches: dict[str, list[dict[str, bytes]]] = field(
        default_factory=lambda: {"main": [{".gitattributes": b"*.safetensors filter=lfs\n"}]}
    )

    def files(self, revision: str) -> dict[str, bytes]:
        return self.branches[revision][-1] if revision in self.branches else self._commits()[revision]

    def has(self, revision: str) -> bool:
        return revision in self.branches or revision in self._commits()

    def _commits(self) -> dict[str, dict[str, bytes]]:
        return {sha(commit): commit for history in self.branches.values() for commit in history}


def sha(files: dict[str, bytes]) -> str:
    return hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()


class Hub(ThreadingHTTPServer):
    """Serves on a free port while it is entered."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.endpoint = f"http://127.0.0.1:{self.server_address[1]}"
        self.repos: dict[str, Repo] = {}
        self.blobs: dict[str, bytes] = {}
        self.faults: dict[str, int | str] = {}
        self.seen: list[str] = []

    def __enter__(self) -> "Hub":
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, request, client_address) -> None:
        """A client that went away is no error of the server's."""


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # an answer in one packet: the second of two waits 40 ms for the first
    server: Hub
    ROUTES = (
        ("POST", r"/api/repos/create", "create"),
        ("DELETE", r"/api/repos/delete", "delete"),
        ("GET", r"/api/whoami-v2", "whoami"),
        ("POST", r"/api/validate-yaml", "validate"),
        ("POST", r"/api/models/(?P<repo>.+?)/preupload/(?P<revision>[^/]+)", "preupload"),
        ("POST", r"/api/models/(?P<repo>.+?)/commit/(?P<revision>[^/]+)", "commit"),
        ("POST", r"/api/models/(?P<repo>.+?)/branch/(?P<branch>[^/]+)", "branch"),
        ("DELETE", r"/api/models/(?P<repo>.+?)/branch/(?P<branch>[^/]+)", "unbranch"),
        ("GET", r"/api/models/(?P<repo>.+?)/tree/(?P<revision>[^/]+)(/(?P<path>.+))?", "tree"),
        ("GET", r"/api/models/(?P<repo>.+?)(/revision/(?P<revision>[^/]+))?", "info"),
        ("POST", r"/(?P<repo>.+?)\.git/info/lfs/objects/batch", "batch"),
        ("PUT", r"/lfs/(?P<oid>\w+)", "upload"),
        ("GET|HEAD", r"/(?P<repo>.+?)/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "resolve"),
    )

    def answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        for verb, pattern, route in self.ROUTES:
            if re.fullmatch(verb, self.command) and (found := re.fullmatch(pattern, path)):
                self.server.seen.append(route)
                fault, size = self.server.faults.get(route), int(self.headers.get("Content-Length") or 0)
                if fault == "cut":
                    self.rfile.read(size // 2)
                    self.close_connection = True
                    return None
                body = self.rfile.read(size)
                if isinstance(fault, int):
                    return self.send(fault, {"error": f"said no ({fault})"}, {"Retry-After": "0"})
                repo = found.groupdict().get("repo")
                if repo is not None and repo not in self.server.repos:
                    return self.send(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
                revision = found.groupdict().get("revision")
                if repo is not None and revision is not None and not self.server.repos[repo].has(revision):
                    return self.send(404, {"error": "Invalid rev id"}, {"X-Error-Code": "RevisionNotFound"})
                getattr(self, route)(
                    body, **{key: value or ("main" if key == "revision" else "") for key, value in found.groupdict().items()}
                )
                if fault == "lost":  # done, and nobody hears of it
                    self.close_connection = True
                return None
        return self.send(404, {"error": f"no route {self.command} {path}"})

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = answer

    def send(self, status: int, data=None, headers: dict[str, str] | None = None) -> None:
        if self.server.faults.get(self.server.seen[-1]) == "lost":
            return
        data = data if isinstance(data, bytes) else json.dumps({} if data is None else data).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *args: object) -> None:
        """Nothing: a test says by itself what it saw."""

    def create(self, body: bytes) -> None:
        asked = json.loads(body)
        name = f"{asked['organization'] or 'me'}/{asked['name']}"
        if asked["organization"] not in (None, "me"):
            return self.send(403, {"error": "you may not write there"})
        taken = name in self.server.repos
        self.server.repos.setdefault(name, Repo(asked.get("visibility") == "private"))
        return self.send(409 if taken else 200, {"url": f"{self.server.endpoint}/{name}"})

    def delete(self, body: bytes) -> None:
        asked = json.loads(body)
        del self.server.repos[f"{asked['organization'] or 'me'}/{asked['name']}"]
        self.send(200)

    def whoami(self, body: bytes) -> None:
        self.send(200, {"type": "user", "name": "me", "orgs": [], "auth": {"accessToken": {"role": "write"}}})

    def validate(self, body: bytes) -> None:
        """What the Hub's documentation asks of a card's metadata: a mapping, and a model-index with a name, tasks, datasets and metrics."""
        try:
            _, front, _ = json.loads(body)["content"].split("---\n", 2)
            data = yaml.safe_load(front)
            assert data["base_model_relation"] in ("adapter", "finetune", "merge", "quantized")
            for model in data.get("model-index", []):
                assert model["name"]
                for result in model["results"]:
                    assert result["task"]["type"]
                    assert result["dataset"]["type"]
                    assert result["dataset"]["name"]
                    assert all(isinstance(m["value"], float | int) and m["type"] for m in result["metrics"])
        except (ValueError, KeyError, TypeError, AssertionError) as error:
            return self.send(400, {"errors": [{"message": repr(error)}], "warnings": []})
        return self.send(200, {"errors": [], "warnings": []})

    def branch(self, body: bytes, repo: str, branch: str) -> None:
        branches = self.server.repos[repo].branches
        taken = branch in branches
        branches.setdefault(branch, list(branches["main"]))
        self.send(409 if taken else 200)

    def unbranch(self, body: bytes, repo: str, branch: str) -> None:
        del self.server.repos[repo].branches[branch]
        self.send(200)

    def info(self, body: bytes, repo: str, revision: str) -> None:
        found = self.server.repos[repo]
        files = found.files(revision)
        siblings = [{"rfilename": name} for name in files]
        self.send(200, {"id": repo, "private": found.private, "gated": found.gated, "sha": sha(files), "siblings": siblings})

    def tree(self, body: bytes, repo: str, revision: str, path: str) -> None:
        files = {name: data for name, data in self.server.repos[repo].files(revision).items() if not path or name.startswith(f"{path}/")}
        if path and not files:
            return self.send(404, {"error": "no such folder"}, {"X-Error-Code": "EntryNotFound"})
        return self.send(200, [{"type": "file", "path": n, "size": len(d), "oid": sha({n: d})} for n, d in files.items()])

    def preupload(self, body: bytes, repo: str, revision: str) -> None:
        files = json.loads(body)["files"]
        modes = [{"path": f["path"], "uploadMode": "lfs" if f["path"].endswith(LFS) else "regular", "shouldIgnore": False} for f in files]
        self.send(200, {"files": modes})

    def batch(self, body: bytes, repo: str) -> None:
        objects = json.loads(body)["objects"]
        actions = [{**o, "actions": {"upload": {"href": f"{self.server.endpoint}/lfs/{o['oid']}"}}} for o in objects]
        self.send(200, {"transfer": "basic", "objects": actions})

    def upload(self, body: bytes, oid: str) -> None:
        if hashlib.sha256(body).hexdigest() != oid:
            return self.send(400, {"error": "another file"})
        self.server.blobs[oid] = body
        return self.send(200)

    def commit(self, body: bytes, repo: str, revision: str) -> None:
        history = self.server.repos[repo].branches[revision]
        files = dict(history[-1])
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "deletedFile":
                del files[value["path"]]
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.blobs[value["oid"]]
        history.append(files)
        self.send(200, {"commitUrl": f"{self.server.endpoint}/{repo}/commit/{sha(files)}", "commitOid": sha(files)})

    def resolve(self, body: bytes, repo: str, revision: str, path: str) -> None:
        found = self.server.repos[repo]
        if found.gated:
            return self.send(403, {"error": "gated"}, {"X-Error-Code": "GatedRepo"})
        files = found.files(revision)
        if path not in files:
            return self.send(404, {"error": "no such file"}, {"X-Error-Code": "EntryNotFound"})
        etag = hashlib.sha256(files[path]).hexdigest()
        return self.send(200, files[path], {"ETag": f'"{etag}"', "X-Repo-Commit": sha(files)})

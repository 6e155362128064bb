"""A small Hub over HTTP: the endpoints that huggingface_hub calls to push and to fetch.

Repositories, branches, commits (ndjson), LFS by its basic protocol, downloads. Whatever is sent is
kept as bytes; a token is asked for; `refuse` makes a path answer with an error.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

from alpenglow.release.cards.front_matter import LICENCES

TOKEN = "hf_a_secret_of_the_tests"
LARGE = 5_000
"""Bytes above which this Hub keeps a file in LFS: low, so that tiny models go that way."""

Branch = dict[str, bytes]


@dataclass
class Hub:
    """What the server holds."""

    url: str = ""
    repositories: dict[str, dict[str, Branch]] = field(default_factory=dict)
    """`models/ORG/NAME` -> branch -> file -> bytes."""
    private: dict[str, bool] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    """LFS objects by sha256."""
    refuse: dict[str, tuple[int, str]] = field(default_factory=dict)
    """Part of a path -> status and message."""
    calls: list[str] = field(default_factory=list)

    def oid(self, files: Branch) -> str:
        """Commit of a branch's state."""
        listing = json.dumps({name: hashlib.sha1(data).hexdigest() for name, data in files.items()})
        return hashlib.sha1(listing.encode()).hexdigest()


@contextmanager
def hub() -> Iterator[Hub]:
    """Serve on a free port of the loopback interface."""
    state = Hub()
    handler = type("Bound", (Handler,), {"hub": state})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def _answer(self) -> Any:
        path = unquote(urlsplit(self.path).path)
        self.hub.calls.append(f"{self.command} {path}")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        for part, (status, message) in self.hub.refuse.items():
            if part in path:
                return self._send(status, {"error": message})
        known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if not known and not path.startswith(("/lfs/", "/api/validate-yaml")):
            return self._send(401, {"error": "Invalid credentials in Authorization header"})
        for pattern, method in _ROUTES:
            found = re.fullmatch(pattern, f"{self.command} {path}")
            if found is not None:
                return getattr(self, method)(body, *found.groups())
        return self._send(404, {"error": f"no such endpoint: {self.command} {path}"})

    def _send(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        length = (headers or {}).pop("Content-Length", str(len(data)))
        for key, text in {**(headers or {}), "Content-Length": length}.items():
            self.send_header(key, text)
        if status >= 400 and isinstance(value, dict):
            self.send_header("X-Error-Message", str(value["error"]))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def whoami(self, _: bytes) -> None:
        self._send(200, {"type": "user", "name": "tester", "auth": {}})

    def validate(self, body: bytes) -> None:
        asked = json.loads(body)
        head = re.match(r"---\n(.*?)\n---", asked["content"], re.DOTALL)
        table = yaml.safe_load(head[1]) if head else {}
        errors = []
        licences = table.get("license", "unknown")
        for licence in licences if isinstance(licences, list) else [licences]:
            if licence not in LICENCES:
                errors.append({"message": f'"license" must be one of the list, not {licence}'})
        self._send(400 if errors else 200, {"errors": errors, "warnings": [], "error": "yaml"})

    def create(self, body: bytes) -> None:
        asked = json.loads(body)
        name = f"{asked['organization']}/{asked['name']}"
        key = f"{asked.get('type', 'model')}s/{name}"
        if key in self.hub.repositories:
            return self._send(409, {"error": "exists", "url": f"{self.hub.url}/{name}"})
        self.hub.repositories[key] = {"main": {".gitattributes": b"*.safetensors filter=lfs\n"}}
        self.hub.private[key] = asked.get("visibility") == "private" or bool(asked.get("private"))
        return self._send(200, {"url": f"{self.hub.url}/{name}", "name": name, "id": "1"})

    def branch(self, body: bytes, key: str, name: str) -> None:
        branches = self.hub.repositories[key]
        if name in branches:
            return self._send(409, {"error": "Reference already exists"})
        start = json.loads(body or b"{}").get("startingPoint", "main")
        branches[name] = dict(branches[start])
        return self._send(200, {})

    def preupload(self, body: bytes, key: str, name: str) -> None:
        if name not in self.hub.repositories[key]:
            return self._send(404, {"error": f"Invalid rev id: {name}"})
        modes = [
            {
                "path": each["path"],
                "uploadMode": "lfs" if each["size"] > LARGE else "regular",
                "shouldIgnore": False,
            }
            for each in json.loads(body)["files"]
        ]
        return self._send(200, {"files": modes})

    def batch(self, body: bytes, _: str) -> None:
        objects = []
        for each in json.loads(body)["objects"]:
            told: dict[str, Any] = {"oid": each["oid"], "size": each["size"]}
            if each["oid"] not in self.hub.objects:
                place = f"{self.hub.url}/lfs/{each['oid']}"
                told["actions"] = {"upload": {"href": place}, "verify": {"href": f"{place}/verify"}}
            objects.append(told)
        self._send(200, {"transfer": "basic", "objects": objects})

    def put(self, body: bytes, oid: str) -> None:
        if hashlib.sha256(body).hexdigest() != oid:
            return self._send(422, {"error": "another content"})
        self.hub.objects[oid] = body
        return self._send(200, {})

    def verify(self, body: bytes, oid: str) -> None:
        there = len(self.hub.objects.get(oid, b"")) == json.loads(body)["size"]
        self._send(200 if there else 404, {"error": "no such object"})

    def commit(self, body: bytes, key: str, name: str) -> None:
        files = dict(self.hub.repositories[key][name])
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
            elif entry["key"] == "deletedFile":
                del files[value["path"]]
        self.hub.repositories[key][name] = files
        oid = self.hub.oid(files)
        place = key.removeprefix("models/")
        url = f"{self.hub.url}/{place}/commit/{oid}"
        self._send(200, {"commitUrl": url, "commitOid": oid})

    def info(self, _: bytes, key: str, name: str | None = None) -> None:
        files = self.hub.repositories.get(key, {}).get(name or "main")
        if files is None:
            code = "RevisionNotFound" if key in self.hub.repositories else "RepoNotFound"
            return self._send(404, {"error": f"{code}: {key} {name}"}, {"X-Error-Code": code})
        names = [{"rfilename": file} for file in files]
        about = {"id": key.partition("/")[2], "sha": self.hub.oid(files), "siblings": names}
        return self._send(200, {**about, "private": False, "tags": []})

    def tree(self, _: bytes, key: str, name: str) -> None:
        files = self._branch(key, name)
        told = [
            {"type": "file", "path": p, "size": len(d), "oid": hashlib.sha1(d).hexdigest()}
            for p, d in files.items()
        ]
        self._send(200, told)

    def resolve(self, _: bytes, name: str, revision: str, file: str) -> None:
        files = self._branch(f"models/{name}", revision)
        if file not in files:
            return self._send(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"})
        data = files[file]
        etag = hashlib.sha256(data).hexdigest()
        headers = {"X-Repo-Commit": self.hub.oid(files), "ETag": f'"{etag}"'}
        return self._send(200, data, headers)

    def _branch(self, key: str, name: str) -> Branch:
        branches = self.hub.repositories[key]
        by_commit = {self.hub.oid(files): files for files in branches.values()}
        return branches[name] if name in branches else by_commit[name]


_REPO = r"((?:models|datasets)/[^/]+/[^/]+)"
_ROUTES = (
    (r"GET /api/whoami-v2", "whoami"),
    (r"POST /api/validate-yaml", "validate"),
    (r"POST /api/repos/create", "create"),
    (rf"POST /api/{_REPO}/branch/(.+)", "branch"),
    (rf"POST /api/{_REPO}/preupload/(.+)", "preupload"),
    (rf"POST /api/{_REPO}/commit/(.+)", "commit"),
    (rf"GET /api/{_REPO}/tree/(.+)", "tree"),
    (rf"GET /api/{_REPO}/revision/(.+)", "info"),
    (rf"GET /api/{_REPO}", "info"),
    (r"POST /(.+)\.git/info/lfs/objects/batch", "batch"),
    (r"PUT /lfs/([0-9a-f]+)", "put"),
    (r"POST /lfs/([0-9a-f]+)/verify", "verify"),
    (r"(?:GET|HEAD) /([^/]+/[^/]+)/resolve/([^/]+)/(.+)", "resolve"),
)

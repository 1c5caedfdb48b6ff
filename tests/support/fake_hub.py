"""A hub of data sets for tests, which the unmodified `huggingface_hub` client talks to.

It keeps repositories in a folder: a client that was killed meets the same hub again, and so
does a hub that is started anew on that folder. It speaks what a publication needs: creating a
repository, uploads by LFS with the digest of every `PUT` checked, commits guarded by their
parent, tags and branches, lists in pages, downloads with a redirect for large files, and
erasure. What goes wrong is named by `Fault`: the step, how, and how often.

    hub = FakeHub(folder)
    with hub.listening():
        hub.faults.append(Fault("commit", "cut after"))
        publish(...)
    assert hub.count("commit") == 1
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_" + "test" * 8
DATE = "2026-01-01T00:00:00.000Z"
PAGE = 3
"""Entries of a page of a list: few, so that readers must ask for the next one."""


@dataclass
class Fault:
    """Something that goes wrong at a step.

    Args:
        step: The step's name in `ROUTES`.
        kind: A status code, or "cut before", "cut after" (the connection, before or after the
            request took effect), "slow", "kill before", "kill after", "half", "flip", "short"
            (half of the bytes, without a length), "parent" (a commit is made, and the answer
            names the one before it).
        times: How many requests meet it.
        skip: How many requests of the step pass before.
        headers: Headers of the answer of a status code.
    """

    step: str
    kind: int | str
    times: int = 1
    skip: int = 0
    headers: dict[str, str] = field(default_factory=dict)


class Reply(NamedTuple):
    """An answer: its status, body and headers."""

    status: int
    body: Any = b""
    headers: dict[str, str] = MappingProxyType({})  # type: ignore[assignment]


class HubError(Exception):
    """An answer that ends the request."""

    def __init__(self, status: int, text: str, code: str = "") -> None:
        super().__init__(text)
        self.status, self.code = status, code


def git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class FakeHub:
    """A hub in a folder.

    Args:
        root: The folder.
        faults: What goes wrong, in order; each is used up.
        victim: The process that "kill before" and "kill after" end.
        delay: Seconds that a slow answer takes.
        before_commit: Called before a commit is looked at: another's commit, for example.
        ignored: The paths that its `.gitignore` matches.

    Attributes:
        log: The steps of all requests, in order.
    """

    root: Path
    faults: list[Fault] = field(default_factory=list)
    victim: int | None = None
    delay: float = 5.0
    before_commit: Callable[[], None] | None = None
    ignored: tuple[str, ...] = ()
    log: list[str] = field(default_factory=list)
    url: str = ""
    _lock: threading.RLock = field(default_factory=threading.RLock)

    # State

    def _state(self, repo: str) -> Path:
        return self.root / "repos" / repo.replace("/", "--") / "state.json"

    def read(self, repo: str) -> dict[str, Any]:
        """A repository: `commits`, `branches`, `tags`."""
        path = self._state(repo)
        if not path.is_file():
            raise HubError(404, "Repository not found", "RepoNotFound")
        state: dict[str, Any] = json.loads(path.read_text("utf-8"))
        return state

    def write(self, repo: str, state: dict[str, Any]) -> None:
        path = self._state(repo)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".new")
        temporary.write_text(json.dumps(state), "utf-8")
        temporary.replace(path)

    def blob(self, sha256: str) -> Path:
        return self.root / "blobs" / sha256

    def keep(self, content: bytes) -> str:
        """Store a content; its digest."""
        sha256 = hashlib.sha256(content).hexdigest()
        self.blob(sha256).parent.mkdir(parents=True, exist_ok=True)
        self.blob(sha256).write_bytes(content)
        return sha256

    def commit_of(self, repo: str, revision: str) -> dict[str, Any]:
        state = self.read(repo)
        oid = {**state["branches"], **state["tags"]}.get(revision, revision)
        for commit in state["commits"]:
            if commit["id"] == oid:
                return dict(commit)
        raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    def tree(self, repo: str, revision: str = "main") -> dict[str, str]:
        """The digest of every file of a revision."""
        return {p: f["sha256"] for p, f in self.commit_of(repo, revision)["tree"].items()}

    def titles(self, repo: str) -> list[str]:
        """The titles of the commits of `main`, oldest first."""
        return [commit["title"] for commit in self.history(repo, "main")][::-1]

    def history(self, repo: str, revision: str) -> list[dict[str, Any]]:
        commits = {commit["id"]: commit for commit in self.read(repo)["commits"]}
        result, oid = [], self.commit_of(repo, revision)["id"]
        while oid is not None:
            result.append(commits[oid])
            oid = commits[oid]["parent"]
        return result

    def add_commit(
        self, repo: str, branch: str, title: str, tree: dict[str, Any], message: str = ""
    ) -> str:
        """Put a commit on a branch, as the web page would; its id."""
        with self._lock:
            state = self.read(repo)
            parent = state["branches"].get(branch)
            content = json.dumps([parent, title, tree, len(state["commits"])]).encode()
            oid = hashlib.sha1(content).hexdigest()
            state["commits"].append(
                {"id": oid, "parent": parent, "title": title, "message": message, "tree": tree}
            )
            state["branches"][branch] = oid
            self.write(repo, state)
            return oid

    def entry(self, content: bytes, lfs: bool) -> dict[str, Any]:
        sha256 = self.keep(content)
        return {"sha256": sha256, "size": len(content), "lfs": lfs, "oid": git_oid(content)}

    def create(self, repo: str) -> None:
        """A repository with its first commit, as the hub makes it."""
        self.write(repo, {"commits": [], "branches": {}, "tags": {}})
        attributes = self.entry(b"*.parquet filter=lfs diff=lfs merge=lfs -text\n", lfs=False)
        self.add_commit(repo, "main", "initial commit", {".gitattributes": attributes})

    # Faults

    def fault(self, step: str) -> Fault | None:
        with self._lock:
            self.log.append(step)
            for fault in self.faults:
                if fault.step == step and fault.times:
                    if fault.skip:
                        fault.skip -= 1
                        continue
                    fault.times -= 1
                    return fault
        return None

    def count(self, step: str) -> int:
        """How many requests of a step came."""
        return self.log.count(step)

    def kill(self) -> None:
        assert self.victim is not None
        os.kill(self.victim, signal.SIGKILL)
        time.sleep(0.05)

    # Serving

    @contextmanager
    def listening(self) -> Iterator[str]:
        """Serve on a free port of the loopback interface, from threads; the address."""
        server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": self}))
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        self.url = f"http://127.0.0.1:{server.server_address[1]}"
        try:
            yield self.url
        finally:
            server.shutdown()
            server.server_close()
            thread.join(10)


class Handler(BaseHTTPRequestHandler):
    """One connection to the hub."""

    hub: FakeHub
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # headers and body in one packet, else each answer waits for an acknowledgement
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: tests read `hub.log`."""

    def handle(self) -> None:
        try:
            super().handle()
        except ConnectionError:
            self.close_connection = True

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _serve(self) -> None:
        body = self._body()
        url = urlsplit(self.path)
        matches = [
            (match, step, answer)
            for methods, pattern, step, answer in ROUTES
            if self.command in methods and (match := re.fullmatch(pattern, url.path))
        ]
        if not matches:
            self._send(Reply(404, {"error": f"no such address: {self.path}"}))
            return
        match, step, answer = matches[0]
        fault = self.hub.fault(step)
        if fault and not self._before(fault):
            return
        words = [unquote(word or "") for word in match.groups()]
        try:
            self._authorize(step)
            with self.hub._lock:
                reply = answer(Request(self.hub, self, body, parse_qs(url.query)), *words)
        except HubError as error:
            headers = {"X-Error-Code": error.code} if error.code else {}
            reply = Reply(error.status, {"error": str(error)}, headers)
        if fault:
            reply = self._after(fault, reply)
        if not self.close_connection:
            self._send(reply)

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = _serve

    def _authorize(self, step: str) -> None:
        is_public = step in PUBLIC or (step == "put")
        if not is_public and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            raise HubError(401, "Invalid username or password.")

    def _before(self, fault: Fault) -> bool:
        """Carry a fault out that comes before the request takes effect; whether to go on."""
        if isinstance(fault.kind, int):
            self._send(Reply(fault.kind, {"error": f"fault {fault.kind}"}, fault.headers))
            return False
        if fault.kind in ("cut before", "kill before"):
            if fault.kind == "kill before":
                self.hub.kill()
            self.close_connection = True
            return False
        if fault.kind == "slow":
            time.sleep(self.hub.delay)
        return True

    def _after(self, fault: Fault, reply: Reply) -> Reply:
        if fault.kind == "kill after":
            self.hub.kill()
        if fault.kind in ("cut after", "kill after"):
            self.close_connection = True
        if fault.kind == "parent":
            repo = self.path.split("/commit/")[0].removeprefix("/api/datasets/")
            parent = self.hub.history(repo, reply.body["commitOid"])[0]["parent"]
            return reply._replace(body={**reply.body, "commitOid": parent})
        if fault.kind == "flip" and isinstance(reply.body, bytes) and reply.body:
            middle = len(reply.body) // 2
            flipped = bytes([reply.body[middle] ^ 1])
            return reply._replace(body=reply.body[:middle] + flipped + reply.body[middle + 1 :])
        if fault.kind in ("half", "short") and isinstance(reply.body, bytes):
            length = {"Content-Length": str(len(reply.body)) if fault.kind == "half" else ""}
            half = reply.body[: len(reply.body) // 2]
            return reply._replace(body=half, headers={**reply.headers, **length})
        return reply

    def _send(self, reply: Reply) -> None:
        body = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
        kind = "application/octet-stream" if isinstance(reply.body, bytes) else "application/json"
        headers = {"Content-Type": kind, "Content-Length": str(len(body)), **reply.headers}
        self.send_response(reply.status)
        for name, value in headers.items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        if headers["Content-Length"] != str(len(body)):
            self.close_connection = True


@dataclass
class Request:
    """A request, as the answering functions see it."""

    hub: FakeHub
    handler: Handler
    body: bytes
    query: dict[str, list[str]]

    @property
    def json(self) -> Any:
        return json.loads(self.body)


# Answers


def page(request: Request, entries: list[Any]) -> Reply:
    """One page of a list, with the address of the next one in `Link`."""
    start = int(request.query.get("cursor", ["0"])[0])
    headers = {}
    if start + PAGE < len(entries):
        path = urlsplit(request.handler.path).path
        query = {**request.query, "cursor": [str(start + PAGE)]}
        words = "&".join(f"{key}={value[0]}" for key, value in query.items())
        headers["Link"] = f'<{request.hub.url}{path}?{words}>; rel="next"'
    return Reply(200, entries[start : start + PAGE], headers)


def create(request: Request) -> Reply:
    repo = f"{request.json['organization']}/{request.json['name']}"
    url = f"{request.hub.url}/datasets/{repo}"
    if request.hub._state(repo).is_file():
        return Reply(409, {"url": url, "error": "You already created this dataset repo"})
    request.hub.create(repo)
    return Reply(200, {"url": url})


def info(request: Request, repo: str, revision: str) -> Reply:
    commit = request.hub.commit_of(repo, revision or "main")
    siblings = [{"rfilename": path} for path in commit["tree"]]
    return Reply(200, {"id": repo, "sha": commit["id"], "siblings": siblings, "private": False})


def preupload(request: Request, repo: str, revision: str) -> Reply:
    tree = request.hub.commit_of(repo, revision)["tree"]
    files = []
    for item in request.json["files"]:
        is_lfs = item["path"].endswith(".parquet") or item["size"] > 2**20
        present = tree.get(item["path"])
        oid = present and (present["sha256"] if present["lfs"] else present["oid"])
        mode = "lfs" if is_lfs else "regular"
        ignored = item["path"] in request.hub.ignored
        files.append(
            {"path": item["path"], "uploadMode": mode, "shouldIgnore": ignored, "oid": oid}
        )
    return Reply(200, {"files": files})


def batch(request: Request, repo: str) -> Reply:
    objects: list[dict[str, Any]] = []
    for item in request.json["objects"]:
        entry = {"oid": item["oid"], "size": item["size"]}
        if not request.hub.blob(item["oid"]).is_file():
            put, verify = f"/lfs/{item['oid']}", f"/datasets/{repo}.git/info/lfs/objects/verify"
            entry["actions"] = {
                "upload": {"href": request.hub.url + put},
                "verify": {"href": request.hub.url + verify},
            }
        objects.append(entry)
    return Reply(200, {"transfer": "basic", "objects": objects})


def put(request: Request, oid: str) -> Reply:
    if hashlib.sha256(request.body).hexdigest() != oid:
        raise HubError(400, "the content's digest is another one")
    request.hub.keep(request.body)
    return Reply(200)


def verify(request: Request, repo: str) -> Reply:
    blob = request.hub.blob(request.json["oid"])
    if not blob.is_file() or blob.stat().st_size != request.json["size"]:
        raise HubError(404, "no such object")
    return Reply(200)


def commit(request: Request, repo: str, branch: str) -> Reply:
    hub = request.hub
    if hub.before_commit:
        action, hub.before_commit = hub.before_commit, None
        action()
    head = hub.commit_of(repo, branch)
    lines = [json.loads(line) for line in request.body.splitlines()]
    header = lines[0]["value"]
    if header.get("parentCommit", head["id"]) != head["id"]:
        raise HubError(412, "A commit has happened since. Please refresh and try again.")
    tree = dict(head["tree"])
    for line in lines[1:]:
        value, path = line["value"], line["value"]["path"]
        if line["key"] == "file":
            tree[path] = hub.entry(base64.b64decode(value["content"]), lfs=False)
        elif line["key"] == "lfsFile":
            if not hub.blob(value["oid"]).is_file():
                raise HubError(400, f"no LFS object {value['oid']}")
            tree[path] = hub.entry(hub.blob(value["oid"]).read_bytes(), lfs=True)
        elif tree.pop(path, None) is None:
            raise HubError(404, "A file with this name doesn't exist", "EntryNotFound")
    oid = hub.add_commit(repo, branch, header["summary"], tree, header["description"])
    return Reply(200, {"commitOid": oid, "commitUrl": f"{hub.url}/datasets/{repo}/commit/{oid}"})


def described(path: str, entry: dict[str, Any]) -> dict[str, Any]:
    pointer = {"oid": entry["sha256"], "size": entry["size"], "pointerSize": 134}
    lfs = {"lfs": pointer} if entry["lfs"] else {}
    return {"type": "file", "path": path, "size": entry["size"], "oid": entry["oid"], **lfs}


def tree(request: Request, repo: str, revision: str, below: str) -> Reply:
    entries = request.hub.commit_of(repo, revision)["tree"]
    prefix = f"{below.strip('/')}/" if below.strip("/") else ""
    inside = {path: entry for path, entry in sorted(entries.items()) if path.startswith(prefix)}
    if prefix and not inside:
        raise HubError(404, f"{below} does not exist", "EntryNotFound")
    is_deep = request.query.get("recursive", [""])[0].lower() in ("true", "1")
    shown: dict[str, dict[str, Any]] = {}
    for path, entry in inside.items():
        folders = path[len(prefix) :].split("/")[:-1]
        for depth in range(1, len(folders) + 1 if is_deep else min(len(folders), 1) + 1):
            folder = prefix + "/".join(folders[:depth])
            shown[folder] = {"type": "directory", "path": folder, "size": 0, "oid": "0" * 40}
        if is_deep or not folders:
            shown[path] = described(path, entry)
    return page(request, list(shown.values()))


def paths_info(request: Request, repo: str, revision: str) -> Reply:
    entries = request.hub.commit_of(repo, revision)["tree"]
    if request.handler.headers.get("Content-Type", "").startswith("application/json"):
        paths = request.json["paths"]
    else:
        paths = parse_qs(request.body.decode())["paths"]
    files = [described(path, entries[path]) for path in paths if path in entries]
    folders = [p for p in paths if any(path.startswith(f"{p}/") for path in entries)]
    return Reply(200, files + [{"type": "directory", "path": p, "oid": "0" * 40} for p in folders])


def resolve(request: Request, repo: str, revision: str, path: str) -> Reply:
    commit_found = request.hub.commit_of(repo, revision)
    entry = commit_found["tree"].get(path)
    if entry is None:
        raise HubError(404, f"{path} does not exist", "EntryNotFound")
    headers = {"X-Repo-Commit": commit_found["id"], "ETag": f'"{entry["oid"]}"'}
    if not request.hub.blob(entry["sha256"]).is_file():
        raise HubError(404, "the object is gone", "EntryNotFound")
    if entry["lfs"]:
        linked = {"X-Linked-ETag": f'"{entry["sha256"]}"', "X-Linked-Size": str(entry["size"])}
        # Another host than the hub's, as in life: the token must not follow.
        host = request.hub.url.replace("127.0.0.1", "localhost")
        location = {"Location": f"{host}/cdn/{entry['sha256']}"}
        return Reply(302, b"", {**headers, **linked, **location})
    return ranged(request, request.hub.blob(entry["sha256"]).read_bytes(), headers)


def cdn(request: Request, oid: str) -> Reply:
    if "Authorization" in request.handler.headers:
        raise HubError(400, "the token was sent to another host")
    return ranged(request, request.hub.blob(oid).read_bytes(), {"ETag": f'"{oid}"'})


def ranged(request: Request, content: bytes, headers: dict[str, str]) -> Reply:
    match = re.fullmatch(r"bytes=(\d+)-(\d*)", request.handler.headers.get("Range", ""))
    if not match:
        length = {"Content-Length": str(len(content))} if request.handler.command == "HEAD" else {}
        return Reply(200, content, {**headers, **length})
    start, end = int(match[1]), int(match[2] or len(content) - 1)
    place = {"Content-Range": f"bytes {start}-{end}/{len(content)}"}
    return Reply(206, content[start : end + 1], {**headers, **place})


def refs(request: Request, repo: str) -> Reply:
    state = request.hub.read(repo)

    def listed(kind: str, names: dict[str, str]) -> list[dict[str, str]]:
        return [{"name": n, "ref": f"refs/{kind}/{n}", "targetCommit": o} for n, o in names.items()]

    branches, tags = listed("heads", state["branches"]), listed("tags", state["tags"])
    return Reply(200, {"branches": branches, "converts": [], "tags": tags})


def tag(request: Request, repo: str, revision: str) -> Reply:
    state = request.hub.read(repo)
    if request.handler.command == "DELETE":
        if state["tags"].pop(revision, None) is None:
            raise HubError(404, f"no tag {revision}", "RevisionNotFound")
    elif request.json["tag"] in state["tags"]:
        raise HubError(409, f"Tag {request.json['tag']} exists")
    else:
        state["tags"][request.json["tag"]] = request.hub.commit_of(repo, revision)["id"]
    request.hub.write(repo, state)
    return Reply(200)


def commits(request: Request, repo: str, revision: str) -> Reply:
    history = [
        {"id": c["id"], "title": c["title"], "message": c["message"], "authors": [], "date": DATE}
        for c in request.hub.history(repo, revision)
    ]
    return page(request, history)


def squash(request: Request, repo: str, branch: str) -> Reply:
    state = request.hub.read(repo)
    head = request.hub.commit_of(repo, branch)
    oid = hashlib.sha1(f"squash {head['id']}".encode()).hexdigest()
    title = request.json["message"]
    state["commits"].append({**head, "id": oid, "parent": None, "title": title, "message": ""})
    state["branches"][branch] = oid
    request.hub.write(repo, state)
    return Reply(200)


def lfs_files(request: Request, repo: str) -> Reply:
    files = {
        entry["sha256"]: {
            "fileOid": entry["sha256"],
            "filename": path,
            "oid": entry["sha256"],
            "pushedAt": DATE,
            "size": entry["size"],
        }
        for commit in request.hub.read(repo)["commits"]
        for path, entry in commit["tree"].items()
        if entry["lfs"] and request.hub.blob(entry["sha256"]).is_file()
    }
    return page(request, list(files.values()))


def lfs_delete(request: Request, repo: str) -> Reply:
    for oid in request.json["deletions"]["sha"]:
        request.hub.blob(oid).unlink(missing_ok=True)
    return Reply(200)


def whoami(request: Request) -> Reply:
    return Reply(200, {"type": "user", "name": "tester", "orgs": []})


def validate_yaml(request: Request) -> Reply:
    if not request.json["content"].startswith("---\n"):
        return Reply(400, {"errors": [{"message": "the card has no metadata"}], "warnings": []})
    return Reply(200, {"errors": [], "warnings": []})


ID, REV = r"([^/]+/[^/]+)", r"([^/]+)"
API = rf"/api/datasets/{ID}"
PUBLIC = {"info", "tree", "paths-info", "resolve", "cdn", "refs", "commits"}
ROUTES: list[tuple[tuple[str, ...], str, str, Callable[..., Reply]]] = [
    (("POST",), "/api/repos/create", "create", create),
    (("GET",), "/api/whoami-v2", "whoami", whoami),
    (("POST",), "/api/validate-yaml", "validate-yaml", validate_yaml),
    (("GET",), rf"{API}/refs", "refs", refs),
    (("GET",), rf"{API}/lfs-files", "lfs-files", lfs_files),
    (("POST",), rf"{API}/lfs-files/batch", "lfs-delete", lfs_delete),
    (("GET",), rf"{API}(?:/revision/{REV})?", "info", info),
    (("POST",), rf"{API}/preupload/{REV}", "preupload", preupload),
    (("POST",), rf"/datasets/{ID}\.git/info/lfs/objects/batch", "batch", batch),
    (("PUT",), r"/lfs/(\w+)", "put", put),
    (("POST",), rf"/datasets/{ID}\.git/info/lfs/objects/verify", "verify", verify),
    (("POST",), rf"{API}/commit/{REV}", "commit", commit),
    (("GET",), rf"{API}/tree/{REV}(/.*)?", "tree", tree),
    (("POST",), rf"{API}/paths-info/{REV}", "paths-info", paths_info),
    (("GET", "HEAD"), rf"/datasets/{ID}/resolve/{REV}/(.+)", "resolve", resolve),
    (("GET", "HEAD"), r"/cdn/(\w+)", "cdn", cdn),
    (("POST",), rf"{API}/tag/{REV}", "tag", tag),
    (("DELETE",), rf"{API}/tag/{REV}", "untag", tag),
    (("GET",), rf"{API}/commits/{REV}", "commits", commits),
    (("POST",), rf"{API}/super-squash/{REV}", "squash", squash),
]
"""Method, address, the step's name, and what answers."""

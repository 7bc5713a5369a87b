"""A server on 127.0.0.1 with the part of the Hugging Face Hub's HTTP interface that creates, commits and downloads."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

OWNER = "ann"  # the organisation to which any token may write
COMMIT = "0" * 40


@dataclass
class HubServer:
    """Repositories by name: their files, whether they are private, and the paths of each commit. large: contents by
    digest, which a commit names. cards: the texts that were validated."""

    address: str
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    private: dict[str, bool] = field(default_factory=dict)
    commits: dict[str, list[list[str]]] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    cards: list[str] = field(default_factory=list)

    def publish(self, repository: str, folder: Path) -> None:
        """Makes a repository of the files of a folder."""
        files = [path for path in folder.rglob("*") if path.is_file()]
        self.files[repository] = {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}

    def create(self, organization: str, name: str, private: bool) -> tuple[Any, int]:
        if organization != OWNER:
            return {"error": f"You don't have the rights to create a model under {organization}"}, 403
        repository = f"{organization}/{name}"
        status = 409 if repository in self.files else 200
        if status == 200:
            self.files[repository], self.private[repository], self.commits[repository] = {}, private, []
        return {"url": f"{self.address}/{repository}"}, status

    def upload_modes(self, paths: list[str]) -> Any:
        modes = {path: "lfs" if path.endswith(".safetensors") else "regular" for path in paths}
        return {"files": [{"path": path, "uploadMode": modes[path], "shouldIgnore": False} for path in paths]}

    def upload_addresses(self, objects: list[dict[str, Any]]) -> Any:
        actions = [{"upload": {"href": f"{self.address}/large/{entry['oid']}"}} for entry in objects]
        return {"transfer": "basic", "objects": [x | {"actions": y} for x, y in zip(objects, actions, strict=True)]}

    def commit(self, repository: str, lines: list[bytes]) -> Any:
        """Adds files; a deletion, which has neither content nor digest, is a KeyError."""
        files = [entry["value"] for entry in map(json.loads, lines) if entry["key"] != "header"]
        for file in files:
            content = base64.b64decode(file["content"]) if "content" in file else self.large[file["oid"]]
            self.files[repository][file["path"]] = content
        self.commits[repository].append([file["path"] for file in files])
        return {"commitUrl": f"{self.address}/{repository}/commit/{COMMIT}", "commitOid": COMMIT}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: HubServer

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, content: Any, status: int = 200, **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self) -> None:
        match = re.fullmatch(r"(/api/models)?/([^/]+/[^/]+)(/resolve/main/(.+))?", self.path)
        if match is None or match[2] not in self.hub.files:
            return self.answer({}, 404, X_Error_Code="RepoNotFound")
        if match[1]:
            return self.answer({"id": match[2], "private": self.hub.private[match[2]], "sha": COMMIT})
        content = self.hub.files[match[2]].get(match[4])
        if content is None:
            return self.answer({}, 404, X_Error_Code="EntryNotFound", X_Repo_Commit=COMMIT)
        return self.answer(content, ETag=f'"{hashlib.sha256(content).hexdigest()}"', X_Repo_Commit=COMMIT)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_PUT(self) -> None:
        self.hub.large[self.path.rpartition("/")[2]] = self.body()
        self.answer({})

    def do_POST(self) -> None:
        body = self.body()
        if self.path == "/api/validate-yaml":
            self.hub.cards.append(json.loads(body)["content"])
            return self.answer({"errors": [], "warnings": []})
        if self.headers.get("Authorization") is None:
            return self.answer({"error": "Invalid username or password."}, 401)
        if self.path == "/api/repos/create":
            values = json.loads(body)
            private = values.get("private") is True or values.get("visibility") == "private"
            return self.answer(*self.hub.create(values["organization"], values["name"], private))
        if self.path.endswith("/preupload/main"):
            return self.answer(self.hub.upload_modes([file["path"] for file in json.loads(body)["files"]]))
        if self.path.endswith(".git/info/lfs/objects/batch"):
            return self.answer(self.hub.upload_addresses(json.loads(body)["objects"]))
        match = re.fullmatch(r"/api/models/(.+)/commit/main", self.path)
        assert match is not None, self.path
        return self.answer(self.hub.commit(match[1], body.splitlines()))

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers["Content-Length"]))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)


@contextmanager
def hub_server() -> Iterator[HubServer]:
    """A running server without repositories."""
    handler = type("BoundHandler", (Handler,), {})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        handler.hub = HubServer(f"http://127.0.0.1:{server.server_port}")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield handler.hub
        finally:
            server.shutdown()

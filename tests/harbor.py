"""A registry in memory, for what is asked of it and for faults at chosen places of a push."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Callable

from wildserver import Asked, Reply, Wild


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


class Harbor(Wild):
    """A registry in memory that takes uploads; `fault` may answer instead of it.

    It keeps no lists of referrers and says so by not answering with OCI-Subject.
    """

    def __init__(self) -> None:
        super().__init__(self._reply)
        self.blobs: dict[tuple[str, str], bytes] = {}
        self.manifests: dict[str, bytes] = {}
        self.uploads: dict[str, bytes] = {}
        self.fault: Callable[[Asked], Reply | None] = lambda asked: None
        self.absolute = False
        self._numbers = itertools.count()

    def _reply(self, asked: Asked) -> Reply:
        reply = self.fault(asked)
        return reply if reply is not None else self.honest(asked)

    def honest(self, asked: Asked) -> Reply:
        match = re.fullmatch(r"/v2/(.+?)/(manifests|blobs/uploads|blobs)/(.*)", asked.path)
        assert match, asked.path
        name, kind, last = match.groups()
        if kind == "manifests":
            return self._manifest(asked, last)
        if kind == "blobs":
            found = self.blobs.get((name, last))
            return Reply(404) if found is None else Reply(200, found)
        return self._upload(asked, name, last)

    def _manifest(self, asked: Asked, reference: str) -> Reply:
        if asked.method == "PUT":
            self.manifests[reference] = asked.body
            return Reply(201)
        raw = self.manifests.get(reference)
        if raw is None:
            return Reply(404)
        return Reply(200, raw, {"Docker-Content-Digest": digest(raw)})

    def _upload(self, asked: Asked, name: str, number: str) -> Reply:
        query = {key: value[0] for key, value in asked.query.items()}
        if asked.method == "POST":
            source = self.blobs.get((query.get("from", ""), query.get("mount", "")))
            if source is not None:
                self.blobs[name, query["mount"]] = source
                return Reply(201)
            number = str(next(self._numbers))
            self.uploads[number] = b""
            return Reply(202, headers=self._where(name, number))
        if number not in self.uploads:
            return Reply(404)
        if asked.method == "DELETE":
            del self.uploads[number]
            return Reply(204)
        if asked.method in ("PATCH", "PUT"):
            self.uploads[number] += asked.body
        if asked.method == "PUT":
            if digest(self.uploads[number]) != query["digest"]:
                return Reply(400, b'{"errors":[{"code":"DIGEST_INVALID"}]}')
            self.blobs[name, query["digest"]] = self.uploads.pop(number)
            return Reply(201)
        end = max(0, len(self.uploads[number]) - 1)
        headers = self._where(name, number) | {"Range": f"0-{end}"}
        return Reply(204 if asked.method == "GET" else 202, headers=headers)

    def _where(self, name: str, number: str) -> dict[str, str]:
        path = f"/v2/{name}/blobs/uploads/{number}?state=x"
        return {"Location": f"{self.url}{path}" if self.absolute else path}

    def layers(self, tag: str = "1") -> list[str]:
        return [layer["digest"] for layer in json.loads(self.manifests[tag])["layers"]]

    def sizes(self, method: str) -> list[int]:
        return [len(asked.body) for asked in self.asked if asked.method == method]

"""A stub of the server where a registry's clients get their tokens, with a configurable lifetime of the tokens.

The tokens are real: signed claims that the registry verifies (distribution, docs/spec/auth/jwt.md).
"""

import base64
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import BasicAuth, web
from aiohttp.test_utils import TestServer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

ISSUER, SERVICE = "tests", "registry"
LEEWAY_SECONDS = 60
"""The clock skew that the registry tolerates."""


def _encoded(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


@dataclass
class TokenServerStub:
    users: dict[str, str]
    repositories: set[str]
    """The repositories that the users may pull."""
    valid_seconds: float = 300
    issued: int = 0
    """Number of tokens."""
    realm: str = ""
    _key: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)

    @asynccontextmanager
    async def running(self) -> AsyncIterator["TokenServerStub"]:
        app = web.Application()
        app.router.add_get("/token", self.token)
        async with TestServer(app) as server:
            self.realm = str(server.make_url("/token"))
            yield self

    def settings(self, folder: Path) -> dict[str, Any]:
        """The `auth` settings of a registry that trusts this server."""
        keys = folder / "keys.json"
        public = _encoded(self._key.public_key().public_bytes_raw())
        keys.write_text(
            json.dumps({"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "one", "use": "sig", "x": public}]})
        )
        return {"token": {"realm": self.realm, "service": SERVICE, "issuer": ISSUER, "jwks": str(keys)}}

    async def token(self, request: web.Request) -> web.Response:
        try:
            who = BasicAuth.decode(request.headers.get("Authorization", ""))
        except ValueError:
            return web.json_response({"errors": [{"code": "UNAUTHORIZED"}]}, status=401)
        if self.users.get(who.login) != who.password:
            return web.json_response({"errors": [{"code": "UNAUTHORIZED"}]}, status=401)
        self.issued += 1
        return web.json_response({"token": self._signed(request.query.get("scope", ""))})

    def _signed(self, scope: str) -> str:
        kind, name, actions = scope.split(":") if scope.count(":") == 2 else ("", "", "")
        allowed = [{"type": kind, "name": name, "actions": actions.split(",")}] if name in self.repositories else []
        now = time.time()
        claims = {
            "iss": ISSUER, "aud": SERVICE, "sub": "a", "nbf": int(now - 300), "jti": str(self.issued),
            "access": allowed,
            "exp": int(now + self.valid_seconds - LEEWAY_SECONDS),
        }  # fmt: skip
        header = {"typ": "JWT", "alg": "EdDSA", "kid": "one"}
        signed = ".".join(_encoded(json.dumps(part).encode()) for part in (header, claims))
        return f"{signed}.{_encoded(self._key.sign(signed.encode()))}"

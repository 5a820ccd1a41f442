"""What a forwarded change was answered, kept for its retry after a lost answer, and readable by that retry alone.

An answer may hold a secret that is shown once, or a token. So it is sealed with a key that is made of the request,
the caller's token, the body and what its site has added among it: the log, its copies and their backups hold nothing
that opens it.
"""

import hashlib
import os

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from regional_keystone.errors import Conflict
from regional_keystone.messages import Request, Response
from regional_keystone.model import Outcome
from regional_keystone.ports import Reader
from regional_keystone.record import spread

_NONCE_BYTES, _SECRET_BYTES = 12, 16
_HEADER = "x-rk-secret"  # a header between a site and its controllers
_PURPOSE = b"regional-keystone outcome 1\x00"
_ANOTHER = "This request id has been used for another request."


def repeatable(request: Request) -> Request:
    """The same request with a secret of its own, for who forwards it, and its retries are the same again.

    Without it the answer to a login could be opened by whoever guesses what was asked.
    """
    return msgspec.structs.replace(request, headers={**request.headers, _HEADER: os.urandom(_SECRET_BYTES).hex()})


def outcome(request: Request, response: Response, now: int) -> Outcome:
    """What is stored with the change."""
    nonce, digest = os.urandom(_NONCE_BYTES), _digest(request)
    sealed = AESGCM(_key(request)).encrypt(nonce, msgspec.msgpack.encode(response), digest)
    return Outcome(id=spread(request.id), request_digest=digest, answer=nonce + sealed, at=now)


async def kept(reader: Reader, request: Request) -> Response | None:
    """What this request was answered before; None if it is new. Raises Conflict for another with the same id."""
    found = await reader.get(Outcome, spread(request.id))
    if found is None:
        return None
    nonce, sealed = found.answer[:_NONCE_BYTES], found.answer[_NONCE_BYTES:]
    try:
        answer = AESGCM(_key(request)).decrypt(nonce, sealed, _digest(request))
    except (InvalidTag, ValueError):
        raise Conflict(_ANOTHER) from None
    return msgspec.msgpack.decode(answer, type=Response)


def _key(request: Request) -> bytes:
    about = _PURPOSE + request.id.encode()
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=about).derive(msgspec.msgpack.encode(_asked(request)))


def _digest(request: Request) -> bytes:
    """What a request asks, and with whose token: a kept answer is for this and nothing else."""
    return hashlib.sha256(_PURPOSE + hashlib.sha256(msgspec.msgpack.encode(_asked(request))).digest()).digest()


def _asked(request: Request) -> tuple[object, ...]:
    """What tells this request from another. Without a secret what is kept must not help to guess a password in it."""
    token, secret = request.headers.get("x-auth-token", ""), request.headers.get(_HEADER, "")
    body = request.body if token or secret else b""
    return (request.method, request.path, request.query, body, token, secret)

"""Renewal of a site's certificate, for the key that joined alone: by the certificate that there is, or by proof of it.

The proof is for a site whose certificate ended while it was cut off, so that TLS refuses it: a challenge of this
controller, good for a minute and once, signed with the key that joined, by the instance that joined. Source:
docs/security.md, "Enrolment".
"""

import hashlib
import hmac
import secrets
from collections import deque
from collections.abc import Awaitable, Callable

import msgspec
import structlog
from aiohttp import web
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from controller.authority import certified, identity, requested_key
from regional_keystone.enrol import RenewRequest, Welcome
from regional_keystone.errors import Forbidden, IdentityError, Invalid
from regional_keystone.model import Site
from regional_keystone.ports import Clock

log = structlog.get_logger("renewals")

GOOD_S = 60
_SAY_AGAIN_S = 10.0
_NO_CHALLENGE = "the challenge was used, is too old, or is not of this controller; ask for another"
_NO_SITE = "no site of this federation"
_PUBLIC = serialization.PublicFormat.SubjectPublicKeyInfo
_TIME_BYTES, _RANDOM_BYTES, _MAC_BYTES = 8, 16, 32


class _Again(msgspec.Struct, frozen=True):
    csr: str


class Challenges:
    """Words that only this process makes, each of which counts once. Nothing is kept of those that nobody used."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._secret = secrets.token_bytes(32)
        self._used: set[bytes] = set()
        self._order: deque[tuple[float, bytes]] = deque()  # the same, oldest first

    def make(self) -> bytes:
        """A fresh one."""
        word = int(self._clock.ticks() * 1000).to_bytes(_TIME_BYTES, "big") + secrets.token_bytes(_RANDOM_BYTES)
        return word + self._mac(word)

    def good(self, challenge: bytes) -> bool:
        """Whether it is ours, young, and was not taken before."""
        word = challenge[:-_MAC_BYTES]
        if len(word) != _TIME_BYTES + _RANDOM_BYTES or not hmac.compare_digest(self._mac(word), challenge[len(word) :]):
            return False
        age_s = self._clock.ticks() - int.from_bytes(word[:_TIME_BYTES], "big") / 1000
        return age_s <= GOOD_S and word not in self._used

    def take(self, challenge: bytes) -> bool:
        """Whether it is good; from now on it is not."""
        if not self.good(challenge):
            return False
        word, now = challenge[:-_MAC_BYTES], self._clock.ticks()
        while self._order and now - self._order[0][0] > GOOD_S:
            self._used.discard(self._order.popleft()[1])
        self._used.add(word)
        self._order.append((now, word))
        return True

    def _mac(self, word: bytes) -> bytes:
        return hmac.digest(self._secret, word, "sha256")


class Renewals:
    """Answers on the stream port, to whoever has no certificate that TLS would take."""

    def __init__(
        self,
        *,
        cluster: str,
        clock: Clock,
        member: Callable[[str], Awaitable[Site | None]],
        welcome: Callable[[str, str, str], Welcome],
    ) -> None:
        """`member`: the site's record as the log has it now; `welcome` certifies a request (csr, site, instance)."""
        self._cluster = cluster
        self._clock = clock
        self._challenges = Challenges(clock)
        self._complained = float("-inf")  # when, in ticks
        self._unsaid = 0  # requests that were refused since
        self._member = member
        self._welcome = welcome

    def routes(self) -> list[web.RouteDef]:
        """What the stream port answers."""
        return [
            web.post("/renew/v1", self._serve_certified),
            web.get("/renew/v2", self._serve_challenge),
            web.post("/renew/v2", self._serve_renewal),
        ]

    async def again(self, certificate: str | None, csr: str) -> Welcome:
        """A certificate for the key that joined, to the bearer of this one. Raises as `renew`.

        Whoever copied that key for a while is to gain nothing that outlives it.
        """
        _, _, name = (certificate or "").rpartition(f"rk://{self._cluster}/")
        name, _, instance = name.partition("/")
        site = await self._member(name)
        if site is None or certificate != identity(self._cluster, site.id, site.instance or ""):
            raise Forbidden(_NO_SITE)
        self._check_key(site, requested_key(csr))
        return self._welcome(csr, site.id, instance)

    async def renew(self, request: RenewRequest) -> Welcome:
        """A certificate for the key that joined. Raises Forbidden for anybody else, Invalid for what cannot be read.

        A challenge is kept as used only of a member: whoever else comes leaves nothing behind.
        """
        key = requested_key(request.csr)
        if not self._challenges.good(request.challenge):
            raise Forbidden(_NO_CHALLENGE)
        try:
            key.verify(request.signature, request.to_sign(), ec.ECDSA(hashes.SHA256()))
        except InvalidSignature:
            raise Forbidden("the request is not signed with the key that it is for") from None
        if request.cluster != self._cluster:
            raise Forbidden("this is another federation")
        site = await self._member(request.name)
        if site is None or site.instance != request.instance:
            raise Forbidden(_NO_SITE)
        self._check_key(site, key)
        if not self._challenges.take(request.challenge):  # by the same request, meanwhile
            raise Forbidden(_NO_CHALLENGE)
        log.warning("certificate_renewed_by_proof", site=site.id, instance=site.instance)
        return self._welcome(request.csr, site.id, request.instance)

    def _check_key(self, site: Site, key: ec.EllipticCurvePublicKey) -> None:
        if not joined_with(site, key.public_bytes(serialization.Encoding.DER, _PUBLIC)):
            raise Forbidden("this site joined with another key; let it join anew with `rkctl region add NAME`")

    async def _serve_certified(self, request: web.Request) -> web.Response:
        body = await request.read()
        return await self._answer(lambda: self.again(certified(request), msgspec.json.decode(body, type=_Again).csr))

    async def _serve_challenge(self, request: web.Request) -> web.Response:
        del request
        return web.Response(body=self._challenges.make(), content_type="application/octet-stream")

    async def _serve_renewal(self, request: web.Request) -> web.Response:
        body = await request.read()
        return await self._answer(lambda: self.renew(msgspec.json.decode(body, type=RenewRequest)))

    async def _answer(self, renew: Callable[[], Awaitable[Welcome]]) -> web.Response:
        try:
            welcome = await renew()
        except (msgspec.MsgspecError, Invalid):
            return web.Response(status=400, text="not a renewal request")
        except IdentityError as error:
            self._complain(error.message)
            return web.Response(status=error.status, text=error.message)
        return web.Response(body=msgspec.json.encode(welcome), content_type="application/json")

    def _complain(self, why: str) -> None:
        """Of a request that was refused; anybody can send one, so the log gets a line for many."""
        self._unsaid += 1
        if self._clock.ticks() - self._complained >= _SAY_AGAIN_S:
            log.warning("certificate_not_renewed", why=why, refused=self._unsaid)
            self._complained, self._unsaid = self._clock.ticks(), 0


def joined_with(site: Site, key: bytes) -> bool:
    """Whether this public key (DER) is the one with which the site joined."""
    if site.tls_key is not None:
        return hmac.compare_digest(site.tls_key, key_digest(key))
    return site.box_key is not None and site.join_instance == joiner(site.instance or "", key, site.box_key)


def key_digest(key: bytes) -> str:
    """Names a site's public key (DER)."""
    return hashlib.sha256(key).hexdigest()


def joiner(instance: str, key: bytes, box_key: bytes) -> str:
    """Who used a join token: the instance with its keys, so that whoever finds the token later cannot use it again."""
    return f"{instance}/{hashlib.sha256(key + box_key).hexdigest()[:32]}"

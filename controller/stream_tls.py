"""The controller's certificate on the stream port: made anew at half of its life, while everybody stays connected."""

import ssl
from collections.abc import Sequence
from pathlib import Path

import structlog

from controller.authority import Authority
from regional_keystone.ports import Clock

log = structlog.get_logger("stream_tls")

LIFETIME_S = 90 * 86400.0
_AGAIN_S = 60.0
_LOOK_S = 3600.0


class StreamTls:
    """TLS of the stream port; `context` stays the same, and new connections get what was loaded into it last."""

    def __init__(
        self, authority: Authority, directory: Path, hosts: Sequence[str], clock: Clock, lifetime_s: float = LIFETIME_S
    ) -> None:
        self._authority = authority
        self._directory = directory
        self._hosts = hosts
        self._clock = clock
        self._lifetime_s = lifetime_s
        self.ends_at = 0
        self._due_at = 0
        self.context = self._made()

    def renew(self) -> None:
        """A fresh certificate for new connections. Raises OSError, and then the old one goes on."""
        certificate = self._authority.certify_stream(self._directory, self._hosts, self._clock.now(), self._lifetime_s)
        self.context.load_cert_chain(self._directory / "stream.crt", self._directory / "stream.key")
        self._note(certificate.not_valid_after_utc.timestamp())

    async def run(self) -> None:
        """Renew for ever."""
        while True:
            if self._clock.now() >= self._due_at:
                try:
                    self.renew()
                    log.info("certificate_renewed", until=self.ends_at)
                except OSError as error:
                    log.error("certificate_not_renewed", why=str(error))
                    await self._clock.sleep(_AGAIN_S)
                    continue
            await self._clock.sleep(min(_LOOK_S, max(0.05, (self._due_at - self._clock.now()) / 1_000_000)))

    def _made(self) -> ssl.SSLContext:
        context = self._authority.serve(self._directory, self._hosts, self._clock.now(), self._lifetime_s)
        certificate = self._authority.stream_certificate(self._directory)
        self._note(certificate.not_valid_after_utc.timestamp())
        return context

    def _note(self, ends: float) -> None:
        self.ends_at, now = int(ends * 1_000_000), self._clock.now()
        self._due_at = now + (self.ends_at - now) // 2

"""What sites have said that they hold, kept where every controller sees it.

A word counts for the instance that said it. While two controllers have different words of one site, the lesser one
counts: nothing is ever done on a word that was taken back. Source: docs/feeds.md, "Acknowledgement".
"""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress

import msgspec
import structlog

from regional_keystone.bundle import is_possible
from regional_keystone.enrol import CAS
from regional_keystone.errors import Unavailable
from regional_keystone.holder import CREDENTIAL, RECEIPT, TOKEN
from regional_keystone.issue_counts import bounded
from regional_keystone.messages import Acknowledge, Hello
from regional_keystone.model import Site
from regional_keystone.ports import Clock, Writer
from regional_keystone.signer_chain import SIGNERS
from regional_keystone.signing import SIGNING

log = structlog.get_logger("acknowledgements")

KEEP_S = 0.5  # positions are kept so often; rings at once
REFRESH_S = 1.0
_MOST_WHY = 300
_HELD = (TOKEN, CREDENTIAL, RECEIPT, SIGNING, SIGNERS, CAS)


class Acknowledged(msgspec.Struct, frozen=True):
    """What an instance of a site last said it holds durably, when, and to which controller."""

    instance: str = ""
    position: int = 0
    rings: dict[str, tuple[int, str]] = {}
    at: int = 0
    controller: str = ""
    issued: dict[str, dict[int, int]] = {}  # tokens, by key id and hour since 1970 UTC
    provider: str = ""  # what it issues, if it is known
    why: dict[str, str] = {}  # in its words, why it does not hold the newest of a ring


class Acknowledgements:
    """All that all controllers were told. What is heard here counts here at once, elsewhere about a second later."""

    def __init__(self, *, store: Writer, clock: Clock, controller: str) -> None:
        self.hears: Callable[[str], bool] = _always  # whether the site's stream is here, and alive
        self._store = store
        self._clock = clock
        self.controller = controller
        self._here: dict[str, Acknowledged] = {}  # said on streams that are open here
        self._written: dict[str, bytes] = {}  # of those, what was kept last
        self._stored: dict[str, bytes] = {}  # as all controllers see it
        self._due: set[str] = set()
        self._urgent = asyncio.Event()

    @property
    def said(self) -> dict[str, Acknowledged]:
        """What counts, by site."""
        found = {site: self.word(site) for site in {*self._here, *self._stored}}
        return {site: word for site, word in found.items() if word is not None}

    def word(self, site: str) -> Acknowledged | None:
        """What this site has said last, None if nothing counts."""
        stored, here = _decoded(self._stored.get(site)), self._here.get(site)
        if here is None:
            return stored
        if self._stored.get(site) == self._written.get(site):
            return here
        return _less(here, stored)

    def of(self, site: Site) -> Acknowledged:
        """What the present instance of this site has said; nothing for one that has not spoken yet."""
        word = self.word(site.id)
        return word if word is not None and word.instance == site.instance else Acknowledged()

    def note(self, site: str, instance: str, message: Acknowledge) -> None:
        """This was said on a stream here."""
        before = self._here.get(site)
        word = Acknowledged(instance, message.position, possible(message.rings), self._clock.now(), self.controller)
        more = {"issued": bounded(message.issued), "provider": message.provider[:16], "why": _shown(message.why)}
        self._say(site, msgspec.structs.replace(word, **more))
        if before is None or before.rings != word.rings:
            self._urgent.set()

    async def compare(self, hello: Hello) -> dict[str, int]:
        """A site that holds less than it has acknowledged was restored from a backup: its word no longer counts.

        When this returns, it counts nowhere; what is returned is the epochs that it had acknowledged. Raises
        Unavailable.
        """
        await self.refresh()
        said = self.word(hello.site)
        if said is None or said.instance != hello.instance:
            return {}
        lost = [name for name, (epoch, _) in said.rings.items() if hello.epochs.get(name, 0) < epoch]
        if lost or hello.position < said.position:
            log.error(
                "site_went_back", site=hello.site, position=hello.position, acknowledged=said.position, rings=lost
            )
            self.note(hello.site, hello.instance, Acknowledge(hello.position))
            await self._keep()
        return {name: epoch for name, (epoch, _) in said.rings.items()}

    def left(self, site: str) -> None:
        """Its stream here has ended: what is kept counts, which another controller may replace."""
        for known in (self._here, self._written):
            known.pop(site, None)
        self._due.discard(site)

    async def forget(self, site: str) -> None:
        """It is another one now, or none."""
        self.left(site)
        self._stored.pop(site, None)
        try:
            await self._store.acknowledge(site, b"")
        except Unavailable as error:  # it is of an instance that nobody asks for any more
            log.warning("acknowledgement_not_forgotten", site=site, why=error.message)

    async def refresh(self) -> None:
        """See what all controllers have kept. Raises Unavailable."""
        self._stored = dict(await self._store.acknowledged())
        for site in self._here:
            if self._stored.get(site) != self._written.get(site) and self.hears(site):
                self._due.add(site)  # another's word has replaced ours, of a stream that has ended meanwhile

    async def run(self) -> None:
        """Keep what is said here, and see what is said elsewhere; for ever."""
        refreshed, working = float("-inf"), True
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(KEEP_S):
                    await self._urgent.wait()
            self._urgent.clear()
            try:
                await self._keep()
                if self._clock.ticks() - refreshed >= REFRESH_S:
                    await self.refresh()
                    refreshed = self._clock.ticks()
                working = True
            except Unavailable as error:
                if working:
                    log.error("acknowledgements_not_kept", why=error.message)
                working = False
                await self._clock.sleep(KEEP_S)

    async def _keep(self) -> None:
        for site in sorted(self._due):
            word = self._here.get(site)
            if word is None:
                self._due.discard(site)
                continue
            data = msgspec.msgpack.encode(word)
            await self._store.acknowledge(site, data)
            self._stored[site] = data
            if site in self._here:
                self._written[site] = data
            if self._here.get(site) is word:
                self._due.discard(site)

    def _say(self, site: str, word: Acknowledged) -> None:
        self._here[site] = word
        self._due.add(site)


def possible(said: Mapping[str, tuple[int, str]]) -> dict[str, tuple[int, str]]:
    """Of what a site says that it holds, what a site can hold: it goes into records and bundles, so it is bounded."""
    return {name: said[name] for name in _HELD if name in said and is_possible(said[name])}


def _shown(why: Mapping[str, str]) -> dict[str, str]:
    """What a site says of its rings as it may stand in a record and on a terminal, whatever it says."""
    return {name: "".join(one for one in why[name][:_MOST_WHY] if one.isprintable()) for name in _HELD if why.get(name)}


def _less(one: Acknowledged, other: Acknowledged | None) -> Acknowledged | None:
    """What both say; of a ring of which they say different things, that none is held."""
    if other is None or other.instance != one.instance:
        return None
    names = {*one.rings, *other.rings}
    rings = {name: one.rings[name] if one.rings.get(name) == other.rings.get(name) else (0, "") for name in names}
    provider = one.provider if one.provider == other.provider else ""
    return msgspec.structs.replace(one, position=min(one.position, other.position), rings=rings, provider=provider)


def _decoded(data: bytes | None) -> Acknowledged | None:
    if data is None:
        return None
    try:
        return msgspec.msgpack.decode(data, type=Acknowledged)
    except ValueError:  # another version's: nothing that counts here
        return None


def _always(site: str) -> bool:
    del site
    return True

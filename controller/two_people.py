"""What one person prepares and another one confirms: two users who each prove who they are, by a password.

A token proves nothing here: whoever has stolen a key can make one for anybody. The log holds both ids.
Source: docs/adr/0026-condemned-keys.md.
"""

import json
import secrets
import uuid
from collections.abc import Awaitable, Callable, Mapping

import msgspec
import structlog

from controller.commit import Sequencer
from controller.compromise import condemning
from controller.sites import removal
from regional_keystone.errors import Conflict, Forbidden, NotFound, Unauthenticated
from regional_keystone.log import Change, put
from regional_keystone.messages import Request, Response
from regional_keystone.model import Condemned, Proposal, Site
from regional_keystone.overlay import Overlay, Recording, transact
from regional_keystone.ports import Clock

log = structlog.get_logger("two_people")

VALID_US = 3600 * 1_000_000
_CREATED = 201


class Login(msgspec.Struct, frozen=True, kw_only=True):
    """What a person shows. `domain` is the name of the user's."""

    username: str
    password: str
    domain: str = "Default"

    def __repr__(self) -> str:
        return f"Login(username={self.username!r}, domain={self.domain!r})"


class TwoPeople:
    """Proposals, each of which only another person than who made it can confirm, once, within an hour."""

    def __init__(
        self,
        *,
        overlay: Overlay,
        sequencer: Sequencer,
        clock: Clock,
        answer: Callable[[Request], Awaitable[Response]],
    ) -> None:
        """`answer`: the Identity API of this process."""
        self._overlay = overlay
        self._sequencer = sequencer
        self._clock = clock
        self._answer = answer

    async def proven(self, login: Login) -> str:
        """The id of the user, an administrator of the system, whose password this is.

        Raises Unauthenticated for a wrong one, Forbidden for a user without that role.
        """
        user = {"name": login.username, "password": login.password, "domain": {"name": login.domain}}
        identity = {"methods": ["password"], "password": {"user": user}}
        auth = {"identity": identity, "scope": {"system": {"all": True}}}
        response = await self._answer(
            Request(
                id=f"prove/{uuid.uuid4().hex}",
                method="POST",
                path="/v3/auth/tokens",
                headers={"content-type": "application/json"},
                body=json.dumps({"auth": auth}).encode(),
            )
        )
        if response.status != _CREATED:
            why = "the password is wrong, or the user has no role on the system or needs another factor"
            raise Unauthenticated(f"{login.username} has not been recognized as an administrator of the system: {why}.")
        token = json.loads(response.body)["token"]
        if "admin" not in {role["name"] for role in token["roles"]}:
            raise Forbidden(f"{login.username} is no administrator of the system.")
        return str(token["user"]["id"])

    async def prepare(self, proposal: Proposal) -> Proposal:
        """Keep this, with an id and an end."""
        now = self._clock.now()
        made = msgspec.structs.replace(proposal, id=secrets.token_hex(6), at=now, expires_at=now + VALID_US)

        async def decide(reader: Recording) -> tuple[list[Change], None]:
            del reader
            return [put(made)], None

        await transact(self._overlay, self._sequencer, f"prepare/{made.id}", decide)
        log.error("compromise_prepared", proposal=made.id, keys=sorted(made.keys), by=made.by, why=made.why)
        return made

    async def waiting(self, name: str) -> Proposal:
        """A proposal that can still be confirmed. Raises NotFound, Conflict."""
        return _good(await self._overlay.get(Proposal, name), name, self._clock.now())

    async def confirm(
        self, name: str, by: str, more: Mapping[str, str], signs: Callable[[Site], bool]
    ) -> tuple[Proposal, int]:
        """Condemn its keys and `more` (id -> ring), and remove its site if it says so; where that is in the log.

        Once, by another person. `signs`: whether a site signs its tokens. Raises NotFound for an unknown one, Conflict
        for one that is past its time or was confirmed, Forbidden for the person who prepared it.
        """
        now = self._clock.now()

        async def decide(reader: Recording) -> tuple[list[Change], Proposal]:
            old = _good(await reader.get(Proposal, name), name, now)
            if old.by == by:
                raise Forbidden("Who has prepared this cannot confirm it; another administrator has to.")
            done = msgspec.structs.replace(old, confirmed_by=by, confirmed_at=now)
            form = Condemned(id="-", ring="", at=now, by=old.by, why=old.why, confirmed_by=by)
            # in the same entry: a ring is made as soon as this is known, and must not be sealed for it
            gone = await removal(reader, old.site, now, signs) if old.removes else []
            return [put(done, old), *gone, *await condemning(reader, {**old.keys, **more}, form)], done

        done, position = await transact(self._overlay, self._sequencer, f"confirm/{secrets.token_hex(8)}", decide)
        keys = sorted({**done.keys, **more})
        log.error("keys_condemned", keys=keys, by=done.by, confirmed_by=by, why=done.why, position=position)
        return done, position or self._sequencer.head


def _good(proposal: Proposal | None, name: str, now: int) -> Proposal:
    if proposal is None:
        raise NotFound(f"Nothing was prepared with the id {name}; `rkctl keys compromised --prepare` tells the id.")
    if proposal.confirmed_by:
        raise Conflict(f"{name} was confirmed already, by {proposal.confirmed_by}; it cannot be used again.")
    if now >= proposal.expires_at:
        raise Conflict(f"{name} was prepared more than an hour ago; prepare it again.")
    return proposal

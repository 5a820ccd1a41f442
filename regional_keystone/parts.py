"""What a process of ours is made of, once it is wired: what it knows, and what answers clients."""

from dataclasses import dataclass

from regional_keystone.api.serve import Api
from regional_keystone.fastpath import FastPath
from regional_keystone.follow import Follower
from regional_keystone.holder import Holder
from regional_keystone.metrics import Metrics
from regional_keystone.overlay import Overlay
from regional_keystone.ports import Clock, Writer
from regional_keystone.shared import SharedFacts
from regional_keystone.signing import Signatory
from regional_keystone.validate import Validator
from regional_keystone.web import Web


@dataclass(slots=True)
class Replica:
    """Records, keys and revocations as one process knows them, and how fresh."""

    clock: Clock
    store: Writer
    overlay: Overlay
    holder: Holder
    credentials: Holder
    follower: Follower
    signatory: Signatory | None = None


@dataclass(slots=True)
class Door:
    """What answers clients."""

    api: Api
    web: Web
    fastpath: FastPath
    metrics: Metrics
    validator: Validator
    shared: SharedFacts | None = None

    async def close(self) -> None:
        """Let go of the region's cache."""
        if self.shared is not None:
            await self.shared.close()

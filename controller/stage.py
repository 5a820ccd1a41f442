"""What the steps of a tour share: the processes, the callers, what was made on the way, and how a finding looks."""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from controller import ask, probe
from controller.federation import Home, Member
from controller.probe import Broken, Client
from regional_keystone.record import Json

MANY, FEW = 500, 100


@dataclass(slots=True)
class Stage:
    """What the steps share: the processes, the callers, and what was made on the way."""

    home: Home
    members: list[Member]
    run: str = field(default_factory=lambda: secrets.token_hex(3))
    secret: str = field(default_factory=lambda: secrets.token_urlsafe(12))
    made: dict[str, Any] = field(default_factory=dict)

    @property
    def admin(self) -> Client:
        """The administrator at the controller; a connection of its own each time."""
        return Client(self.members[0], self.made.get("admin", ""))

    @property
    def changes(self) -> int:
        """How many make a crowd: three data centres on one machine take longer over each."""
        return FEW if self.home.began_on_engines() else MANY

    @property
    def goal_s(self) -> float:
        """Within which 99 of 100 revocations hold everywhere."""
        return 1.0 if self.home.began_on_engines() else 0.25

    @property
    def controllers(self) -> list[Member]:
        """One, or several over one log."""
        return [member for member in self.members if member.is_controller]

    @property
    def regions(self) -> list[Member]:
        """The sites' processes."""
        return [member for member in self.members if not member.is_controller]

    @property
    def sites(self) -> list[Client]:
        """The administrator at each site."""
        return [self.admin.at(member) for member in self.regions]

    def site(self, number: int) -> Client:
        """The administrator at one site, counted from 1."""
        return self.admin.at(self.regions[number - 1])

    def auth(self) -> Json:
        """The tour's user by password, in its project."""
        return probe.password(f"ada-{self.run}", self.secret, self.made["domain"], self.made["project"])

    def log_in(self) -> None:
        """A token for the administrator, at the controller."""
        auth = probe.password("admin", self.home.password(), "default")
        auth["scope"] = {"project": {"name": "admin", "domain": {"id": "default"}}}
        self.made["admin"] = Client(self.members[0]).login(auth)

    def fresh(self, number: int, count: int) -> list[str]:
        """Tokens of the tour's user, issued at one site."""
        client = Client(self.regions[number - 1])
        return [client.login(probe.again(self.made["token"], self.made["project"])) for _ in range(count)]

    def signal(self, name: str, number: str) -> None:
        """Have the supervisor send a signal."""
        ask.control(self.home.control, command="signal", name=name, signal=number)


class Finding(NamedTuple):
    """What a step measured: a line for the summary, and lines that show it. `shown`: whether it could be tried here."""

    measured: str
    details: Sequence[str] = ()
    shown: bool = True


class Step(NamedTuple):
    """One promise and how it is put to the proof."""

    title: str
    promise: str
    prove: Callable[[Stage], Finding]


def digests(stage: Stage) -> tuple[int, str] | None:
    """(position, digest) when all replicas have the same, else None."""
    try:
        pages = [member.page("/digest", probe.PATIENCE_S) for member in stage.members]
    except (ask.Refusal, ask.Unanswered):  # a data centre that was away may need a moment
        return None
    found = {(page["position"], page["digest"]) for page in pages}
    return found.pop() if len(found) == 1 else None


def same(expected: object, got: object, what: str) -> None:
    """Raises Broken when something is other than was promised."""
    if expected != got:
        raise Broken(f"{what}: expected {expected}, got {got}")

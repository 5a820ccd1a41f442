"""People, projects and roles of a large cloud, put into a running controller through its own commit path."""

import asyncio
import itertools
import time
from typing import NamedTuple

from regional_keystone.log import put
from regional_keystone.model import Grant, Group, Membership, Project, Role, User
from regional_keystone.overlay import transact

AT_ONCE = 100  # rows of one transaction
UNDER_WAY = 8  # transactions
BEHIND = 200  # entries of the log
NOW = 1_700_000_000_000_000


class Size(NamedTuple):
    """How much of everything; one of the domains is `great`, and has so many of the users and a tenth of the projects."""

    domains: int = 100
    projects: int = 10_000
    users: int = 100_000
    groups: int = 1_000
    assignments: int = 500_000
    great: int = 10_000

    def part(self, divisor):
        """All of it so many times smaller."""
        return Size(*(max(10, one // divisor) for one in self))


def domain(number):
    """The id of a domain: projects are asked for by a parent in the form of a UUID."""
    return f"{number:032x}"


class Crowd:
    """Names are ids: `domain(0)` is the great domain, its users are `u0` and on."""

    def __init__(self, size):
        self.size = size

    def records(self):
        """Every record, what is referred to before what refers."""
        return itertools.chain(self._tops(), self._projects(), self._people(), self._grants(), self._memberships())

    @property
    def count(self):
        size = self.size
        return 1 + size.domains + size.projects + size.groups + size.users + size.assignments + self._members

    @property
    def _members(self):
        return self.size.users // 5

    def home(self, number, total, great):
        """The domain of the thing of this number: the first `great` of them are in the great one."""
        others = self.size.domains - 1
        return domain(0 if number < great else 1 + (number - great) * others // max(1, total - great))

    def _tops(self):
        yield Role(id="crowd", name="crowd")
        for number in range(self.size.domains):
            yield Project(id=domain(number), name=f"domain {number}", is_domain=True)

    def _projects(self):
        total = self.size.projects
        for number in range(total):
            home = self.home(number, total, total // 10)
            yield Project(id=f"p{number}", name=f"project {number}", domain_id=home, parent_id=home)

    def _people(self):
        size = self.size
        for number in range(size.groups):
            domain = self.home(number, size.groups, size.groups // 100)
            yield Group(id=f"g{number}", name=f"group {number}", domain_id=domain)
        for number in range(size.users):
            domain = self.home(number, size.users, size.great)
            yield User(id=f"u{number}", name=f"user {number}", domain_id=domain, created_at=NOW)

    def _grants(self):
        size = self.size
        by_groups = size.assignments // 50
        for number in range(size.assignments):
            in_turn, place = divmod(number, size.groups if number < by_groups else size.users)
            actor = ("group", f"g{place}") if number < by_groups else ("user", f"u{place}")
            project = (place * 7919 + in_turn * 101) % size.projects
            yield Grant(actor=actor[0], actor_id=actor[1], target="project", target_id=f"p{project}", role_id="crowd")

    def _memberships(self):
        for number in range(self._members):
            yield Membership(user_id=f"u{number * 5}", group_id=f"g{number % self.size.groups}")


async def fill(process, crowd, tell):
    """Store it all; rows a second. `tell(done, total)` now and then."""
    batches = _batched(crowd)
    done, began = 0, time.monotonic()
    numbers = itertools.count()

    async def work():
        nonlocal done
        for batch in batches:

            async def decide(_, batch=batch):
                return [put(one) for one in batch], None

            await transact(process.part.overlay, process.sequencer, f"crowd/{next(numbers)}", decide)
            done += len(batch)
            tell(done, crowd.count)
            # what the tables do not show yet is held in memory: they are not left far behind
            await process.part.follower.settled(process.sequencer.head - BEHIND, 600)

    await asyncio.gather(*(work() for _ in range(UNDER_WAY)))
    await process.part.follower.settled(process.sequencer.head, 600)
    return done / (time.monotonic() - began)


def _batched(crowd):
    rows = crowd.records()
    while batch := tuple(itertools.islice(rows, AT_ONCE)):
        yield batch

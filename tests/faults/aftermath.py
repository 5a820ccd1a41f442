"""When nothing is broken any more: are all replicas equal, what does every place show, what does the log hold?"""

import time
from pathlib import Path

from controller import ask
from controller.settings import Settings
from regional_keystone import settings
from regional_keystone.backends import open_log, open_store, system_clock
from regional_keystone.log import LOG, Entry, Put
from regional_keystone.model import RevocationEvent
from regional_keystone.record import decode, unspread
from tests.faults.checker import EQUAL_S
from tests.faults.cluster import Cluster
from tests.faults.history import Audit, Calm, Did, Logged, Saw
from tests.faults.world import Client, World, names
from tests.tables import Rows, dangling, entries_of, tell, unlike


def until_equal(world: World, healed: float) -> Calm:
    """Wait until all replicas have one digest at one position and nothing of a site's own waits to be taken over."""
    calm = Calm(number=world.history.number(), healed=healed)
    while world.history.now() < healed + EQUAL_S:
        calm.said, position = _difference(world)
        if not calm.said:
            calm.began, calm.position = world.history.now(), position
            break
        time.sleep(0.1)
    world.history.add(calm)
    return calm


def _difference(world: World) -> tuple[str, int]:
    """What is not equal yet, and the position."""
    try:
        pages = {place.name: ask.page(place.admin_port, "/status", 2.0) for place in world.places}
        found = {name: page["position"] for name, page in pages.items()}
        found |= {
            f"{name} pending": pending
            for name, page in pages.items()
            if (pending := (page.get("own_feed") or {}).get("pending"))
        }
        if len(set(found.values())) > 1:
            return str(found), 0
        digests = {}
        for place in world.places:
            began = world.history.now()
            page = ask.page(place.admin_port, "/digest", 20.0)
            digests[place.name] = (page["position"], page["digest"][:12])
            world.history.add(
                Saw(
                    place=place.name,
                    began=began,
                    ended=world.history.now(),
                    position=page["position"],
                    digest=page["digest"],
                )
            )
    except (ask.Unanswered, ask.Refusal) as error:
        return str(error), 0
    if len(set(digests.values())) > 1:
        return str(digests), 0
    return "", next(iter(digests.values()))[0]


def read_all(world: World, position: int) -> None:
    """Every place shows everything, once more."""
    client = Client(world, "last", "0")
    done = [one for one in world.history.events if isinstance(one, Did)]
    links = {(one.table, one.key) for one in done if one.kind in ("link", "unlink")}
    for place in world.places:
        for table in ("users", "projects", "groups"):
            client.list(table, place, position)
            for name in names(table):
                client.named(table, name, place, position)
        for table, key in sorted(links)[-300:]:
            client.link("linked", table, key, place, position)
        for held in world.tokens[-300:]:
            client.validate(held, place, position)
        client.validate_system(place)
    client.caller.close()


async def audit(world: World, place: str, cluster: Cluster, scratch: Path) -> None:
    """Read the log and the tables from a controller's store, and compare them."""
    if cluster.engines:
        told = settings.load(Settings, cluster.home.config(place), [f"site.state_dir={scratch}"], {})
        store = await open_log(told, system_clock())
    else:
        store = await open_store(cluster.home.state(place) / "log.db", only_reads=True)
    try:
        head = await store.head(LOG)
        rows: Rows = {}
        first = 0
        async for entry in entries_of(store):
            first = first or entry.number
            world.history.add(_logged(entry))
            tell(rows, entry)
        wrong = [*(await unlike(store, rows) if first == 1 else []), *await dangling(store)]
    finally:
        await store.close()
    world.history.add(Audit(place=place, first=first, head=head, wrong=wrong[:20]))


def _logged(entry: Entry) -> Logged:
    audits, revocations = [], []
    for change in entry.changes:
        if change.table == "revocations" and isinstance(change, Put):
            found = decode(RevocationEvent, change.row)
            audits += [found.audit_id] if found.audit_id else []
            revocations.append(unspread(found.id))
    rows = [f"{change.table}/{'/'.join(map(str, change.key))}" for change in entry.changes]
    return Logged(number=entry.number, id=entry.id, rows=rows, audits=audits, revocations=revocations)

"""One federation with both kinds of site: one reads its data centre in Cassandra, one has a file of its own."""

from regional_keystone.adapters.cassandra import CassandraReplica
from regional_keystone.adapters.sqlite import Sqlite
from regional_keystone.digest import digest
from regional_keystone.log import put
from regional_keystone.model import Region
from regional_keystone.overlay import transact
from regional_keystone.revocation import Traits
from tests.cloud import event, eventually
from tests.controllers import config_in, operated, site_of

OF_CASSANDRA, OF_A_FILE = "RegionOne", "RegionTwo"  # the first has tables of its own in the tests' keyspace


def refuses(site, audit_id):
    return site.part.follower.index.voided(Traits(issued_at=0, expires_at=10**18, audit_id=audit_id))


async def rows(part):
    async with part.store.snapshot() as snapshot:
        return await digest(snapshot)


async def test_both_hold_the_same_and_revoke_for_each_other(tmp_path, section_text):
    async with (
        operated(config_in(tmp_path, section_text)) as controller,
        site_of(tmp_path, controller, OF_CASSANDRA, section_text) as first,
        site_of(tmp_path, controller, OF_A_FILE) as second,
    ):
        assert isinstance(first.part.store, CassandraReplica)
        assert isinstance(second.part.store, Sqlite)

        async def decide(reader):
            return [put(Region(id=f"made-{number}")) for number in range(20)], None

        _, position = await transact(controller.part.overlay, controller.sequencer, "many", decide)
        for site in (first, second):
            assert await site.part.follower.settled(position, 30)
            assert await site.part.overlay.get(Region, "made-7") == Region(id="made-7")
            await eventually(lambda site=site: site.part.holder.seen == controller.part.holder.seen, 10)

        for at, other in ((first, second), (second, first)):
            audit_id = f"revoked-at-{at.identity.membership().name}"
            await at.own.revoke([event(audit_id, at.clock.now(), audit_id=audit_id)])
            for site in (at, other):
                await eventually(lambda site=site, audit_id=audit_id: refuses(site, audit_id), 20)
            await eventually(lambda at=at: at.own.pending() == 0, 20)

        head = controller.sequencer.head
        for part in (controller.part, first.part, second.part):
            assert await part.follower.settled(head, 30)
        assert await rows(first.part) == await rows(second.part) == await rows(controller.part)

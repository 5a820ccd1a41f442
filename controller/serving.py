"""Opens what a wired controller answers at, and runs it until it is ended."""

from collections.abc import Callable
from contextlib import AsyncExitStack
from urllib.parse import urlsplit

from aiohttp import web

from controller import admin_authority, admin_repair, admin_signing
from controller.admin import Admin
from controller.admin_compromise import CompromiseAdmin
from controller.ca_turn import CaTurn
from controller.settings import Settings
from controller.stream_tls import StreamTls
from controller.two_people import TwoPeople
from controller.wiring import Controller, Store
from regional_keystone import backends, exposure, logs, wiring
from regional_keystone.operator_listener import listen


async def serve(settings: Settings, ready: Callable[[], None], shared: Store | None = None) -> None:
    """A controller, until it is cancelled. Raises StoreRefused, ConfigurationError, or OSError for a taken port."""
    logs.configure(settings.default)
    async with AsyncExitStack() as stack:
        stack.enter_context(backends.only_user(settings.site.state_dir))
        exposure.refuse(settings)
        controller = Controller(settings, backends.system_clock(), shared)
        await controller.build(stack)
        await controller.sequencer.start()
        running = [controller.part.follower.run(), controller.sequencer.run(), wiring.look_after_keys(controller.part)]
        async with wiring.background(running) as group:
            newest = await controller.newest()  # before we write ourselves
            await controller.first()
            await controller.begin_clock(newest)
            await open_stream(stack, controller)
            await wiring.open_doors(
                stack, settings, controller.part, controller.door, controller.status, controller.ready
            )
            for task in controller.tasks():
                group.create_task(task)
            ready()


async def open_stream(stack: AsyncExitStack, controller: Controller) -> None:
    """Open the stream port and the operator's socket until the stack is left."""
    stream, state = controller.settings.stream, controller.settings.site.state_dir
    app = web.Application(client_max_size=64 * 1024)
    app.add_routes([web.get("/stream/v1", controller.replicator.stream), *controller.sites.routes()])
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    hosts = list(dict.fromkeys([urlsplit(controller.advertised).hostname or stream.host, stream.host]))
    controller.stream_tls = tls = StreamTls(controller.authority, state, hosts, controller.clock)
    await web.TCPSite(runner, stream.host, stream.port, ssl_context=tls.context).start()
    admin = _admin(controller)
    path = state / "admin.sock"
    stack.callback(path.unlink, missing_ok=True)
    operators = await listen(admin.app(), path)
    stack.push_async_callback(operators.cleanup)


def _admin(controller: Controller) -> Admin:
    people = TwoPeople(
        overlay=controller.part.overlay,
        sequencer=controller.sequencer,
        clock=controller.clock,
        answer=controller.door.api.answer,
    )
    compromise = CompromiseAdmin(
        compromise=controller.compromise,
        people=people,
        sites=controller.sites,
        name=controller.name,
        two_person=controller.settings.keys.two_person,
    )
    ca_turn = CaTurn(
        authority=controller.authority,
        sites=controller.sites,
        replicator=controller.replicator,
        clock=controller.clock,
        deadline_s=controller.settings.keys.acknowledge_deadline_s,
    )
    return Admin(
        sites=controller.sites,
        keys=controller.keys_admin(),
        regions=controller.regions,
        trusts=controller.trusts,
        overlay=controller.part.overlay,
        sequencer=controller.sequencer,
        status=controller.status,
        bootstrap=controller.bootstrap,
        cassandra=bool(controller.settings.cassandra.contact_points),
        two_person=controller.settings.keys.two_person,
        more=[
            *admin_signing.routes(controller.signing_keys, controller.sealed_tokens),
            *admin_authority.routes(controller.signer_turn, ca_turn),
            *compromise.routes(),
            *admin_repair.routes(controller.repair),
        ],
    )

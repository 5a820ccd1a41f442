"""Controllers and sites as their configuration files make them, in this process: all of them but their public doors."""

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager

from controller import serving, wiring
from controller.settings import Settings as ControllerSettings
from regional_keystone import backends, settings
from regional_keystone.enrol import Identity, JoinToken
from regional_keystone.site import Site
from tests.cloud import free_port


def config_in(folder, more=""):
    """Its file, with a state directory beside it and a port that is free."""
    config = folder / "controller.conf"
    config.write_text(f"[site]\nstate_dir = {folder / 'controller'}\n[stream]\nport = {free_port()}\n{more}")
    return config


@asynccontextmanager
async def tasks(coroutines):
    """Runs these beside what is done here; none of them may end by itself."""
    running = [asyncio.ensure_future(one) for one in coroutines]
    try:
        yield
        assert not [task for task in running if task.done()]
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


@asynccontextmanager
async def operated(config, clock=None):
    """The controller of this file, as operators and sites reach it.

    What it does by itself as time passes does not run: those are `tasks(controller.tasks())`.
    """
    found = settings.load(ControllerSettings, config, environ={})
    found.site.state_dir.mkdir(mode=0o700)
    async with AsyncExitStack() as stack:
        controller = wiring.Controller(found, clock or backends.system_clock())
        await controller.build(stack)
        await controller.sequencer.start()
        async with tasks([controller.part.follower.run(), controller.sequencer.run()]):
            await controller.first()
            await serving.open_stream(stack, controller)
            yield controller


@asynccontextmanager
async def site_of(folder, controller, name, more="", clock=None):
    """A site that has joined, and all that it does by itself."""
    file = folder / f"{name}.conf"
    file.write_text(f"[site]\nstate_dir = {folder / name}\n{more}")
    found = settings.load(settings.Settings, file, environ={})
    found.site.state_dir.mkdir(mode=0o700)
    identity = Identity(found.site.state_dir / "identity")
    await identity.join(JoinToken.read(await controller.sites.invite(name)))
    async with AsyncExitStack() as stack:
        site = Site(found, clock or backends.system_clock(), identity)
        await site.build(stack)
        async with tasks(site.tasks()):
            yield site

"""What a worker has answered is taken up when it is killed before it could say so."""

import dataclasses

from regional_keystone.messages import Request
from regional_keystone.middleware_cache import names
from regional_keystone.settings import MiddlewareCache
from tests.cloud import eventually
from tests.site.test_workers import login, region

NOBODY = "127.0.0.1:1"  # no service keeps anything there


def caching(made):
    made.settings = dataclasses.replace(made.settings, middleware_cache=MiddlewareCache(servers=(NOBODY,)))


async def test_what_a_worker_answered_in_its_last_moment_is_known_to_the_site(tmp_path):
    async with region(tmp_path, 2, caching) as two:
        worker, purge = two.worker(2), two.site.purge
        token = (await login(worker)).headers["X-Subject-Token"]
        headers = {"x-auth-token": token, "x-subject-token": token}
        request = Request(id="v", method="GET", path="/v3/auth/tokens", headers=headers)
        assert (await worker.door.api.answer(request)).status == 200
        worker.door.fastpath.answered._fresh.clear()  # it never comes to telling it
        assert not len(purge)
        two.processes[2][-1].kill()
        await eventually(lambda: len(purge) == 1, 20)
        known = worker.door.fastpath.answered._known
        assert purge._held.keys() == {names(token, known)[0]}

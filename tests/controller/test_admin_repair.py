"""What the operator's socket answers about rows in Cassandra where there is none."""

from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from controller.admin_repair import routes
from regional_keystone.operator_listener import rendered


async def test_records_in_files_are_not_repaired_from_here():
    app = web.Application(middlewares=[rendered])
    app.add_routes(routes(None))
    async with TestClient(TestServer(app)) as client:
        for asked in (client.get("/db/repair"), client.post("/db/repair", json={"table": "users"})):
            answer = await asked
            assert answer.status == 400
            assert "each site compares its own" in await answer.text()

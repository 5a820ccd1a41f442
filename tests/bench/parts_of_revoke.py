"""The processes of `bench_revoke`: what they are told and asked, and those that are clients or links between regions.

A line of JSON tells a process what to be, each further one is a question, and each answer a line. All of them measure
by the machine's one monotonic clock, in seconds, so that their figures can be subtracted.
`python -m tests.bench.parts_of_revoke KIND`.
"""

import asyncio
import gc
import itertools
import json
import resource
import sys
import time
from collections import Counter
from contextlib import AsyncExitStack

from tests.engines.tcp_proxy import TcpProxy


def cpu_s():
    """User and system time that this process has had."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def paced(begun, number, per_s):
    """Until the moment of the thing of this number."""
    early_s = begun + number / per_s - time.monotonic()
    if early_s > 0.001:
        await asyncio.sleep(early_s)


# --- links ------------------------------------------------------------------------------------------------------------


class Links:
    """`{"target": port, "delays_s": [...]}`: a proxy for each, both ways late by so much; its ports are the answer."""

    async def start(self, stack, told):
        self.proxies = [stack.enter_context(TcpProxy(("127.0.0.1", told["target"]))) for _ in told["delays_s"]]
        await self.slow(told["delays_s"])

    async def slow(self, delays_s):
        for proxy, delay_s in zip(self.proxies, delays_s, strict=False):
            proxy.slow(delay_s)
        return [proxy.port for proxy in self.proxies]


# --- clients ----------------------------------------------------------------------------------------------------------


class Connection:
    """Requests one after another to one port, with nothing between them and the socket."""

    def __init__(self, port):
        self.port = port

    async def __aenter__(self):
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self.port)
        return self

    async def __aexit__(self, *_):
        self._writer.close()

    async def ask(self, method, caller, subject):
        """The status."""
        self._writer.write(
            f"{method} /v3/auth/tokens HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nX-Auth-Token: {caller}\r\n"
            f"X-Subject-Token: {subject}\r\nAccept: application/json\r\n\r\n".encode()
        )
        head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        _, _, length = head.partition(b"content-length:")
        if length:
            await self._reader.readexactly(int(length.split(None, 1)[0]))
        return int(head.split(None, 2)[1])


class Load:
    """`{"ports": [...], "caller": token, "subjects": [...], "per_s": n}`: so many validations a second at each port."""

    async def start(self, stack, told):
        del stack
        self.told, self.statuses = told, Counter()
        first_s = 1 / told["per_s"] / len(told["ports"])
        self._tasks = [
            asyncio.create_task(self._validate(port, number * first_s)) for number, port in enumerate(told["ports"])
        ]

    async def _validate(self, port, first_s):
        subjects = itertools.cycle(self.told["subjects"])
        async with Connection(port) as connection:
            await asyncio.sleep(first_s)
            begun = time.monotonic()
            for number in itertools.count():
                await paced(begun, number, self.told["per_s"])
                self.statuses[await connection.ask("GET", self.told["caller"], next(subjects))] += 1

    async def count(self):
        """Answers by status since this was asked last."""
        found, self.statuses = self.statuses, Counter()
        return found


class Revoker:
    """`{"port", "caller"}`: revokes over so many connections, so many a second."""

    async def start(self, stack, told):
        del stack
        self.told = told

    async def revoke(self, tokens, per_s, connections):
        """`tokens`: (audit id, token). When each was answered 204, and what else was answered."""
        waiting, done, other = iter(enumerate(tokens)), {}, Counter()
        begun = time.monotonic()

        async def work():
            async with Connection(self.told["port"]) as connection:
                for number, (audit_id, token) in waiting:
                    await paced(begun, number, per_s)
                    status = await connection.ask("DELETE", self.told["caller"], token)
                    if status == 204:
                        done[audit_id] = time.monotonic()
                    else:
                        other[status] += 1

        before_s = cpu_s()
        await asyncio.gather(*(work() for _ in range(connections)))
        return {"done": done, "other": other, "took_s": time.monotonic() - begun, "cpu_s": cpu_s() - before_s}


KINDS = {"links": Links, "load": Load, "revoker": Revoker}


async def converse(part):
    """Be what the first line says; answer each further one, `[name, {arguments}]`, until there is none."""
    loop, reader = asyncio.get_running_loop(), asyncio.StreamReader(limit=2**28)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    try:
        async with AsyncExitStack() as stack:
            await part.start(stack, json.loads(await reader.readline()))
            gc.collect()
            gc.freeze()  # as servers do once they serve
            tell(None)
            while line := await reader.readline():
                name, arguments = json.loads(line)
                tell(cpu_s() if name == "cpu" else await getattr(part, name)(**arguments))
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()
    except* asyncio.CancelledError:
        pass


def tell(answer):
    print(json.dumps(answer), flush=True)


def run(part):
    """Be this until nothing more is asked."""
    try:
        from uvloop import new_event_loop
    except ImportError:
        new_event_loop = None
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(converse(part))


if __name__ == "__main__":
    run(KINDS[sys.argv[1]]())

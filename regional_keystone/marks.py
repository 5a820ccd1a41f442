"""Who waits for a number that only grows: the position of a replica, say."""

import asyncio
import heapq


class Marks:
    """Wakes who waits for a number that only grows."""

    def __init__(self) -> None:
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._count = 0

    def reached(self, number: int) -> None:
        """Wake everyone who waits for this number or less."""
        while self._waiting and self._waiting[0][0] <= number:
            future = heapq.heappop(self._waiting)[2]
            if not future.done():
                future.set_result(None)

    async def wait(self, number: int, within_s: float | None = None) -> bool:
        """Wait for a number that has not been reached yet; False when it takes longer."""
        future = asyncio.get_running_loop().create_future()
        self._count += 1
        waiting = (number, self._count, future)
        heapq.heappush(self._waiting, waiting)
        try:
            await asyncio.wait([future], timeout=within_s)
        finally:
            if not future.done():  # what was given up is not kept until its number comes, which may be never
                self._waiting.remove(waiting)
                heapq.heapify(self._waiting)
        return future.done()

"""An event loop that a seed drives: many processes in one, time of its own, and nothing happens but by one step at a time.

A step runs one callback of one process, or moves time to the next moment at which something is due. Which process runs
is drawn; within a process, order is asyncio's. A process can be stopped for a while, and killed between any two steps.
"""

import asyncio
import heapq
import random
from collections import deque
from contextvars import ContextVar, copy_context

PROCESS = ContextVar("process", default=None)


class Process:
    """What dies and stops as one."""

    def __init__(self, name):
        self.name = name
        self.alive = True
        self.stopped_until = 0.0
        self.queue = deque()

    def __repr__(self):
        return f"Process({self.name})"


class Loop(asyncio.AbstractEventLoop):
    """As much of an event loop as the product uses: no sockets, no threads, no signals."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.steps = 0
        self.failures = []
        self._time = 0.0
        self._timers = []
        self._count = 0
        self._runnable = {}  # processes with something to run, in the order in which they got it
        self._outside = Process("outside")
        self._all = []
        self._processes = [self._outside]
        self._over = False

    def time(self):
        return self._time

    def get_debug(self):
        return False

    def is_running(self):
        return True

    def is_closed(self):
        return False

    def call_soon(self, callback, *args, context=None):
        handle = asyncio.Handle(callback, args, self, copy_context() if context is None else context)
        self._enqueue(handle)
        return handle

    def _enqueue(self, handle):
        process = handle._context.get(PROCESS) or self._outside
        process.queue.append(handle)
        if process.alive:
            self._runnable[process] = None

    def call_later(self, delay, callback, *args, context=None):
        return self.call_at(self._time + max(0.0, delay), callback, *args, context=context)

    def call_at(self, when, callback, *args, context=None):
        handle = asyncio.TimerHandle(when, callback, args, self, copy_context() if context is None else context)
        self._count += 1
        heapq.heappush(self._timers, (when, self._count, handle))
        return handle

    def _timer_handle_cancelled(self, handle):
        pass

    def create_future(self):
        return asyncio.Future(loop=self)

    def create_task(self, coro, *, name=None, context=None):
        self._all = [one for one in self._all if not one.done()] if len(self._all) > 2000 else self._all
        task = asyncio.Task(coro, loop=self, name=name, context=context)
        task._log_destroy_pending = False
        self._all.append(task)
        return task

    def run_in_executor(self, executor, function, *args):
        """The work is done at one moment, or, if the process dies before, never."""
        future, process = self.create_future(), PROCESS.get()

        def work():
            if process is not None and not process.alive:
                return
            try:
                found = function(*args)
            except BaseException as error:
                if not future.done():
                    future.set_exception(error)
            else:
                if not future.done():
                    future.set_result(found)

        self.call_later(self.latency_s(), work)
        return future

    def call_exception_handler(self, context):
        if not self._over:
            self.failures.append(context.get("exception") or RuntimeError(context["message"]))

    def latency_s(self):
        """How long something takes: mostly little."""
        draw = self.random.random()
        if draw < 0.9:
            return 0.02 * draw
        return 0.1 * draw if draw < 0.99 else 1.5 * self.random.random()

    def spawn(self, process, coroutine):
        """Run this in that process."""
        if process not in self._processes[-8:]:
            self._processes.append(process)
        context = copy_context()
        context.run(PROCESS.set, process)
        return self.create_task(coroutine, context=context)

    def run_as(self, process, function, *args):
        """Call something at once, as if that process did."""
        context = copy_context()
        context.run(PROCESS.set, process)
        return context.run(function, *args)

    def kill(self, process):
        """It does nothing any more; nothing is said good-bye to."""
        process.alive = False
        self._runnable.pop(process, None)

    def step(self, until=float("inf")):
        """One callback, or time moves. False when nothing is due before `until`."""
        self.steps += 1
        ready = [one for one in self._runnable if one.stopped_until <= self._time]
        if ready:
            process = ready[0] if len(ready) == 1 else ready[int(self.random.random() * len(ready))]
            handle = process.queue.popleft()
            if not process.queue:
                del self._runnable[process]
            if not handle._cancelled:
                handle._run()
            return True
        while self._timers and self._timers[0][2]._cancelled:
            heapq.heappop(self._timers)
        wakes = min((one.stopped_until for one in self._runnable), default=float("inf"))
        due = self._timers[0][0] if self._timers else float("inf")
        if min(wakes, due) > until:
            self._time = until if until < float("inf") else self._time
            return False
        self._time = max(self._time, min(wakes, due))
        if due <= wakes:
            self._enqueue(heapq.heappop(self._timers)[2])
        return True

    def drive(self, awaitable, process=None, most=200_000):
        """Step until this is done; its result."""
        task = self.spawn(process or self._outside, awaitable)
        for _ in range(most):
            if task.done():
                return task.result()
            self.step()
        raise AssertionError("it never ended")

    def close(self):
        """End every task, also those of the dead."""
        self._over = True
        for _ in range(20):
            for task in self._all:
                task.cancel()
            for process in self._processes:
                for _ in range(min(len(process.queue), 10_000)):
                    handle = process.queue.popleft()
                    if not handle._cancelled:
                        handle._run()
            if all(task.done() for task in self._all):
                break
        self._timers.clear()

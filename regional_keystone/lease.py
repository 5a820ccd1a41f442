"""How long a place may still seal tokens: as the controller promised when it last was heard, by the place's own clock.

A pure value. The controller keeps a key for as long as anybody may seal with it, so whoever does not hear of it any
more has to end. Source: docs/adr/0025-keys-retire-by-time-and-sealing-ends.md.
"""

from typing import NamedTuple

DRIFT = 0.001
"""How much a clock may be slow: a clock that is kept right is changed in rate by half as much at most."""


class Lease(NamedTuple):
    """A leave to seal for `promise_s` seconds from `sure_at`, in `ports.Clock.ticks`; without it there is none.

    `sure_at`: the newest moment at which the ring in use was the newest of the log. So a place ends that hears nothing,
    and one that hears of a newer ring and cannot install it: the time has run since it could have known of both.
    """

    promise_s: float
    sure_at: float | None = None

    def renewed(self, ticks: float) -> "Lease":
        """It was the newest ring at `ticks` as well. Never shortens."""
        return self._replace(sure_at=ticks if self.sure_at is None else max(self.sure_at, ticks))

    def promising(self, promise_s: float) -> "Lease":
        """The ring that was installed now came with this promise."""
        return self._replace(promise_s=promise_s)

    def left_s(self, ticks: float) -> float:
        """For how many seconds tokens may still be sealed; 0 from the end on."""
        if self.sure_at is None:
            return 0.0
        return max(0.0, self.sure_at + self.promise_s * (1 - DRIFT) - ticks)

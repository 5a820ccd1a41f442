"""What a turn of the keys has come to: which sites hold the rings that it made, and who does not. Pure."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

NOT_ACKNOWLEDGED = 7
"""Exit code: the keys have turned, and a site that counts has not said that it holds them."""


class Outcome(NamedTuple):
    """Of one ring: the epoch that the turn made, the sites that hold it, those that lack it, those not waited for."""

    ring: str
    epoch: int
    acknowledged: tuple[str, ...]
    lacking: tuple[str, ...]
    quarantined: tuple[str, ...]

    def __str__(self) -> str:
        without = [*self.lacking, *(f"{site} (quarantined, not waited for)" for site in self.quarantined)]
        count, total = len(self.acknowledged), len(self.acknowledged) + len(without)
        said = f"turned: epoch {self.epoch} of the {self.ring} keys, acknowledged by {count} of {total}"
        return said + (f"; not by {', '.join(without)}" if without else "")


def outcomes(epochs: Mapping[str, int], status: Mapping[str, Any]) -> list[Outcome]:
    """How far the turn to these epochs (by ring) is, by what the controller tells of the rings now.

    A ring that has gone on since, as for a site that joins, counts from the epoch that the turn made.
    """
    return [_outcome(name, epoch, status["rings"][name]) for name, epoch in epochs.items()]


def lacking(found: Iterable[Outcome]) -> list[str]:
    """The sites that count and have not acknowledged."""
    return sorted({site for one in found for site in one.lacking})


def plain(found: Iterable[Outcome]) -> dict[str, Any]:
    """As it is told to programs, by ring."""
    return {one.ring: {name: one[at] for at, name in enumerate(one._fields) if name != "ring"} for one in found}


def _outcome(name: str, epoch: int, ring: Mapping[str, Any]) -> Outcome:
    sites, went_on = ring["sites"], ring["epoch"] > epoch
    holds = {site for site, told in sites.items() if told["is_newest"] or (went_on and told["epoch"] >= epoch)}
    return Outcome(
        name,
        epoch,
        tuple(sorted(holds)),
        tuple(site for site in ring["waits_for"] if site not in holds),
        tuple(sorted(site for site, told in sites.items() if told["state"] != "active" and site not in holds)),
    )

"""What may be proved by a run: the keys' protocol, the same among operators' deeds, or revocation."""

from typing import NamedTuple

from tests.model.operators import OperatorsWorld
from tests.model.revocation_world import RevocationWorld
from tests.model.world import World


class Area(NamedTuple):
    """`every`: steps between two deeds, about; `length`: steps of a run of many."""

    world: type[World]
    every: int
    length: int


AREAS = {
    "keys": Area(World, 100, 20_000),
    "operators": Area(OperatorsWorld, 50, 20_000),
    "revocation": Area(RevocationWorld, 10, 20_000),
}

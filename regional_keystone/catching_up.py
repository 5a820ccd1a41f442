"""Takes up many entries a few at a time: who has missed a hundred thousand still answers all the while."""

from collections.abc import Callable, Sequence

from regional_keystone.log import Entry
from regional_keystone.ports import Clock

AT_ONCE = 32  # entries: less than a millisecond


async def take_up(note: Callable[[Sequence[Entry]], None], entries: Sequence[Entry], clock: Clock) -> None:
    """Note all of these, in order; whoever waits for an answer is served in between. No entries are noted as well.

    Others may note further entries meanwhile: whoever notes passes over what it knows.
    """
    for start in range(0, max(1, len(entries)), AT_ONCE):
        note(entries[start : start + AT_ONCE])
        await clock.sleep(0)

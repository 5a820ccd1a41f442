"""Puts together what deletes from the caches of the region's services: at a site, in its workers, at a controller."""

from collections.abc import Callable
from functools import partial
from typing import Final

from regional_keystone.backends import token_caches
from regional_keystone.freshness import limits_s
from regional_keystone.journal import Journal
from regional_keystone.middleware_cache import Answers, Told, strategies
from regional_keystone.parts import Door, Replica
from regional_keystone.ports import Clock
from regional_keystone.purge import Purge, Terms
from regional_keystone.report import export_purge
from regional_keystone.settings import Settings
from regional_keystone.told import Ahead, left

_ANSWERED: Final = "answered"


def purge(settings: Settings, part: Replica, opened: Door) -> Purge | None:
    """What deletes from the caches of the region's services, told by this process; None where none is named.

    It does its work while `run` does. Raises ConfigurationError, and StoreRefused for a secret's file.
    """
    section = settings.middleware_cache
    if not section.servers:
        return None
    made = Purge(
        knowledge=part.follower,
        look=opened.validator.facts,
        memory=opened.fastpath,
        clock=part.clock,
        servers=token_caches(settings),
        journal=Journal(settings.site.state_dir / _ANSWERED),
        terms=Terms(
            token_cache_time_s=section.token_cache_time,
            in_flight_s=section.in_flight_s,
            entries=section.entries,
            limits=limits_s(settings.freshness),
        ),
        ahead=partial(left, settings.site.state_dir / _ANSWERED),
    )
    part.follower.heeders.append(made.heard)
    part.follower.watchers.append(made.disturb)
    part.follower.forgetters.append(made.forget_all)
    tell_answers(settings, opened, part.clock, made.take)
    export_purge(opened.metrics.tell, made)
    return made


def tell_answers(
    settings: Settings, opened: Door, clock: Clock, hand_on: Callable[[list[Told]], None], number: int = 1
) -> None:
    """Have this process, of this number at its place, tell what it answers 200. Raises as `purge` does."""
    section = settings.middleware_cache
    if section.servers:
        ahead = Ahead(settings.site.state_dir / _ANSWERED, number, clock)
        opened.fastpath.answered = Answers(strategies(section), section.token_cache_time, hand_on, ahead.write)

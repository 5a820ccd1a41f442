"""What a process tells of itself: its part of /status, and what metrics ask at each scrape. No secret is in it."""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from regional_keystone.backends import cassandra_counters
from regional_keystone.convergence import Comparing
from regional_keystone.follow import Follower
from regional_keystone.freshness import CLASSES
from regional_keystone.holder import Holder
from regional_keystone.metrics import Durations, Told
from regional_keystone.parts import Door, Replica
from regional_keystone.passwords import hashes_waiting
from regional_keystone.ports import Clock
from regional_keystone.purge import Purge
from regional_keystone.signing import SIGNING

if TYPE_CHECKING:
    from regional_keystone.backends import Counters


def common_status(part: Replica, opened: Door) -> dict[str, Any]:
    """The part of /status that sites and controllers share; no secret is in it."""
    follower, seen = part.follower, part.holder.seen
    rings = {name: _ring_status(holder) for name, holder in follower.holders.items() if holder.seen.epoch}
    age_s = follower.age_s()
    return {
        "name": part.holder.name,
        "position": follower.position,
        "projected": follower.projected,
        "head": follower.head,
        "lag_entries": follower.head - follower.position,
        "age_s": None if age_s == float("inf") else round(age_s, 3),
        "too_old_for": opened.validator.limits.passed(),
        "sealing": {"left_s": round(follower.leave.left_s(), 3), "refused": follower.why_not_seal()},
        "sealed_tokens": {"read": follower.signers.reads_sealed, "refused": opened.validator.sealed},
        "ring_epoch": seen.epoch,
        "rings": rings,
        "drained": follower.drained,
        "requests": opened.metrics.requests_served,
        "revocations": len(follower.index),
    }


def _ring_status(holder: Holder) -> dict[str, Any]:
    ring = holder.installed
    keys = {str(number): value for number, value in ring.check_values().items()}
    shown = {"epoch": ring.epoch, "fingerprint": ring.fingerprint, "primary": ring.primary, "keys": keys}
    shown |= {"durable": holder.held == holder.seen, "damage": [str(damage) for damage in holder.damage]}
    return shown if holder.followed is None else shown | {"follows": holder.followed.status()}


def export(part: Replica, opened: Door) -> None:
    """Let metrics ask what the replica knows, at each scrape."""
    follower, tell = part.follower, opened.metrics.tell
    tell("log_position", lambda: follower.position)
    tell("log_head", lambda: follower.head)
    tell("lag_entries", lambda: follower.head - follower.position)
    tell("age_seconds", follower.age_s)
    limits = opened.validator.limits
    tell("too_old_for", lambda: dict.fromkeys(CLASSES, 0) | dict.fromkeys(limits.passed(), 1))
    tell("sealing_left_seconds", follower.leave.left_s)
    tell("revocations_live", lambda: len(follower.index))
    tell("ring_epoch", lambda: {name: seen.epoch for name, seen in follower.seen.items()})
    tell("bundles_refused", lambda: sum((one.refused for one in follower.holders.values()), Counter[str]()))
    tell("key_damage", lambda: _damage(follower))
    tell("key_directories_mended", lambda: {name: holder.mended for name, holder in follower.holders.items()})
    tell("condemned_keys", lambda: len(follower.condemned))
    tell("sealed_tokens_read", lambda: float(follower.signers.reads_sealed))
    holders = follower.holders
    tell("bundle_left_seconds", lambda: left_s({name: one.not_after for name, one in holders.items()}, part.clock))
    tell("follows_keystone", lambda: float(any(one.followed for one in follower.holders.values())))
    tell("password_hash_queue", hashes_waiting)
    counters = cassandra_counters(part.store)
    if counters is not None:
        _export_cassandra(tell, counters)


def _damage(follower: Follower) -> dict[str, int]:
    found = {name: len(holder.damage) for name, holder in follower.holders.items()}
    return found | ({} if follower.signatory is None else {SIGNING: len(follower.signatory.damage)})


def left_s(ends: Mapping[str, int | None], clock: Clock) -> dict[str, float]:
    """How many seconds are left until each of these, of those that are known; negative after it."""
    return {name: (at - clock.now()) / 1_000_000 for name, at in ends.items() if at is not None}


def _export_cassandra(tell: Callable[[str, Callable[[], Told]], None], counters: "Counters") -> None:
    tell("cassandra_requests", lambda: counters.requests)
    tell("cassandra_errors", lambda: counters.errors)
    tell("cassandra_breaker_open", lambda: counters.breaker_open)
    tell("cassandra_breaker_opened", lambda: counters.breaker_opened)
    tell("cassandra_duration_seconds", lambda: Durations(counters.told(), counters.answers, counters.seconds))


def export_comparing(tell: Callable[[str, Callable[[], Told]], None], made: Comparing) -> None:
    """Let metrics ask what comparing this replica with the controller's tables has found."""
    tell("drift_rows", lambda: made.found)
    tell("drift_unmended", lambda: made.unmended)
    tell("convergence_age_seconds", made.age_s)
    tell("convergence_bytes", lambda: made.bytes)
    tell("convergence_rows", lambda: made.survey.rows)


def export_purge(tell: Callable[[str, Callable[[], Told]], None], made: Purge) -> None:
    """Let metrics ask what is purged of the services' caches."""
    tell("middleware_cache_tokens", lambda: len(made))
    tell("middleware_cache_purged", lambda: made.purged)
    tell("middleware_cache_lost", made.lost)
    tell("middleware_cache_up", lambda: {one.server.name: one.up for one in made.deletions})
    tell("middleware_cache_failures", lambda: {one.server.name: one.failures for one in made.deletions})
    tell("middleware_cache_owed", lambda: {one.server.name: len(one) for one in made.deletions})
    tell("middleware_cache_lag_seconds", lambda: max(one.lag_s() for one in made.deletions))

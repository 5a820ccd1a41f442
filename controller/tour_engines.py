"""The tour's steps on real engines: several controllers over one log, and engines that die, freeze or are cut off."""

import os
import secrets
import signal
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

from controller import ask, probe
from controller.federation import Member
from controller.probe import Broken, Client, Load, ms, until
from controller.stage import Finding, Stage, Step, digests, same

PAIRS, CHANGES = 20, 40
_LOADED_S = 2.0
_EQUAL_S = 30.0
_ROW = 6


def either(stage: Stage) -> Finding:
    """What one controller answered, the other knows; of one name at both, one is made."""
    first, second = _controllers(stage)
    slowest = 0.0
    for number in range(PAIRS):
        here, there = (first, second) if number % 2 else (second, first)
        made = here.make("group", "/v3/groups", name=f"pair-{stage.run}-{number}", domain_id=stage.made["domain"])
        begun = time.monotonic()
        there.expect(200, "GET", f"/v3/groups/{made['id']}")
        slowest = max(slowest, time.monotonic() - begun)
    with ThreadPoolExecutor(2) as pool:
        for number in range(PAIRS):
            body = {"group": {"name": f"race-{stage.run}-{number}", "domain_id": stage.made["domain"]}}
            racing = [pool.submit(one.ask, "POST", "/v3/groups", body) for one in (first, second)]
            same([201, 409], sorted(one.result().status for one in racing), "one name at both controllers")
    return Finding(f"{PAIRS} changes read at the other, at the latest after {ms(slowest)}; {PAIRS} races, one 201 each")


def lose_controller(stage: Stage) -> Finding:
    """Kill one controller while the other is used."""
    lost, other = stage.controllers[0], _direct(stage.controllers[1])
    work: list[Callable[[], str]] = [
        partial(_make, Client(other, stage.made["admin"]), stage),
        _validating(stage, stage.regions),
    ]
    with Load(work, 0.005) as load:
        time.sleep(_LOADED_S / 2)
        stage.signal(lost.name, "KILL")
        time.sleep(_LOADED_S)
    _kept(load, "requests through the other controller")
    through = stage.admin.make("group", "/v3/groups", name=f"after-{stage.run}", domain_id=stage.made["domain"])
    ask.control(stage.home.control, command="revive")
    return Finding(f"{load.done} requests, 0 failed", [f"the proxy found the other one: group {through['id'][:8]}"])


def lose_worker(stage: Stage) -> Finding:
    """Kill one of the processes at a region's port while it validates."""
    region = stage.regions[0]
    workers = region.page("/status", probe.PATIENCE_S)["workers"]
    with Load([_validating(stage, [region]) for _ in range(4)], 0.0) as load:
        time.sleep(_LOADED_S / 2)
        os.kill(workers[0]["pid"], signal.SIGKILL)
        time.sleep(_LOADED_S)
    _kept(load, f"validations at {region.name}")
    return Finding(f"{load.done} validations, 0 failed", [f"a worker of {region.name} was killed by SIGKILL meanwhile"])


def freeze(stage: Stage) -> Finding:
    """Stop a data centre."""
    last = stage.regions[-1]
    warm = Client(last)
    same(200, warm.validate(stage.made["token"]), f"validation at {last.name}")
    stage.signal("cassandra3", "STOP")
    try:
        took = _change(stage)
        begun = time.monotonic()
        same(200, warm.validate(stage.made["token"]), f"validation at {last.name} from memory")
        validated = time.monotonic() - begun
    finally:
        stage.signal("cassandra3", "CONT")
    equal, again = _equal(stage), _issues_again(stage, last)
    details = [
        f"{last.name} validates from memory in {ms(validated)}",
        f"equal digests {ms(equal)} after SIGCONT; all its processes issue tokens {ms(again)} later",
    ]
    return Finding(f"{CHANGES} changes in {ms(took)}, 0 failed", details)


def cut_off(stage: Stage) -> Finding:
    """Cut a data centre off from the others."""
    last = stage.regions[-1]
    doomed = stage.fresh(len(stage.regions), 1)[0]
    try:
        ask.control(stage.home.control, command="cut", name="cassandra3")
    except ask.Refusal as refusal:
        return Finding(f"not shown: {refusal}", shown=False)
    try:
        took = _change(stage)
        fresh = Client(last).login(stage.auth())
        same(200, stage.site(len(stage.regions)).validate(fresh), f"a token that {last.name} issued alone")
        own = Client(last, doomed)
        own.expect(204, "DELETE", "/v3/auth/tokens", X_Subject_Token=doomed)
        same(404, stage.site(len(stage.regions)).validate(doomed), "a token revoked there")
    finally:
        ask.control(stage.home.control, command="rejoin")
    for client in stage.sites:
        until(f"a refusal at {client.member.name}", lambda client=client: client.validate(doomed) == 404)  # type: ignore[misc]
    details = [
        f"{last.name} issued, validated and revoked on its own data centre",
        f"equal digests {ms(_equal(stage))} after the cut was mended",
    ]
    return Finding(f"{CHANGES} changes in {ms(took)}, 0 failed", details)


def lose_helpers(stage: Stage) -> Finding:
    """Kill a cache and all of ZooKeeper."""
    killed = ["memcached1-11211", "zookeeper1", "zookeeper2", "zookeeper3"]
    for name in killed:
        stage.signal(name, "KILL")
    begun = time.monotonic()
    try:
        with Load([_validating(stage, stage.regions)], 0.005) as load:
            took = _change(stage)
        _kept(load, "validations")
        said = _refused_turn(stage)
    finally:
        ask.control(stage.home.control, command="revive")
    until("a turn of the keys", lambda: bool(ask.admin(stage.home.admin, "/keys/rotate", {})), _EQUAL_S)
    details = [f"turning keys: {said!r}", f"keys turn again {ms(time.monotonic() - begun)} after the loss"]
    return Finding(f"{CHANGES} changes in {ms(took)}, {load.done} validations, 0 failed", details)


def _refused_turn(stage: Stage) -> str:
    try:
        ask.admin(stage.home.admin, "/keys/rotate", {})
    except ask.Refusal as refusal:
        return str(refusal)
    raise Broken("expected a turn of the keys to wait for ZooKeeper")


def _controllers(stage: Stage) -> list[Client]:
    return [Client(_direct(member), stage.made["admin"]) for member in stage.controllers]


def _direct(member: Member) -> Member:
    """The process itself, not its proxy."""
    return replace(member, front=None)


def _make(client: Client, stage: Stage) -> str:
    name = f"load-{stage.run}-{secrets.token_hex(6)}"
    answer = client.ask("POST", "/v3/groups", {"group": {"name": name, "domain_id": stage.made["domain"]}})
    return "" if answer.status == 201 else f"a change at {client.member.name}: {answer.status}"


def _validating(stage: Stage, regions: Sequence[Member]) -> Callable[[], str]:
    clients, turn = [Client(member) for member in regions], iter(range(1 << 62))

    def validate() -> str:
        client = clients[next(turn) % len(clients)]
        status = client.validate(stage.made["token"])
        return "" if status == 200 else f"validation at {client.member.name}: {status}"

    return validate


def _kept(load: Load, what: str) -> None:
    if load.wrong:
        raise Broken(f"expected no failure of {what}, got {len(load.wrong)} of {load.done}: {load.wrong[0]}")


def _change(stage: Stage) -> float:
    """Seconds for some changes through the controllers' proxy."""
    client, begun = stage.admin, time.monotonic()
    for _ in range(CHANGES):
        if wrong := _make(client, stage):
            raise Broken(wrong)
    return time.monotonic() - begun


def _issues_again(stage: Stage, region: Member) -> float:
    """Seconds until a region issues tokens in all of its processes, as far as a row of new connections can show."""
    begun = time.monotonic()
    until(f"tokens of {region.name}", lambda: all(_issues(stage, region) for _ in range(_ROW)), _EQUAL_S)
    return time.monotonic() - begun


def _issues(stage: Stage, region: Member) -> bool:
    with Client(region) as client:
        return (
            client.ask(
                "POST", "/v3/auth/tokens", {"auth": probe.again(stage.made["token"], stage.made["project"])}
            ).status
            == 201
        )


def _equal(stage: Stage) -> float:
    """Seconds until every replica has the same digest."""
    begun = time.monotonic()
    until("equal digests", lambda: digests(stage), _EQUAL_S)
    return time.monotonic() - begun


STEPS = (
    Step("Any controller", "what one answered the other knows; one name is given once", either),
    Step("A controller is killed", "no request through the other one fails", lose_controller),
    Step("A worker is killed", "no validation fails behind the proxy", lose_worker),
    Step("A data centre freezes", "changes and validations go on; it catches up", freeze),
    Step("A data centre is cut off", "its region issues, validates and revokes; nothing is lost", cut_off),
    Step("Caches and locks die", "all goes on but turning the keys, which says so", lose_helpers),
)

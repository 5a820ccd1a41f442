"""What ours and a real Keystone do with the same keys: each part counts, and tells what was refused wrongly."""

import time
from contextlib import ExitStack
from functools import lru_cache, partial
from typing import NamedTuple

from controller import ask
from controller.probe import password
from regional_keystone.followed import Followed
from regional_keystone.key_directory import examine, write_directory
from regional_keystone.keys import KeyRing
from regional_keystone.payload import NotAToken
from regional_keystone.token import DEFAULT_METHODS, Token, pack, unpack
from tests.compat.test_upstream_tokens import every
from tests.interop.beside import Repository, fresh_key, kind, read_while_turning, tokens_of

NOW = 1_893_549_845_000000


class Part(NamedTuple):
    """A row of the table."""

    what: str
    counts: dict[str, int]
    failures: list[str]


def reader(folder, turns):
    """Keystone reads our directory in a loop while we turn it."""
    reads, failures = read_while_turning(folder / "keys", turns)
    return Part("Keystone reads our directory while we turn", {"turns": turns, "reads": reads}, failures)


def payloads(folder, turns):
    """Tokens of every payload, sealed by either, are read by the other, before, between and after turns."""
    directory, ring, tokens = folder / "keys", KeyRing({0: fresh_key(), 1: fresh_key()}), list(every())
    tokens = tokens if turns > 1 else tokens[::5]
    write_directory(directory, ring)
    failures, read, texts = [], 0, []
    with tokens_of(directory) as keystone:
        for _ in range(turns + 1):
            sealed = keystone.seal(tokens)
            texts.append((sealed, [ring.seal(pack(token), NOW) for token in tokens]))
            ring = ring.rotated(fresh_key())
            write_directory(directory, ring)
            for of_keystone, ours in texts:  # those of before the turn as well
                failures += keystone.faults_of_reading(tokens, ours)
                failures += faults_of_ours(examine(directory).ring.open, tokens, of_keystone)
                read += len(ours) + len(of_keystone)
    counts = {"turns": turns + 1, "payloads": len({kind(token) for token in tokens}), "tokens": read}
    return Part("tokens of every payload, both ways, over turns of ours", counts, failures)


def faults_of_ours(opened, tokens, texts):
    """Those of Keystone's tokens that we refuse, or understand in another way."""
    faults = []
    for token, text in zip(tokens, texts, strict=True):
        if isinstance(text, dict):
            faults.append(f"Keystone does not seal {kind(token)}: {text}")
            continue
        try:
            payload, issued_at, _ = opened(text.rstrip("="))
            read = unpack(payload, issued_at, DEFAULT_METHODS)
        except NotAToken as refusal:
            faults.append(f"we refuse {kind(token)}: {refusal!r}")
            continue
        wrong = [name for name in Token.__struct_fields__ if getattr(read, name) != getattr(token, name)]
        if wrong not in ([], ["issued_at"]):
            faults.append(f"we read {kind(token)} otherwise: {wrong}")
    return faults


def keystone_turns(folder, turns):
    """Keystone turns its directory, which we follow: tokens of every payload, both ways."""
    directory, tokens = folder / "keystone-keys", list(every())[::7]
    directory.mkdir(mode=0o700)
    own, failures, read = KeyRing({0: fresh_key(), 1: fresh_key()}, 1), [], 0
    followed, texts = Followed(directory, seals=True), [[own.seal(pack(token), NOW) for token in tokens]]

    merged = lru_cache(4)(lambda keys: followed.merged(own))

    def opened(text):
        followed.read()  # as before each refusal
        return merged(followed.keys).open(text)

    with tokens_of(directory, turns + 4) as keystone:
        keystone.ask(setup=True)
        followed.start()
        for _ in range(turns):
            sealed = followed.merged(own)  # not read again yet
            keystone.ask(turn=True)
            ours = [sealed.seal(pack(token), NOW) for token in tokens]
            failures += keystone.faults_of_reading(tokens, ours)
            texts = [texts[0], *texts[-6:], ours, keystone.seal(tokens)]
            for one in texts:
                failures += faults_of_ours(opened, tokens, one)
                read += len(one)
    counts = {"turns": turns, "seen": followed.changes, "payloads": len({kind(one) for one in tokens}), "tokens": read}
    if followed.changes != turns:
        failures.append(f"{turns} turns, of which {followed.changes} were seen")
    return Part("Keystone turns, its directory is followed", counts, failures)


def federation_follows(folder, turns):
    """A controller and a site follow what `keystone-manage` turns in a loop; tokens of both sides at both, over HTTP."""
    from tests.controller.test_killed_at_each_step import Federation

    repository = Repository(folder, turns + 4)
    made = Federation(folder, [], None)
    for process in made.all:
        with process.config.open("a") as config:
            config.write(f"[keys]\nfollow = {repository.directory}\n")
    failures, count, tokens = [], {"tokens of ours": 0, "tokens of Keystone": 0, "checks": 0}, []
    with ExitStack() as stack:
        for process in made.all:
            stack.callback(process.kill)
        made.start()
        keystone = stack.enter_context(tokens_of(repository.directory))
        admin = issued(made.site, scoped=True)
        who = keystone.ask(open=[admin])[0]
        if "refused" in who:
            return Part("a federation follows", count, [f"Keystone refuses a token of the site: {who}"])
        fields = {name: who[name] for name in ("user_id", "methods", "audit_ids", "project_id", "expires_at")}
        for turn in range(turns):
            turning = stack.enter_context(background(repository.turn))
            rounds = 0
            while not turning() or rounds == 0:
                rounds += 1
                ours = issued(made.all[turn % 2])
                theirs = keystone.ask(seal=[fields | {"payload": 2}])[0]
                tokens += [ours, theirs]
                count["tokens of ours"] += 1
                count["tokens of Keystone"] += 1
                for token in (*tokens[-4:], *tokens[:2]):
                    count["checks"] += 3
                    failures += refusals(made, keystone, token)
        count = {"turns": turns, **count}
        says = ask.page(made.site.admin_port, "/status")["rings"]["token"]
        seen = says["follows"]["changes"]
        if seen < turns - 1:
            failures.append(f"{turns} turns, of which {seen} were seen")
        turned = ask.admin(made.first.state / "admin.sock", "/keys/rotate", {})  # the controller's own ring
        if turned["quarantined"] or turned["waits_for"] not in ([], ["RegionOne"]):
            failures.append(f"the controller's ring does not turn: {turned}")
    return Part("a federation follows while Keystone turns, over HTTP", count, failures)


def background(work):
    """Runs it in a thread; gives what tells whether it is done."""
    from concurrent.futures import ThreadPoolExecutor
    from contextlib import contextmanager

    @contextmanager
    def running():
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(work)
            yield lambda: future.done() and future.result() is None

    return running()


def issued(process, *, scoped=False):
    auth = password("admin", "secret", "default")
    if scoped:
        auth["scope"] = {"project": {"name": "admin", "domain": {"id": "default"}}}
    end = time.monotonic() + 20
    while True:
        status, headers, _ = process.ask("POST", "/v3/auth/tokens", body={"auth": auth})
        if status == 201:
            return headers["X-Subject-Token"]
        assert status == 503, status
        assert time.monotonic() < end


def refusals(made, keystone, token):
    """Who refuses this token, of the controller, the site and Keystone."""
    for process in made.all:
        status = validated(process, token)
        if status != 200:
            yield f"{process.config.stem} answers {status}"
    answer = keystone.ask(open=[token])[0]
    if "refused" in answer:
        yield f"Keystone refuses: {answer['refused']}"


def validated(process, token):
    """The status of a validation of the token by itself."""
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", process.port, timeout=30)
    try:
        headers = {"X-Auth-Token": token, "X-Subject-Token": token}
        connection.request("GET", "/v3/auth/tokens", headers=headers)
        return connection.getresponse().status
    finally:
        connection.close()


PARTS = {
    "reader": (reader, 1000, 100),
    "payloads": (payloads, 6, 1),
    "follow": (keystone_turns, 100, 2),
    "federation": (federation_follows, 10, 2),
}


def parts(short):
    """Every part, ready to run in a folder of its own."""
    return {name: partial(run, turns=few if short else many) for name, (run, many, few) in PARTS.items()}

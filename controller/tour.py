"""The guided proof: nine steps over HTTP against the running processes, each with a figure measured just then."""

import http.client
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from controller import ask, federation, probe, tour_engines
from controller.display import Display, table
from controller.federation import Home, Member
from controller.probe import Broken, Client, Load, everywhere, ms, until
from controller.stage import Finding, Stage, Step, digests, same
from regional_keystone.record import Json

REVOKED, ROTATIONS = 60, 3
_COMMANDS = ("token issue", "catalog list", "user list")
_CLIENT_S = 30.0


def create(stage: Stage) -> Finding:
    """Step 1."""
    stage.log_in()
    admin, run = stage.admin, stage.run
    slowest = 0.0

    def made(member: str, path: str, **fields: Any) -> str:
        nonlocal slowest
        record = admin.make(member, path, **fields)
        slowest = max(slowest, _visible(stage, f"{path}/{record['id']}"))
        return str(record["id"])

    domain = made("domain", "/v3/domains", name=f"tour-{run}")
    projects = [made("project", "/v3/projects", name=f"{name}-{run}", domain_id=domain) for name in ("sky", "sea")]
    user = made("user", "/v3/users", name=f"ada-{run}", domain_id=domain, password=stage.secret)
    group = made("group", "/v3/groups", name=f"crew-{run}", domain_id=domain)
    role = admin.expect(200, "GET", "/v3/roles?name=member")["roles"][0]["id"]
    links = [
        f"/v3/groups/{group}/users/{user}",
        f"/v3/projects/{projects[0]}/users/{user}/roles/{role}",
        f"/v3/projects/{projects[1]}/groups/{group}/roles/{role}",
    ]
    for link in links:
        admin.expect(204, "PUT", link)
        slowest = max(slowest, _visible(stage, link))
    stage.made |= {"domain": domain, "project": projects[0], "user": user}
    sites = len(stage.sites)
    return Finding(f"at all {sites} sites {ms(slowest)} after the answer, at the latest", [f"{5 + len(links)} changes"])


def _visible(stage: Stage, path: str) -> float:
    """Seconds from now until all sites show this."""
    begun = time.monotonic()

    def seen(client: Client) -> bool:
        return until(f"{path} at {client.member.name}", lambda: client.ask("GET", path).status in (200, 204))

    everywhere(stage.sites, seen)
    return time.monotonic() - begun


def validate(stage: Stage) -> Finding:
    """Step 2."""
    before = _requests(stage)
    stage.made["token"] = token = Client(stage.regions[0]).login(stage.auth())
    times = []
    for member in stage.regions[1:]:
        with Client(member) as client:
            for _ in range(20):
                begun = time.monotonic()
                same(200, client.validate(token), f"validation at {member.name}")
                times.append(time.monotonic() - begun)
    after = _requests(stage)
    same(before, after, "the controller's request counter")
    places = " and ".join(member.name for member in stage.regions[1:])
    details = [f"issued at {stage.regions[0].name}, valid at {places}"]
    return Finding(f"controller's requests {before} -> {after}; median {ms(statistics.median(times))}", details)


def _requests(stage: Stage) -> int:
    return sum(member.page("/status")["requests"] for member in stage.controllers)


def clients(stage: Stage) -> Finding:
    """Step 3."""
    begun = time.monotonic()
    with ThreadPoolExecutor(len(_COMMANDS) + 2) as pool:
        said = [pool.submit(_openstack, stage, command) for command in _COMMANDS]
        session, service = pool.submit(_session, stage), pool.submit(_service, stage)
        details = [one.result() for one in (*said, session, service)]
    return Finding(f"5 stock clients content in {ms(time.monotonic() - begun)}", details)


def _openstack(stage: Stage, command: str) -> str:
    """`openstack` against the first site."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OS_")}
    environment |= {"OS_CLIENT_CONFIG_FILE": str(stage.home.directory / "clouds.yaml")}
    cloud = stage.regions[0].name
    program = [str(Path(sys.executable).with_name("openstack")), "--os-cloud", cloud, *command.split(), "-f", "json"]
    try:
        done = subprocess.run(program, env=environment, capture_output=True, text=True, timeout=_CLIENT_S, check=False)
    except subprocess.TimeoutExpired:
        raise Broken(f"openstack {command}: expected an answer within {_CLIENT_S:.0f} s, got none") from None
    if done.returncode:
        raise Broken(f"openstack {command}: expected success, got {done.stderr.strip()[-300:]}")
    found = json.loads(done.stdout)
    return f"openstack {command} at {cloud}: {_shown(stage, command, found)}"


def _shown(stage: Stage, command: str, found: Any) -> str:
    if command == "catalog list":
        regions = list(dict.fromkeys(endpoint["region"] for service in found for endpoint in service["Endpoints"]))
        same(sorted({member.region for member in stage.members}), sorted(regions), "the regions of the catalog")
        return ", ".join(regions)
    return ", ".join(one["Name"] for one in found) if command == "user list" else "a token"


def _session(stage: Stage) -> str:
    """`keystoneauth1` against the second site."""
    from keystoneauth1 import session
    from keystoneauth1.identity import v3

    member, made = stage.regions[1], stage.made
    plugin = v3.Password(auth_url=member.url, user_id=made["user"], password=stage.secret, project_id=made["project"])
    opened = session.Session(auth=plugin)
    endpoint = opened.get_endpoint(service_type="identity", region_name=member.region)
    same(member.url, endpoint, f"the catalog's identity endpoint in {member.region}")
    return f"keystoneauth1 at {member.name}: endpoint of its region is {endpoint}"


def _service(stage: Stage) -> str:
    """A service under stock keystonemiddleware in the second site, asked with the token of the first."""
    member = stage.regions[1]
    program = [sys.executable, "-P", "-W", "ignore", "-m", "controller.sample_service"]
    pipe = subprocess.PIPE
    with subprocess.Popen(program, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True) as process:
        if process.stdin is None or process.stdout is None:
            raise Broken("expected pipes to the sample service")
        process.stdin.write(json.dumps(_authtoken(stage, member)) + "\n")
        process.stdin.flush()
        port = int(process.stdout.readline() or 0)
        answers = [_call_service(port, token) for token in (stage.made["token"], "gAAAAA-no-token")]
        process.stdin.close()
    same((200, 401), tuple(answers), f"the service in {member.name} for a good token and a bad one")
    return f"keystonemiddleware in {member.name}: {stage.regions[0].name}'s token accepted, a bad one refused"


def _authtoken(stage: Stage, member: Member) -> Json:
    return {
        "www_authenticate_uri": member.url,
        "auth_url": member.url,
        "auth_type": "password",
        "username": "admin",
        "password": stage.home.password(),
        "project_name": "admin",
        "user_domain_id": "default",
        "project_domain_id": "default",
        "region_name": member.region,
        "delay_auth_decision": False,
    }


def _call_service(port: int, token: str) -> int:
    connection = http.client.HTTPConnection(federation.HOST, port, timeout=_CLIENT_S)
    try:
        connection.request("GET", "/", headers={"X-Auth-Token": token})
        return connection.getresponse().status
    finally:
        connection.close()


def revoke(stage: Stage) -> Finding:
    """Step 4."""
    tokens = stage.fresh(1, REVOKED)
    watchers = [Client(member, stage.made["admin"]) for member in stage.regions]
    late: dict[str, list[float]] = {client.member.name: [] for client in watchers}
    with stage.admin as admin, ThreadPoolExecutor(len(watchers)) as pool:
        for token in tokens:
            for client in watchers:
                same(200, client.validate(token), f"a fresh token at {client.member.name}")
            refusals = [pool.submit(_refused_at, client, token) for client in watchers]
            admin.expect(204, "DELETE", "/v3/auth/tokens", X_Subject_Token=token)
            answered = time.monotonic()
            for client, refusal in zip(watchers, refusals, strict=True):
                late[client.member.name].append(max(0.0, refusal.result() - answered))
    every = sorted(one for times in late.values() for one in times)
    p99 = every[int(len(every) * 0.99)]
    if p99 > stage.goal_s:
        raise Broken(f"expected 99 of 100 refusals within {ms(stage.goal_s)}, got {ms(p99)}")
    details = [f"{name}: median {ms(statistics.median(one))}, maximum {ms(max(one))}" for name, one in late.items()]
    return Finding(f"{REVOKED} tokens: median {ms(statistics.median(every))}, maximum {ms(every[-1])}", details)


def _refused_at(client: Client, token: str) -> float:
    until(f"a refusal at {client.member.name}", partial(_refuses, client, token))
    return time.monotonic()


def _refuses(client: Client, token: str) -> bool:
    return client.validate(token) == 404


def rotate(stage: Stage) -> Finding:
    """Step 5."""
    begun = time.monotonic()
    with Load(_loads(stage), 0.002) as load:
        for _ in range(ROTATIONS):
            held = {member.name: _ring(member)["keys"] for member in stage.regions}
            turned = ask.admin(stage.home.admin, "/keys/rotate", {})
            signs = turned["keys"][str(turned["primary"])]
            for name, keys in held.items():
                if signs not in keys.values():
                    raise Broken(f"expected {name} to hold key {signs} before it signs, got {sorted(keys.values())}")
            until("every site at the new epoch", partial(_all_at, stage, turned["epoch"]))
            time.sleep(0.3)
    if load.wrong:
        raise Broken(f"expected no refusal under load, got {len(load.wrong)} of {load.done}: {load.wrong[0]}")
    details = [f"{member.name}: {_shown_ring(_ring(member))}" for member in stage.regions]
    took = time.monotonic() - begun
    return Finding(f"{ROTATIONS} turns in {ms(took)}, {load.done} validations and logins, 0 refused", details)


def _loads(stage: Stage) -> list[Callable[[], str]]:
    """At each site: validate the tour's token, and now and then issue a fresh one and validate that elsewhere."""
    sites = stage.regions
    return [partial(_load, stage, [Client(member) for member in sites], number) for number in range(len(sites))]


def _load(stage: Stage, clients: list[Client], number: int) -> str:
    here, there = clients[number], clients[(number + 1) % len(clients)]
    token = stage.made["token"]
    if (got := here.validate(token)) != 200:
        return f"validation at {here.member.name}: {got}"
    fresh = here.login(probe.again(token, stage.made["project"]))
    if (got := there.validate(fresh)) != 200:
        return f"{here.member.name}'s fresh token at {there.member.name}: {got}"
    return ""


def _ring(member: Member) -> Json:
    ring: Json = member.page("/status", probe.PATIENCE_S)["rings"]["token"]
    return ring


def _all_at(stage: Stage, epoch: int) -> bool:
    return all(_ring(member)["epoch"] >= epoch for member in stage.members)


def _shown_ring(ring: Json) -> str:
    """The ring by its check values: not a bit of a key is in them."""
    keys, primary = ring["keys"], str(ring["primary"])
    older = len(keys) - 2
    return f"epoch {ring['epoch']}, signs with {primary}: {keys[primary]}, staged 0: {keys['0']}, {older} older"


def isolate(stage: Stage) -> Finding:
    """Step 6."""
    stage.made["doomed"] = stage.fresh(len(stage.regions), 1)[0]
    stage.made["position"] = stage.members[0].page("/status")["position"]
    for member in stage.controllers:
        stage.signal(member.name, "KILL")
    killed = time.monotonic()
    project, token = stage.made["project"], stage.made["token"]
    for client in stage.sites:
        name = client.member.name
        same(200, client.validate(token), f"validation at {name}")
        Client(client.member).login(stage.auth())
        client.expect(200, "GET", f"/v3/projects/{project}")
    refusal = stage.site(1).ask("POST", "/v3/projects", {"project": {"name": f"never-{stage.run}"}})
    if refusal.status != 503 or "retry-after" not in refusal.headers:
        raise Broken(f"expected 503 with Retry-After for a change, got {refusal.status} {dict(refusal.headers)}")
    took = _revoke_own(stage)
    time.sleep(max(0.0, 2.5 - (time.monotonic() - killed)))
    status = federation.status(stage.members)
    for controller in status["controllers"]:
        same("down", controller["state"], f"the state of {controller['name']} by `rkctl status`")
    ages = _ages(status, time.monotonic() - killed)
    why = refusal.body["error"]["message"]
    details = [f"a change: 503, Retry-After {refusal.headers['retry-after']}, {why!r}", f"`rkctl status`: age {ages}"]
    last = stage.members[-1].name
    return Finding(f"validate, log in, read at every site; revoked at {last} in {ms(took)}", details)


def _revoke_own(stage: Stage) -> float:
    """Revoke a token at the last site by itself; seconds until it was refused there."""
    token, begun = stage.made["doomed"], time.monotonic()
    last = Client(stage.regions[-1], token)
    last.expect(204, "DELETE", "/v3/auth/tokens", X_Subject_Token=token)
    same(404, stage.site(len(stage.regions)).validate(token), "a token revoked there, at once")
    return time.monotonic() - begun


def _ages(status: Json, gone_s: float) -> str:
    """What each site says of its age, which must not be less than the time without the controller."""
    told = []
    for site in status["sites"]:
        same("isolated", site["state"], f"the state of {site['name']} by `rkctl status`")
        if site["age_s"] is None or site["age_s"] < gone_s - 0.5:
            raise Broken(f"expected an age of at least {gone_s:.1f} s at {site['name']}, got {site['age_s']}")
        told.append(f"{site['name']} {site['age_s']:.1f} s")
    return ", ".join(told)


def heal(stage: Stage) -> Finding:
    """Step 7."""
    ask.control(stage.home.control, command="revive")
    back = time.monotonic()
    doomed = stage.made["doomed"]
    for client in (stage.admin, *stage.sites):
        until(f"a refusal at {client.member.name}", partial(_refuses, client, doomed))
    took = time.monotonic() - back
    last = stage.members[-1]
    until("nothing left to take over", lambda: last.page("/status")["own_feed"]["pending"] == 0)
    before, after = stage.made["position"], stage.members[0].page("/status")["position"]
    same(before + 1, after, "the log's position: one entry for one revocation")
    if took > 1:
        raise Broken(f"expected it to hold everywhere within a second, got {ms(took)}")
    return Finding(
        f"everywhere {ms(took)} after the controller's return", [f"log {before} -> {after}: exactly one entry"]
    )


def catch_up(stage: Stage) -> Finding:
    """Step 8."""
    slow = stage.regions[1]
    before = stage.members[0].page("/status")["rings"]["token"]["epoch"]
    stage.signal(slow.name, "STOP")
    try:
        with ThreadPoolExecutor(1) as pool:
            turn = pool.submit(_turn_twice, stage)
            took = _change(stage)
            waited = not turn.done()
            stage.signal(slow.name, "CONT")
            woken = time.monotonic()
            turned = turn.result()
    finally:
        stage.signal(slow.name, "CONT")
    until("every site at the new epoch", partial(_all_at, stage, turned["epoch"]))
    equal = until("equal digests", partial(digests, stage), 30)
    caught = time.monotonic() - woken
    if not waited and slow.name not in turned["quarantined"]:
        raise Broken(f"expected the rotation to wait for {slow.name} or to quarantine it, got epoch {turned['epoch']}")
    how = f"waited for {slow.name}" if waited else f"quarantined {slow.name}"
    details = [
        f"{stage.changes} changes in {ms(took)} while {slow.name} was stopped",
        f"the rotation in between {how}: epoch {before} -> {turned['epoch']}",
        f"position {equal[0]}, digest {equal[1][:16]} at the controller and every site",
    ]
    return Finding(f"caught up {ms(caught)} after SIGCONT, digests equal", details)


def _turn_twice(stage: Stage) -> Json:
    """Turn to the key that everybody holds already, and then to one that a sleeper cannot have."""
    ask.admin(stage.home.admin, "/keys/rotate", {})
    turned: Json = ask.admin(stage.home.admin, "/keys/rotate", {})
    return turned


def _change(stage: Stage) -> float:
    """Seconds for many changes, from several callers at once."""
    begun, domain = time.monotonic(), stage.made["domain"]
    local = threading.local()

    def change(number: int) -> None:
        if not hasattr(local, "client"):
            local.client = stage.admin
        local.client.make("group", "/v3/groups", name=f"group-{stage.run}-{number}", domain_id=domain)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(change, range(stage.changes)))
    return time.monotonic() - begun


STEPS = (
    Step("One place to manage", "a change at the controller is at every site at once", create),
    Step("Local validation", "a token of one region is valid in the others without the controller", validate),
    Step("Stock clients", "unmodified clients and middleware work against any site", clients),
    Step("Revocation everywhere", "99 of 100 are refused everywhere within 250 ms, a second on engines", revoke),
    Step("Acknowledged rotation", "no key signs before every site holds it; no token is refused", rotate),
    Step("Life without the controller", "sites validate, log in, read and revoke; changes get 503", isolate),
    Step("The controller returns", "what was revoked meanwhile is in the log once and holds everywhere", heal),
    Step("A region sleeps", "it catches up exactly; a rotation waits for it", catch_up),
)


def show(home: Home, console: Console) -> int:
    """Take the tour; the exit code: 0 when every promise was kept, 1 at the first that was not."""
    stage, rows, left_out, begun = Stage(home, home.members()), [], 0, time.monotonic()
    if len(stage.regions) < 3:
        console.print("the tour needs three sites")
        return 1
    with Display(console) as display:
        steps = (*STEPS, *tour_engines.STEPS) if home.began_on_engines() else STEPS
        for number, step in enumerate(steps, 1):
            display.tell("wait", f"{number}. {step.title}: {step.promise}")
            try:
                finding = step.prove(stage)
            except (Broken, ask.Unanswered, ask.Refusal, OSError, http.client.HTTPException, KeyError) as error:
                display.tell("fail", f"{number}. {step.title}: {error if str(error) else type(error).__name__}")
                return 1
            left_out += not finding.shown
            display.tell("done" if finding.shown else "warn", f"[bold]{number}. {step.title}[/]: {finding.measured}")
            for line in finding.details:
                console.print(f"     {line}", style="dim", soft_wrap=True, markup=False)
            rows.append((number, step.title, step.promise, finding.measured))
    kept = f"{len(rows) - left_out} of {len(rows)} shown and kept" if left_out else "every promise kept"
    _summary(home, console, rows, f"Tour: {kept}, in {time.monotonic() - begun:.0f} s")
    return 0


def _summary(home: Home, console: Console, rows: Sequence[Sequence[object]], title: str) -> None:
    """Step 9."""
    console.print(table(("", "step", "promise", "measured"), rows, title=title))
    console.print(f"go on: . {home.openrc} && openstack token issue", soft_wrap=True)
    console.print("read:  README.md, docs/architecture.md, docs/operate.md", soft_wrap=True)

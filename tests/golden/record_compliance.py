#!/usr/bin/env python3
"""Records how Keystone 30.0.0 keeps [security_compliance], under two sets of rules, into compliance.json.

Run it with the python of a throw-away virtual environment, as record_upstream.py:

    ks30/bin/python tests/golden/record_compliance.py > tests/golden/compliance.json

A step is a list: create, update, login, change (of the own password) or wait. What came of it is the status, the
message with ids by name, whether a password's expiry is shown, and whether the user is enabled.
"""

import json
import time
import urllib.error
import urllib.request

import record_upstream

STRONG = r"^(?=.*\d)(?=.*[a-zA-Z]).{7,}$"
RULES = {
    "lockout, history, expiry, strength": {
        "lockout_failure_attempts": 2,
        "lockout_duration": 3,
        "unique_last_password_count": 2,
        "password_expires_days": 3,
        "password_regex": STRONG,
        "password_regex_description": "seven",
    },
    "first use, age": {"change_password_upon_first_use": True, "minimum_password_age": 3},
}
EXEMPT = {"ignore_password_expiry": True, "ignore_lockout_failure_attempts": True, "lock_password": True}
STEPS = {
    "lockout, history, expiry, strength": [
        ["create", "weak", {"password": "weak"}],
        ["create", "null", {"password": None}],
        ["create", "none", {}],
        ["create", "a", {"password": "passw0rd1"}],
        *(["login", "a", password] for password in ("x", "x", "passw0rd1")),
        ["update", "a", {"description": "any change of an enabled user unlocks"}],
        ["login", "a", "passw0rd1"],
        *(["login", "a", "x"] for _ in range(2)),
        ["update", "a", {"enabled": False}],
        ["login", "a", "passw0rd1"],
        ["update", "a", {"enabled": True}],
        *(["login", "a", password] for password in ("passw0rd1", "x", "x", "passw0rd1")),
        ["wait", 4],
        *(["login", "a", password] for password in ("x", "passw0rd1")),
        *(["change", "a", password, "passw0rd2"] for password in ("x", "x", "passw0rd1")),
        ["wait", 4],
        ["change", "a", "passw0rd1", "weak"],
        ["change", "a", "passw0rd1", "passw0rd2"],
        *(["change", "a", "passw0rd2", password] for password in ("passw0rd1", "passw0rd2", "passw0rd3")),
        ["change", "a", "passw0rd3", "passw0rd1"],
        *(["update", "a", {"password": password}] for password in ("passw0rd1", "weak", None)),
        ["login", "a", "passw0rd1"],
        ["change", "a", "passw0rd1", "passw0rd7"],
        ["create", "b", {"password": "passw0rd1", "options": EXEMPT}],
        *(["login", "b", password] for password in ("x", "x", "x", "passw0rd1")),
        *(["change", "b", "passw0rd1", password] for password in ("weak", "passw0rd1", "passw0rd9")),
        ["change", "b", "x", "passw0rd9"],
        ["update", "b", {"password": "passw0rd2"}],
        ["update", "b", {"options": {"ignore_password_expiry": None}}],
        ["update", "b", {"password": "passw0rd3"}],
        ["update", "b", {"options": {"lock_password": False}}],
        *(["change", "b", "passw0rd3", password] for password in ("passw0rd2", "passw0rd4")),
        ["login", "none", "x"],
        ["change", "none", "x", "passw0rd1"],
        ["update", "none", {"password": "passw0rd1"}],
        ["login", "none", "passw0rd1"],
    ],
    "first use, age": [
        ["create", "a", {"password": "p1"}],
        *(["login", "a", password] for password in ("p1", "x")),
        ["change", "a", "p1", "p2"],
        ["login", "a", "p2"],
        ["change", "a", "p2", "p3"],
        ["update", "a", {"password": "p4"}],
        ["login", "a", "p4"],
        ["change", "a", "x", "p5"],
        ["change", "a", "p4", "p5"],
        ["change", "a", "p5", "p6"],
        ["create", "b", {"password": "p1", "options": {"ignore_change_password_upon_first_use": True}}],
        ["login", "b", "p1"],
        ["update", "b", {"password": "p2"}],
        ["login", "b", "p2"],
        ["update", "b", {"options": {"ignore_change_password_upon_first_use": False}, "password": "p3"}],
        ["login", "b", "p3"],
        ["update", "b", {"options": {"ignore_password_expiry": True}}],
        ["login", "b", "p3"],
    ],
}
OPTIONS = "[security_compliance]\n{}\n[cache]\nenabled = false\n"


class Keystone(record_upstream.Keystone):
    """One whose first administrator was made before there were rules."""

    rules = ""

    def manage(self, *args):
        super().manage(*args)
        if args[0] == "bootstrap":
            with open(self.conf, "a") as conf:
                conf.write(self.rules)


def ask(base, method, path, body, token):
    """(status, body, headers) of one request."""
    headers = {"Content-Type": "application/json"} | ({"X-Auth-Token": token} if token else {})
    request = urllib.request.Request(base + path, json.dumps(body).encode(), headers, method=method)
    try:
        answer = urllib.request.urlopen(request)
    except urllib.error.HTTPError as refused:
        answer = refused
    said = answer.read()
    return answer.status, json.loads(said) if said else None, answer.headers


def request(step, ids):
    """(method, path, body, whether an administrator asks) of a step."""
    match step:
        case ["create", name, attributes]:
            return "POST", "/users", {"user": {"name": name, "domain_id": "default", **attributes}}, True
        case ["update", name, attributes]:
            return "PATCH", f"/users/{ids[name]}", {"user": attributes}, True
        case ["change", name, old, new]:
            return "POST", f"/users/{ids[name]}/password", {"user": {"original_password": old, "password": new}}, False
        case ["login", name, password]:
            user = {"id": ids[name], "password": password}
            return "POST", "/auth/tokens", {"auth": login(user)}, False
    raise ValueError(step)


def login(user, **more):
    """The body of a login."""
    return {"identity": {"methods": ["password"], "password": {"user": user}}, **more}


def outcome(status, body, ids):
    """What came of a step, without anything that differs by chance."""
    body = body or {}
    message = body.get("error", {}).get("message")
    for name, one in ids.items():
        message = message and message.replace(one, f"<{name}>")
    user = body.get("user") or body.get("token", {}).get("user") or {}
    return [status, message, bool(user.get("password_expires_at")), user.get("enabled")]


def record(base, password, steps):
    """[step, outcome] of each."""
    project = {"name": "admin", "domain": {"id": "default"}}
    auth = {
        "auth": login({"name": "admin", "domain": {"id": "default"}, "password": password}, scope={"project": project})
    }
    token = ask(base, "POST", "/auth/tokens", auth, None)[2]["X-Subject-Token"]
    found, ids = [], {}
    for step in steps:
        if step[0] == "wait":
            time.sleep(step[1])
            found.append([step, None])
            continue
        method, path, body, as_admin = request(step, ids)
        status, said, _ = ask(base, method, path, body, token if as_admin else None)
        if step[0] == "create" and status == 201:
            ids[step[1]] = said["user"]["id"]
        found.append([step, outcome(status, said, ids)])
    return found


def laid_out(found):
    """JSON with a step a line."""
    parts = []
    for one in found:
        steps = ",\n".join(f"   {json.dumps(step)}" for step in one["recorded"])
        head = f'  "name": {json.dumps(one["name"])},\n  "rules": {json.dumps(one["rules"])},\n'
        parts.append(f' {{\n{head}  "recorded": [\n{steps}\n  ]\n }}')
    return "[\n" + ",\n".join(parts) + "\n]"


def main():
    """Record both."""
    found = []
    for name, rules in RULES.items():
        Keystone.rules = OPTIONS.format("\n".join(f"{option} = {value}" for option, value in rules.items()))
        keystone = Keystone()
        try:
            base = f"http://127.0.0.1:{keystone.port}/v3"
            recorded = record(base, record_upstream.ADMIN_PASSWORD, STEPS[name])
        finally:
            keystone.process.kill()
        found.append({"name": name, "rules": rules, "recorded": recorded})
    print(laid_out(found))


if __name__ == "__main__":
    main()

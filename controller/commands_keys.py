"""`rkctl keys`, `rkctl credential` and Keystone's own verbs: what a running controller is asked about key rings."""

import json
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from controller.command_line import PLAIN, STATE, AsJson, ConfigFile, State, ask_controller, errors, show
from controller.outcome import NOT_ACKNOWLEDGED, Outcome, lacking, outcomes, plain

keys = typer.Typer(help="The rings that tokens and auth receipts are sealed with.", **PLAIN)
credential = typer.Typer(help="The ring that the secrets of credentials are sealed with.", **PLAIN)
verbs = typer.Typer(**PLAIN)

RINGS = ("token", "receipt", "credential")
_EVERY_S = 2.0
_POLL_S = 0.5
_SOON_S = 0.1
_WAIT = "Seconds to wait at the end until all hold the new rings; by default the deadline of a turn."


class RingName(StrEnum):
    """The rings there are, as `--ring` takes them."""

    TOKEN = "token"  # noqa: S105  a ring's name
    RECEIPT = "receipt"
    CREDENTIAL = "credential"


Ring = Annotated[list[RingName] | None, typer.Option("--ring", help="Only this ring; can be repeated.")]
User = Annotated[str, typer.Option("--keystone-user", help="Accepted; files belong to the user who serves.")]
Group = Annotated[str, typer.Option("--keystone-group", help="Accepted; files belong to the user who serves.")]


@keys.command("status")
def keys_status(
    ring: Ring = None,
    watch: Annotated[bool, typer.Option("--watch", help="Show it again every two seconds.")] = False,
    state: State = STATE,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Draw sites by keys (S staged, P primary, H held), what each key is until when, and what the next turn waits for.

    Example: rkctl keys status --watch
    """
    with errors():
        while True:
            found = ask_controller(state, config, "/keys/status")
            if as_json:
                print(json.dumps(_only(found, ring)), flush=True)
            else:
                _draw(found, ring or ())
            if not watch:
                return
            time.sleep(_EVERY_S)


@keys.command("rotate")
def keys_rotate(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Tell what would be done.")] = False,
    wait_s: Annotated[float | None, typer.Option("--wait", help=_WAIT, metavar="SECONDS", min=0)] = None,
    state: State = STATE,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Turn the rings once every site holds the key that will seal; who misses the deadline is quarantined.

    At the end it waits until all hold the rings that it made, and tells who does not: exit code 7 while one that is not
    quarantined does not. The keys have turned then; that site goes on with those before, and catches up by itself.

    Example: rkctl keys rotate --dry-run
    """
    with errors():
        if dry_run:
            _rehearse(state, config, ("token", "receipt"), as_json=as_json)
        else:
            _rotate(state, config, ("token", "receipt"), wait_s, as_json=as_json)


@keys.command("setup")
def keys_setup(state: State = STATE, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Make the rings that are not there, as a controller does at its start. Safe to repeat.

    Example: rkctl keys setup
    """
    with errors():
        _setup(state, config, RINGS, as_json=as_json)


@keys.command("distribute")
def keys_distribute(
    ring: Ring = None, state: State = STATE, config: ConfigFile = None, as_json: AsJson = False
) -> None:
    """Seal the same keys again for every site and wait until all that are active have acknowledged them; else exit 1.

    Example: rkctl keys distribute --ring token
    """
    with errors():
        _distribute(state, config, tuple(ring or RINGS), as_json=as_json)


@keys.command("export")
def keys_export(
    file: Annotated[Path, typer.Argument(help="The file to write, which must not be there yet.")],
    public_key: Annotated[Path | None, typer.Option("--for", help="PEM of an X25519 public key to seal for.")] = None,
    passphrase_file: Annotated[Path | None, typer.Option(help="File, mode 0600, with the passphrase.")] = None,
    ring: Ring = None,
    state: State = STATE,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Write the rings into a file, sealed under a passphrase or for a public key; never in clear.

    Example: rkctl keys export rings.json --for backup.pem
    """
    from regional_keystone import durable
    from regional_keystone.settings import ConfigurationError

    with errors():
        if file.exists():
            raise ConfigurationError(f"{file} is there already; name another file")
        under = _under("--for", public_key, passphrase_file, confirm=True)
        body = {**under, "rings": list(ring or RINGS)}
        durable.write(file, ask_controller(state, config, "/keys/export", body)["file"].encode())
        print(json.dumps({"file": str(file)}) if as_json else f"{file} is written")


@keys.command("import")
def keys_import(
    file: Annotated[Path, typer.Argument(help="What `rkctl keys export` has written.")],
    private_key: Annotated[Path | None, typer.Option("--key", help="PEM, mode 0600, of the private key.")] = None,
    passphrase_file: Annotated[Path | None, typer.Option(help="File, mode 0600, with the passphrase.")] = None,
    merge: Annotated[bool, typer.Option("--merge", help="Add its keys as former ones beside a ring.")] = False,
    ring: Ring = None,
    state: State = STATE,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Take in the rings of a file where there are none; with --merge, so that what they have sealed opens here too.

    Example: rkctl keys import rings.json --merge --key backup-private.pem
    """
    with errors():
        under = _under("--key", private_key, passphrase_file)
        body = {**under, "file": file.read_text(), "merge": merge, "rings": list(ring or RINGS)}
        answer = ask_controller(state, config, "/keys/import", body)
        new = ", ".join(f"{name}: {count}" for name, count in answer["new"].items())
        print(json.dumps(answer) if as_json else f"new keys: {new or 'none'}")


@credential.command("status")
def credential_status(state: State = STATE, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Show the ring, how many credentials another key than the primary has sealed, and what a rotation waits for.

    Example: rkctl credential status
    """
    with errors():
        show([ask_controller(state, config, "/credential/status")], (), as_json=as_json)


@credential.command("setup")
def credential_setup(state: State = STATE, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Make the ring where there is none, as a controller does at its first start. Safe to repeat.

    Example: rkctl credential setup
    """
    with errors():
        show([ask_controller(state, config, "/credential/setup", {})], (), as_json=as_json)


@credential.command("rotate")
def credential_rotate(state: State = STATE, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Turn the ring; refused while a credential is sealed with another key than the primary. Then migrate.

    Exit code 7: it has turned, and a site that is not quarantined does not hold it yet.

    Example: rkctl credential rotate && rkctl credential migrate
    """
    with errors():
        answer = ask_controller(state, config, "/credential/rotate", {})
        if not as_json:
            show([answer], (), as_json=False)
        _finish(state, config, {"credential": answer["epoch"]}, None, answer if as_json else None)


@credential.command("migrate")
def credential_migrate(state: State = STATE, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Seal with the primary key every credential that another key has sealed. Safe to break off and repeat.

    Example: rkctl credential migrate
    """
    with errors():
        show([ask_controller(state, config, "/credential/migrate", {})], (), as_json=as_json)


@verbs.command("fernet_setup")
def fernet_setup(
    state: State = STATE, config: ConfigFile = None, user: User = "", group: Group = "", as_json: AsJson = False
) -> None:
    """Keystone's verb for `keys setup` of the rings for tokens and auth receipts.

    Example: rkctl fernet_setup --keystone-user keystone --keystone-group keystone
    """
    _explain(user, group)
    with errors():
        _setup(state, config, ("token", "receipt"), as_json=as_json)


@verbs.command("fernet_rotate")
def fernet_rotate(
    state: State = STATE, config: ConfigFile = None, user: User = "", group: Group = "", as_json: AsJson = False
) -> None:
    """Keystone's verb for `keys rotate`: waits for the sites' acknowledgements, which Keystone's does not.

    Example: rkctl fernet_rotate --keystone-user keystone --keystone-group keystone
    """
    _explain(user, group)
    with errors():
        _rotate(state, config, ("token", "receipt"), as_json=as_json)


@verbs.command("receipt_setup")
def receipt_setup(
    state: State = STATE, config: ConfigFile = None, user: User = "", group: Group = "", as_json: AsJson = False
) -> None:
    """Keystone's verb for `keys setup` of the ring for auth receipts.

    Example: rkctl receipt_setup --keystone-user keystone --keystone-group keystone
    """
    _explain(user, group)
    with errors():
        _setup(state, config, ("receipt",), as_json=as_json)


@verbs.command("receipt_rotate")
def receipt_rotate(
    state: State = STATE, config: ConfigFile = None, user: User = "", group: Group = "", as_json: AsJson = False
) -> None:
    """Keystone's verb for turning the ring of auth receipts alone; waits like `keys rotate`.

    Example: rkctl receipt_rotate --keystone-user keystone --keystone-group keystone
    """
    _explain(user, group)
    with errors():
        _rotate(state, config, ("receipt",), as_json=as_json)


@verbs.command("credential_setup")
def verb_credential_setup(
    state: State = STATE, config: ConfigFile = None, user: User = "", group: Group = "", as_json: AsJson = False
) -> None:
    """Keystone's verb for `credential setup`.

    Example: rkctl credential_setup --keystone-user keystone --keystone-group keystone
    """
    _explain(user, group)
    credential_setup(state, config, as_json)


@verbs.command("credential_rotate")
def verb_credential_rotate(
    state: State = STATE, config: ConfigFile = None, user: User = "", group: Group = "", as_json: AsJson = False
) -> None:
    """Keystone's verb for `credential rotate`.

    Example: rkctl credential_rotate --keystone-user keystone --keystone-group keystone
    """
    _explain(user, group)
    credential_rotate(state, config, as_json)


@verbs.command("credential_migrate")
def verb_credential_migrate(
    state: State = STATE, config: ConfigFile = None, user: User = "", group: Group = "", as_json: AsJson = False
) -> None:
    """Keystone's verb for `credential migrate`.

    Example: rkctl credential_migrate --keystone-user keystone --keystone-group keystone
    """
    _explain(user, group)
    credential_migrate(state, config, as_json)


def _under(option: str, key: Path | None, file: Path | None, *, confirm: bool = False) -> dict[str, str]:
    """What seals or opens the file: a key or a passphrase, not both."""
    if key is not None and file is not None:
        raise typer.BadParameter(f"say one of {option} and --passphrase-file")
    return _passphrase(file, confirm=confirm) if key is None else _key(key)


def _passphrase(file: Path | None, *, confirm: bool = False) -> dict[str, str]:
    from regional_keystone import secret_file

    if file is not None:
        return {"passphrase": secret_file.read(file, "passphrase")}
    return {"passphrase": typer.prompt("passphrase", hide_input=True, confirmation_prompt=confirm, err=True)}


def _key(file: Path) -> dict[str, str]:
    """The X25519 key in this PEM file, as the controller takes it. Raises ConfigurationError for another kind."""
    import base64

    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

    from regional_keystone import secret_file
    from regional_keystone.settings import ConfigurationError

    text = file.read_bytes()
    try:
        is_private = b"PRIVATE" in text
        text = secret_file.read(file, "private key").encode() if is_private else text
        key = load_pem_private_key(text, None) if is_private else load_pem_public_key(text)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, X25519PrivateKey | X25519PublicKey):
        cure = "make a pair with `openssl genpkey -algorithm X25519 -out private.pem` and `openssl pkey -pubout`"
        raise ConfigurationError(f"{file}: this is no X25519 key in PEM; {cure}")
    raw = key.private_bytes_raw() if isinstance(key, X25519PrivateKey) else key.public_bytes_raw()
    return {"key": base64.b64encode(raw).decode()}


def _explain(user: str, group: str) -> None:
    """What becomes of the flags that Keystone's verbs have."""
    if user or group:
        said = " and ".join(name for name, one in (("--keystone-user", user), ("--keystone-group", group)) if one)
        why = "the running controller and each site write their keys themselves, as the user that they run as"
        print(f"rkctl: {said} changes nothing: {why}", file=sys.stderr)


def _setup(state: Path, config: Path | None, rings: Iterable[str], *, as_json: bool) -> None:
    answer = ask_controller(state, config, "/keys/setup", {"rings": list(rings)})
    made = ", ".join(answer["made"])
    print(json.dumps(answer) if as_json else f"made: {made}" if made else "the rings are there already")


def _rehearse(state: Path, config: Path | None, rings: tuple[str, ...], *, as_json: bool) -> None:
    answer = ask_controller(state, config, "/keys/rotate", {"rings": list(rings), "dry_run": True})
    print(json.dumps(answer)) if as_json else _say_what_would_be(answer, rings)


def _rotate(
    state: Path, config: Path | None, rings: tuple[str, ...], wait_s: float | None = None, *, as_json: bool
) -> None:
    before = ask_controller(state, config, "/keys/status")
    body = {"rings": list(rings)}
    timeout_s = before["next_turn"]["deadline_s"] + 60.0
    ask = partial(ask_controller, state, config, "/keys/rotate", body, timeout_s)
    answer = ask() if as_json else _meanwhile(ask, _looking(state, config), rings)
    epochs = {name: answer["rings"][name]["epoch"] for name in rings if name in answer["rings"]}
    _finish(state, config, epochs, wait_s, answer if as_json else None)


def _finish(
    state: Path, config: Path | None, epochs: dict[str, int], wait_s: float | None, answer: dict[str, Any] | None
) -> None:
    """Wait until all hold the rings that were made, tell who does not, and end with the code that says so.

    `answer`: what programs are told besides; None for people.
    """
    status, found = _held(_looking(state, config), epochs, wait_s)
    if answer is not None:
        print(
            json.dumps({**answer, **({"rings": status["rings"]} if "rings" in answer else {}), "turns": plain(found)})
        )
    else:
        _draw(status, epochs)
        for one in found:
            print(one)
    if lacking(found):
        raise SystemExit(NOT_ACKNOWLEDGED)


def _looking(state: Path, config: Path | None) -> Callable[[], Any]:
    """What asks how the rings stand."""
    return partial(ask_controller, state, config, "/keys/status")


def _held(
    look: Callable[[], Any], epochs: dict[str, int], wait_s: float | None
) -> tuple[dict[str, Any], list[Outcome]]:
    """How the rings stand once all that count hold them, or the time is over."""
    from controller.ask import Unanswered
    from controller.display import Display, console

    status = look()
    ends = time.monotonic() + (status["next_turn"]["deadline_s"] if wait_s is None else wait_s)
    with Display(console(stderr=True)) as display:
        while lacking(found := outcomes(epochs, status)) and time.monotonic() < ends:
            away, active = lacking(found), len(status["active"])
            display.advance(f"acknowledged, without {', '.join(away)}", active - len(away), active)
            time.sleep(_SOON_S)
            try:
                status = look()
            except Unanswered:  # it has turned: who asks hears what is known of it
                display.advance(
                    "turned; no controller answers now, and who holds the new keys", active - len(away), active
                )
    return status, found


def _say_what_would_be(status: dict[str, Any], rings: tuple[str, ...]) -> None:
    for name in rings:
        ring = status["rings"][name]
        ids = {key["number"]: key["id"] for key in ring["keys"] if key["number"] is not None}
        gone = ", ".join(ring["retires"]) or "none"
        print(f"{name}: {ids[0]} would become the primary in place of {ids[max(ids)]}; retired: {gone}")
    waits_for, sites = status["next_turn"]["waits_for"], status["rings"][rings[0]]["sites"]
    for site in status["active"]:
        if site in waits_for:
            print(f"{site}: NOT READY: {waits_for[site]}")
        elif sites[site]["connected"]:
            print(f"{site}: ready")
        else:
            print(f"{site}: ready; NOT CONNECTED: it takes the new keys when it is back")
    for site in status["quarantined"]:
        why = f": {sites[site]['why']}" if sites[site]["why"] else ""
        print(f"{site}: quarantined, not waited for{why}")
    if waits_for:
        print(f"the turn would wait for {', '.join(waits_for)}, at most {status['next_turn']['deadline_s']:g} s each")


def _distribute(state: Path, config: Path | None, rings: tuple[str, ...], *, as_json: bool) -> None:
    from controller.display import Display, console

    found = ask_controller(state, config, "/keys/distribute", {"rings": list(rings)})
    ends = time.monotonic() + found["next_turn"]["deadline_s"]
    with Display(console(stderr=True)) as display:
        while (absent := _lacking(found, rings)) and time.monotonic() < ends:
            display.advance("acknowledged by", len(found["active"]) - len(absent), len(found["active"]))
            time.sleep(_POLL_S)
            found = ask_controller(state, config, "/keys/status")
    if as_json:
        print(json.dumps({"acknowledged": not absent, **found}))
    else:
        _draw(found, rings)
    if absent:
        raise SystemExit(1)


def _meanwhile(ask: Callable[[], Any], look: Callable[[], Any], rings: tuple[str, ...]) -> Any:
    """What `ask` answers; meanwhile it is shown who has acknowledged."""
    from controller.display import Display, console

    with ThreadPoolExecutor(1) as pool, Display(console(stderr=True)) as display:
        asked = pool.submit(ask)
        while not wait([asked], _POLL_S).done:
            found = look()
            absent = _lacking(found, rings)
            job = f"acknowledged, without {', '.join(absent)}" if absent else "acknowledged"
            display.advance(job, len(found["active"]) - len(absent), len(found["active"]))
        return asked.result()


def _only(status: dict[str, Any], rings: Iterable[str] | None) -> dict[str, Any]:
    wanted = tuple(rings or status["rings"])
    return {**status, "rings": {name: told for name, told in status["rings"].items() if name in wanted}}


def _lacking(status: dict[str, Any], rings: tuple[str, ...]) -> list[str]:
    found = [site for name in rings if name in status["rings"] for site in status["rings"][name]["waits_for"]]
    return sorted(set(found))


def _draw(status: dict[str, Any], rings: Iterable[str]) -> None:
    from controller.display import console
    from controller.key_tables import drawn

    console().print(drawn(status, rings))

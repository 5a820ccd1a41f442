"""Every command that openstackclient has for the Identity API, at the controller and at a site."""

import json
import string
from importlib.metadata import entry_points

import pytest

from controller.probe import Client, password
from tests.compat.openstack_commands import AS_USER, ENDED, FILES, LEFT_OUT, SHARED, STORIES, Fails, Without
from tests.compat.shell import shell

pytestmark = [pytest.mark.compat, pytest.mark.federation, pytest.mark.together("stock")]
PLACES = {"controller": 0, "site": 1}


class Person:
    """Says commands at one place, and knows by name what came of them."""

    def __init__(self, play, word, files):
        self._play = play
        self._known = {"n": word, "files": str(files)}

    def say(self, command, wanted, name=""):
        """One command; what it shows has to be as wanted."""
        cloud = "user" if command.startswith(AS_USER) else "admin"
        text = self._filled(command.removeprefix(AS_USER))
        ((code, shown, errors),) = self._play(cloud, text)
        if isinstance(wanted, Fails):
            assert code, (text, shown)
            assert wanted.words in errors + str(shown), (text, errors, shown)
            return
        assert code == 0, (text, shown, errors)
        if isinstance(wanted, str):
            assert self._filled(wanted) in str(shown) + errors, (text, shown, errors)
            return
        found = self._as_wanted(text, shown, self._filled(wanted))
        if name:
            self._known |= {f"{name}_{key.lower()}": value for key, value in found.items()}

    def _as_wanted(self, text, shown, wanted):
        """Checks it; what is shown, or of a list the first row that was looked for."""
        if wanted is None:
            assert shown == "", (text, shown)
            return {}
        if isinstance(wanted, Without):
            assert isinstance(shown, list), (text, shown)
            assert not [row for row in shown if has(row, wanted.row)], (text, shown)
            return {}
        if isinstance(wanted, dict):
            assert has(shown, wanted), (text, shown, wanted)
            return shown
        rows = [next((row for row in shown if has(row, one)), None) for one in wanted]
        assert None not in rows, (text, shown, wanted)
        return rows[0]

    def _filled(self, value):
        match value:
            case str():
                return string.Template(value).substitute(self._known)
            case Without():
                return Without(self._filled(value.row))
            case dict():
                return {self._filled(key): self._filled(one) for key, one in value.items()}
            case list():
                return [self._filled(one) for one in value]
        return value


def has(found, wanted):
    return all(name in found and found[name] == value for name, value in wanted.items())


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(name, marks=pytest.mark.long) if name == "site" else name for name in PLACES
    ],  # a site forwards
)
def person(request, federation, environment, tmp_path_factory):
    """Somebody at a place, with what the stories share."""
    folder, word = tmp_path_factory.mktemp("files"), f"osc{request.param}"
    for name, text in FILES.items():
        (folder / name).write_text(text.replace("$n", word))
    place = federation.members()[PLACES[request.param]]
    (folder / "clouds.yaml").write_text(json.dumps(clouds(place, federation.password(), word)))
    with shell(folder / "clouds.yaml", environment) as play:
        found = Person(play, word, folder)
        for step in SHARED:
            found.say(*step)
        yield found
        for step in ENDED:
            found.say(*step)


def clouds(place, secret, word):
    """The administrator by a token, so that no command needs another password hash; and the user of the stories."""
    with Client(place) as client:
        auth = password("admin", secret, "default")
        token = client.login(auth | {"scope": {"project": {"name": "admin", "domain": {"id": "default"}}}})
    admin = {"token": token, "project_name": "admin", "project_domain_name": "Default"}
    user = {"username": f"{word}-user", "user_domain_name": word, "password": "first"}
    common = {"region_name": place.region, "identity_api_version": "3"}
    return {
        "clouds": {
            name: {**common, "auth_type": kind, "auth": {"auth_url": place.url, **auth}}
            for name, kind, auth in (("admin", "v3token", admin), ("user", "v3password", user))
        }
    }


@pytest.mark.parametrize("story", STORIES)
def test_what_is_said_is_shown(person, story):
    for step in STORIES[story]:
        person.say(*step)


def test_every_command_that_is_installed_is_in_a_story_or_left_out_for_a_reason():
    installed = {one.name.replace("_", " ") for one in entry_points(group="openstack.identity.v3")}
    said = [step[0].removeprefix(AS_USER) for steps in (SHARED, ENDED, *STORIES.values()) for step in steps]
    played = {max((one for one in installed if said.startswith(f"{one} ") or said == one), key=len) for said in said}
    assert len(installed) > 100
    assert played | LEFT_OUT.keys() == installed
    assert not played & LEFT_OUT.keys()

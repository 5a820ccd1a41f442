"""Application credentials as tests of them need them: made by their users, used by a program."""

_PATH = "/v3/users/{}/application_credentials"


def program(regions, home, token=None, at="Global", **about):
    """A new application credential of the household's user, with its secret."""
    token = token or regions.login(home.auth())
    path = _PATH.format(home.user["id"])
    return regions.make("application_credential", path, token=token, at=at, **{"name": "program"} | about)


def place(home, made):
    """The path of one of the user's application credentials."""
    return f"{_PATH.format(home.user['id'])}/{made['id']}"


def by(made, **said):
    """An `auth` with an application credential and what else is said beside it."""
    data = {"id": made["id"], "secret": made["secret"]} | said
    return {"identity": {"methods": ["application_credential"], "application_credential": data}}

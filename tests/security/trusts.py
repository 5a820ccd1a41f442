"""Trusts as tests of them need them, and tokens that only who holds the keys can make."""

import msgspec

from regional_keystone.key_directory import read_directory
from regional_keystone.token import pack, unpack

PATH = "/v3/OS-TRUST/trusts"


def wish(trustor, trustee, **about):
    """What is sent for a trust: the trustor's household lets the user of another act as a member of its project."""
    said = {"trustor_user_id": trustor.user["id"], "trustee_user_id": trustee.user["id"]}
    said |= {"project_id": trustor.project["id"], "roles": [{"id": trustor.role["id"]}], "impersonation": True}
    return {name: value for name, value in (said | about).items() if value is not None}


def trust(regions, trustor, trustee, token=None, at="Global", **about):
    """A new trust; by the trustor's own token unless another is given."""
    token = token or regions.login(trustor.auth())
    return regions.make("trust", PATH, token=token, at=at, **wish(trustor, trustee, **about))


def using(made, token):
    """An `auth` by a trust, for whom this token proves."""
    return {"identity": {"methods": ["token"], "token": {"id": token}}, "scope": {"OS-TRUST:trust": {"id": made["id"]}}}


def acting(regions, made, trustee, at="Global"):
    """A token by a trust."""
    return regions.login(using(made, regions.login(trustee.auth(None), at)), at)


def altered(regions, text, **changes):
    """The token with other things in it, sealed with the keys that a region has."""
    ring = read_directory(regions.home.state("RegionOne") / "fernet-keys")
    payload, issued_at, _ = ring.open(text)
    token = msgspec.structs.replace(unpack(payload, issued_at), **changes)
    return ring.seal(pack(token), token.issued_at)

"""What Keystone 30.0.0 answered, asked again: equal in status and body, but for docs/divergences.md."""

import re
from pathlib import Path

import pytest_asyncio

from tests import replay

GONE = "0123456789abcdef0123456789abcdef"
# id in docs/divergences.md -> the recorded exchanges that show it, as section/name
DIVERGENCES = {
    "html": [
        r"discovery/(GET|POST) (unknown|outside|double|/v[24]).*",
        r"discovery/(POST|PUT|PATCH|DELETE|TRACE) .*",
        r"regions/(GET|DELETE) odd id",
        r"users/GET password",
        r"(trusts|application_credentials)/PATCH",
        r"groups/POST member",
        r"grants/GET project (user|group) inherited list.*",
        r"credentials/PUT",
        r"ec2_credentials/PATCH",
        r"oauth1/(PUT|POST access tokens)",
        r"(mappings|service_providers|domain_config)/POST",
        r"identity_providers/POST (providers|protocols)",
        r"domain_config/PUT (group|default)",
    ],
    "door": [r"discovery/body of .*", r"discovery/GET healthcheck", r"discovery/OPTIONS .*"],
    "home": [r"discovery/GET .*json-home"],
    "wrapper": [
        r"\w+/(POST|PATCH) \w+ body (extra key|wrong key|absent|empty object)",
        r"regions/tidy POST region body extra key",
        r"services/update service type=.*",
        r"grants/manager GET regions",
        r"policies/(PATCH|PATCH same id|GET one|GET by type__startswith=ext)",
        r"limits/PATCH (registered|limit) body [34]",
        r"mappings/(PUT|PATCH) body (absent|empty|wrong key|extra key)",
        r"mappings/DELETE mp-x",
        r"identity_providers/(PATCH body extra key|(GET|PATCH) as system)",
    ],
    "strict-query": [
        r"regions/GET (by description|by unknown filter|limit)",
        r"endpoint_filter/GET groups by (name__contains|colour|limit|description)=.*",
        r"users/GET by domain &(sort_dir|password_expires_at).*",
        r"groups/GET (members )?by .*(password_expires_at|sort_dir).*",
    ],
    "dumps": [
        r"auth_issue/malformed: identity .*password (text|number)",
        r"users/password .*",
        r"users/(create|update) user password=5",
        r"users/(POST|PATCH) user body text member",
        r"application_credentials/(create secret=5|POST \w+ body text member)",
        r"credentials/create credential blob=5",
        r"credentials/create without (type|user_id)",
        r"credentials/PATCH (user_id|project_id|type|id|colour|(only )?blob.*)",
        r"credentials/(POST|PATCH) credential body text member",
    ],
    "words": [
        r"\w+/update \w+ (domain_id|is_domain)=.*",
        r"projects/create project is_domain=.*",
        r"policies/(create without|create policy|update policy) .*",
        r"policies/(POST|PATCH) policy body .* member",
        r"endpoints/(create|update) endpoint service_id=.*",
        r"role_assignments/GET by odd user\.id=.*&group\.id=.*",
        r"credentials/PATCH only .*",
        r"oauth1/create description=.*",
        r"oauth1/PATCH [0-9]",
        r"oauth1/PATCH consumer body .*",
        r"identity_providers/PATCH protocol body empty member",
        r"domain_config/(PUT|PATCH|PATCH group) config (text|list|number)",
    ],
    "extra-links": [r"\w+/update \w+ (links|extra|parents|password_expires_at)=.*"],
    "paging": [r"\w+/GET .*(limit|marker)=.*"],
    "blank": [
        r"endpoints/GET by .*region_id=",
        r"domains/GET by .*enabled=",
        r"policies/GET by type=",
        r"credentials/GET by type= .*",
        r"trusts/GET list by nothing",
        r"(identity|service)_providers/GET by enabled=",
        r"role_assignments/GET by odd user\.id=",
    ],
    "region-empty": [r"endpoints/(tidy )?(create|update) endpoint (region|region_id)=\"\""],
    "domain-id": [r"domains/PATCH other id"],
    "domain-roles": [
        r"domains/GET role after DELETE",
        r"roles/create unknown domain",
        rf"roles/GET by domain_id={GONE}",
    ],
    "exists": [
        rf"\w+/(GET|PATCH|DELETE) /v3/(domains|groups|roles)/{GONE} as member",
    ],
    "ec2-owner": [r"ec2_credentials/(GET|HEAD|DELETE) admin's (below own )?as .*"],
    "access-token": [r"oauth1/DELETE unknown access token as .*"],
    "inherit-ghost": [r"grants/.* inherited (list )?unknown (user|group|project|domain)"],
    "policy-ghost": [r"policies/GET policy of endpoint by region above"],
    "limit-nobody": [r"limits/create limit (of null domain|domain_id 0)"],
    "limit-nothing": [r"limits/update limit (resource_limit 8|description [01])"],
    "whole-number": [r"limits/PATCH limit whole number"],
    "implied-ghost": [r"roles/implies of da after DELETE.*"],
    "assigned-system": [r"role_assignments/GET by .*scope\.(system=all&effective|OS-INHERIT:inherited_to=projects).*"],
    "password-length": [
        r"users/create password long",
        r"users/GET (all|by domain.*)",
        r"application_credentials/create secret=.*\(5002\)",
    ],
    "empty-password": [r"users/password empty new"],
    "dead-token": [
        r"\w+/(use )?token .*after .*",
        r"grants/token .*",
        r"users/use token .*",
        r"application_credential_tokens/validate plain without the role",
    ],
    "dead-trust": [
        r"trust_tokens/validate . (with \w+ disabled|without its role)",
        r"trust_tokens/a without its role as caller",
    ],
    "last-use": [r"trust_tokens/validate n1 after .*"],
    "trust-nowhere": [r"trust_tokens/use nowhere"],
    "redelegation-null": [r"trusts/create redelegable None", r"trusts/GET list (as|by trustor|by both).*"],
    "credential-login": [
        r"application_credential_tokens/use (unknown|by name, unknown user name)",
        r"application_credential_tokens/use \w+ after.*",
    ],
    "credential-nowhere": [r"application_credentials/(create without scope|GET list (all|after))"],
    "strict-json": [r"auth_issue/malformed: (duplicate keys|NaN)"],
    "auth-identity": [
        r"auth_issue/malformed: identity methods unknown",
        r"application_credential_tokens/use with scope",
    ],
    "mapping-id": [r"mappings/(PUT|PATCH|DELETE) without id"],
    "taken-none": [r"identity_providers/(PUT again.*|(PUT|PATCH) remote id taken|PATCH remote_ids=.*)"],
    "federated-name": [
        r"federated_users/PATCH (name|empty|same|two of one protocol)",
        r"federated_users/GET c after (empty|two)",
    ],
    "federated-half": [r"federated_users/GET by (idp_id=fu-q|protocol_id=openid|idp_id after)"],
    "federated-twice": [r"federated_users/GET by name=fu-b"],
    "protocol-ghost": [r"federated_users/GET b after DELETE protocol"],
    "config-empty": [r"domain_config/DELETE option value (null|empty|zero)"],
    "config-secret": [r"domain_config/PATCH group sensitive alone"],
    "endpoint-url": [
        r"endpoints/create url 12 ftp:x",
        r"endpoints/GET (all|by service_id=.*)",
        r"endpoints/PATCH bad substitution",
        r"endpoints/update endpoint (region_id|region|name|description|legacy_endpoint_id)=.*",
    ],
    "system-of": [r"role_assignments/auth/system of v"],
}
_PATTERNS = {name: re.compile("|".join(patterns)) for name, patterns in DIVERGENCES.items()}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def differences(tmp_path_factory):
    """Name -> how its answer differs, for all that was recorded; and name -> status where the real one crashed."""
    found, crashes = {}, {}
    async with replay.world(tmp_path_factory.mktemp("world")) as world:
        for section in replay.sections_recorded():
            for exchange, answer in await replay.play(world, section):
                if exchange["response"]["status"] == 500:
                    crashes[exchange["name"]] = answer["status"]
                elif unlike := replay.unlike(exchange, answer):
                    found[exchange["name"]] = unlike
    return found, crashes


def reasons(name):
    return [one for one, pattern in _PATTERNS.items() if pattern.fullmatch(name)]


def test_every_difference_is_listed(differences):
    unlisted = {name: how for name, how in differences[0].items() if not reasons(name)}
    assert not unlisted, "\n".join(f"{name}: {how[:2]}" for name, how in unlisted.items())


def test_every_listed_divergence_still_shows(differences):
    shown = {reason for name in differences[0] for reason in reasons(name)}
    assert set(DIVERGENCES) == shown


def test_what_crashed_there_does_not_crash_here(differences):
    assert {name: status for name, status in differences[1].items() if status >= 500} == {}


def test_the_page_lists_what_the_test_lists():
    page = (Path(__file__).parents[2] / "docs" / "divergences.md").read_text()
    listed = set(re.findall(r"^\| ([a-z0-9-]+) \|", page, re.MULTILINE)) - {"crash"}
    assert listed == set(DIVERGENCES)

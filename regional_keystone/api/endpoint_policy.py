"""Policies that services may fetch, and which of them holds for an endpoint.

Source: keystone/api/policy.py, keystone/policy/schema.py, keystone/endpoint_policy/core.py.
"""

from collections.abc import AsyncIterator, Mapping
from functools import partial
from typing import Any

from regional_keystone.api.fields import shown
from regional_keystone.api.shapes import Attributes, Call, Resource, Result, Route, Shape
from regional_keystone.api.verbs import found_or_refused, listing, seen
from regional_keystone.errors import Invalid, NotFound
from regional_keystone.log import put, remove
from regional_keystone.model import Endpoint, PolicyAssociation, PolicyDocument, Region, Service
from regional_keystone.ports import Reader

_ENDS: Mapping[str, Any] = {"endpoint_id": Endpoint, "service_id": Service, "region_id": Region}


async def _prepare(call: Call, old: PolicyDocument | None, sent: Attributes) -> Attributes:
    if old is not None and call.body["policy"].get("id", old.id) != old.id:
        raise Invalid("Cannot change policy ID")
    return sent


_POLICIES = Resource(
    record=PolicyDocument,
    member="policy",
    collection="policies",
    verbs="create show update delete",
    late={"create": "all", "update": "all"},
    accepts={"blob": {"type": ("string",)}, "type": {"type": ("string",), "maxLength": 255}},
    prepare=_prepare,
)


async def _list(call: Call) -> Result:
    call.enforce("identity:list_policies")
    rows = [await seen(call, _POLICIES, one) async for one in call.reader.scan(PolicyDocument)]
    return Result(body=listing(call, "policies", rows, "type"))


async def _associate(call: Call, *, word: str) -> Result:
    """Make this policy the one that holds here, whichever it was before."""
    new = await _wanted(call, f"create_policy_association_for_{word}")
    old = await call.reader.get(PolicyAssociation, new.id)
    return Result(status=204, changes=() if new == old else (put(new, old),))


async def _check(call: Call, *, word: str) -> Result:
    wanted = await _wanted(call, f"check_policy_association_for_{word}")
    if await call.reader.get(PolicyAssociation, wanted.id) != wanted:
        raise NotFound("Could not find policy association.")
    return Result(status=204)


async def _dissociate(call: Call, *, word: str) -> Result:
    """As upstream, what is not there can be removed as well."""
    wanted = await _wanted(call, f"delete_policy_association_for_{word}")
    old = await call.reader.get(PolicyAssociation, wanted.id)
    return Result(status=204, changes=(remove(old),) if old == wanted else ())


async def _wanted(call: Call, action: str) -> PolicyAssociation:
    """The association that the path names, whose ends are there."""
    call.enforce(f"identity:{action}")
    await _policy(call)
    ends = {name: call.path[name] for name in _ENDS if name in call.path}
    for name, key in ends.items():
        await found_or_refused(call, _ENDS[name], key)
    return PolicyAssociation(id=_id(**ends), policy_id=call.path["policy_id"], **ends)


def _id(endpoint_id: str = "", service_id: str = "", region_id: str = "") -> str:
    """What an association is for, as its key: a service and a region, one of both or an endpoint."""
    return f"endpoint/{endpoint_id}" if endpoint_id else f"service/{service_id}/{region_id}"


async def _policy(call: Call) -> PolicyDocument:
    return await found_or_refused(call, PolicyDocument, call.path["policy_id"], "policy")


async def _endpoints(call: Call) -> Result:
    """Where this policy was put; whether a nearer one holds there is not asked, as upstream."""
    call.enforce("identity:list_endpoints_for_policy")
    policy = await _policy(call)
    everywhere = [one async for one in call.reader.scan(Endpoint)]
    found: list[Endpoint] = []
    for one in await call.reader.find(PolicyAssociation, policy_id=policy.id):
        regions = await _below(call.reader, one.region_id) if one.region_id else set()
        found += [each for each in everywhere if _is_of(each, one, regions)]
    rows = [{**shown(one), "links": {"self": call.url(f"/endpoints/{one.id}")}} for one in found]
    return Result(body=listing(call, "endpoints", rows))


def _is_of(endpoint: Endpoint, association: PolicyAssociation, regions: set[str]) -> bool:
    if association.endpoint_id is not None:
        return endpoint.id == association.endpoint_id
    is_there = association.region_id is None or endpoint.region_id in regions
    return endpoint.service_id == association.service_id and is_there


async def _below(reader: Reader, region_id: str) -> set[str]:
    """A region and all below it."""
    found = {region_id}
    waiting = [region_id]
    while waiting:
        children = await reader.find(Region, parent_region_id=waiting.pop())
        new = [one.id for one in children if one.id not in found]
        found.update(new)
        waiting += new
    return found


async def _policy_of(call: Call) -> Result:
    """The policy that holds for an endpoint: its own, else its region's or the next above that has one, else its
    service's. The link is one to an endpoint, as upstream's.
    """
    call.enforce("identity:get_policy_for_endpoint")
    endpoint = await found_or_refused(call, Endpoint, call.path["endpoint_id"])
    async for key in _nearest(call.reader, endpoint):
        association = await call.reader.get(PolicyAssociation, key)
        if association is not None:
            policy = await found_or_refused(call, PolicyDocument, association.policy_id, "policy")
            body = {**shown(policy), "links": {"self": call.url(f"/endpoints/{policy.id}")}}
            return Result(body={"policy": body})
    raise NotFound(f"No policy is associated with endpoint {endpoint.id}.")


async def _nearest(reader: Reader, endpoint: Endpoint) -> AsyncIterator[str]:
    """Keys of the associations that count for an endpoint, the nearest first."""
    yield _id(endpoint_id=endpoint.id)
    region_id, seen_regions = endpoint.region_id, set[str]()
    while region_id is not None and region_id not in seen_regions:
        yield _id(service_id=endpoint.service_id, region_id=region_id)
        seen_regions.add(region_id)
        region = await reader.get(Region, region_id)
        region_id = region.parent_region_id if region else None
    yield _id(service_id=endpoint.service_id)


_ROOT = "/policies/{policy_id}/OS-ENDPOINT-POLICY"
_PLACES = {
    "endpoint": f"{_ROOT}/endpoints/{{endpoint_id}}",
    "service": f"{_ROOT}/services/{{service_id}}",
    "region_and_service": f"{_ROOT}/services/{{service_id}}/regions/{{region_id}}",
}


def _association(word: str, path: str) -> list[Shape]:
    return [
        Route(method="GET", path=path, handle=partial(_check, word=word)),
        Route(method="PUT", path=path, handle=partial(_associate, word=word), changes="log"),
        Route(method="DELETE", path=path, handle=partial(_dissociate, word=word), changes="log"),
    ]


SHAPES: list[Shape] = [
    _POLICIES,
    Route(method="GET", path="/policies", handle=_list),
    Route(method="GET", path="/endpoints/{endpoint_id}/OS-ENDPOINT-POLICY/policy", handle=_policy_of),
    Route(method="GET", path=f"{_ROOT}/endpoints", handle=_endpoints),
    *(route for word, path in _PLACES.items() for route in _association(word, path)),
]

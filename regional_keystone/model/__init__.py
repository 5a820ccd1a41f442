"""The data model: every stored record of Identity v3, and those by which the federation runs itself.

`extra` keeps attributes that no field names. The order of the modules is that of the tables.
"""

from regional_keystone.model.assignment import Grant, Implication, Role
from regional_keystone.model.catalog import (
    Endpoint,
    EndpointGroup,
    PolicyAssociation,
    PolicyDocument,
    ProjectEndpoint,
    ProjectEndpointGroup,
    Region,
    Service,
)
from regional_keystone.model.delegation import (
    AccessRule,
    AccessToken,
    ApplicationCredential,
    Consumer,
    Credential,
    Trust,
)
from regional_keystone.model.federation import (
    AttributeMapping,
    FederatedUser,
    FederationProtocol,
    IdentityProvider,
    ServiceProvider,
)
from regional_keystone.model.identity import Attempts, DomainOption, Group, Membership, Project, User
from regional_keystone.model.limits import Limit, RegisteredLimit
from regional_keystone.model.regional import (
    Condemned,
    Deletion,
    KeyTimes,
    MaySign,
    Outcome,
    Proposal,
    RevocationEvent,
    Ring,
    SignerChain,
    Signing,
    SigningKey,
    Site,
    Taken,
)
from regional_keystone.model.words import Label, Short, Text, Url

__all__ = [
    "AccessRule",
    "AccessToken",
    "ApplicationCredential",
    "Attempts",
    "AttributeMapping",
    "Condemned",
    "Consumer",
    "Credential",
    "Deletion",
    "DomainOption",
    "Endpoint",
    "EndpointGroup",
    "FederatedUser",
    "FederationProtocol",
    "Grant",
    "Group",
    "IdentityProvider",
    "Implication",
    "KeyTimes",
    "Label",
    "Limit",
    "MaySign",
    "Membership",
    "Outcome",
    "PolicyAssociation",
    "PolicyDocument",
    "Project",
    "ProjectEndpoint",
    "ProjectEndpointGroup",
    "Proposal",
    "Region",
    "RegisteredLimit",
    "RevocationEvent",
    "Ring",
    "Role",
    "Service",
    "ServiceProvider",
    "Short",
    "SignerChain",
    "Signing",
    "SigningKey",
    "Site",
    "Taken",
    "Text",
    "Trust",
    "Url",
    "User",
]

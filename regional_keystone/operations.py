"""Which requests upstream's actions are about, as data: for people who write a `policy.yaml`. Nothing is decided by it.

An action on each line, then methods and path of each of its requests; a line that is indented goes on.
Source: keystone/common/policies/*.py of 30.0.0, its sample file.
"""

_TEXT = """\
get_access_rule GET,HEAD /v3/users/{user_id}/access_rules/{access_rule_id}
list_access_rules GET,HEAD /v3/users/{user_id}/access_rules
delete_access_rule DELETE /v3/users/{user_id}/access_rules/{access_rule_id}
authorize_request_token PUT /v3/OS-OAUTH1/authorize/{request_token_id}
get_access_token GET /v3/users/{user_id}/OS-OAUTH1/access_tokens/{access_token_id}
get_access_token_role GET /v3/users/{user_id}/OS-OAUTH1/access_tokens/{access_token_id}/roles/{role_id}
list_access_tokens GET /v3/users/{user_id}/OS-OAUTH1/access_tokens
list_access_token_roles GET /v3/users/{user_id}/OS-OAUTH1/access_tokens/{access_token_id}/roles
delete_access_token DELETE /v3/users/{user_id}/OS-OAUTH1/access_tokens/{access_token_id}
get_application_credential GET,HEAD /v3/users/{user_id}/application_credentials/{application_credential_id}
list_application_credentials GET,HEAD /v3/users/{user_id}/application_credentials
create_application_credential POST /v3/users/{user_id}/application_credentials
delete_application_credential DELETE /v3/users/{user_id}/application_credentials/{application_credential_id}
get_auth_catalog GET,HEAD /v3/auth/catalog
get_auth_projects GET,HEAD /v3/auth/projects
get_auth_domains GET,HEAD /v3/auth/domains
get_auth_system GET,HEAD /v3/auth/system
get_consumer GET /v3/OS-OAUTH1/consumers/{consumer_id}
list_consumers GET /v3/OS-OAUTH1/consumers
create_consumer POST /v3/OS-OAUTH1/consumers
update_consumer PATCH /v3/OS-OAUTH1/consumers/{consumer_id}
delete_consumer DELETE /v3/OS-OAUTH1/consumers/{consumer_id}
get_credential GET /v3/credentials/{credential_id}
list_credentials GET /v3/credentials
create_credential POST /v3/credentials
update_credential PATCH /v3/credentials/{credential_id}
delete_credential DELETE /v3/credentials/{credential_id}
get_domain GET /v3/domains/{domain_id}
list_domains GET /v3/domains
create_domain POST /v3/domains
update_domain PATCH /v3/domains/{domain_id}
delete_domain DELETE /v3/domains/{domain_id}
create_domain_config PUT /v3/domains/{domain_id}/config
get_domain_config GET,HEAD /v3/domains/{domain_id}/config GET,HEAD /v3/domains/{domain_id}/config/{group}
  GET,HEAD /v3/domains/{domain_id}/config/{group}/{option}
get_security_compliance_domain_config GET,HEAD /v3/domains/{domain_id}/config/security_compliance
  GET,HEAD /v3/domains/{domain_id}/config/security_compliance/{option}
update_domain_config PATCH /v3/domains/{domain_id}/config PATCH /v3/domains/{domain_id}/config/{group}
  PATCH /v3/domains/{domain_id}/config/{group}/{option}
delete_domain_config DELETE /v3/domains/{domain_id}/config DELETE /v3/domains/{domain_id}/config/{group}
  DELETE /v3/domains/{domain_id}/config/{group}/{option}
get_domain_config_default GET,HEAD /v3/domains/config/default GET,HEAD /v3/domains/config/{group}/default
  GET,HEAD /v3/domains/config/{group}/{option}/default
ec2_get_credential GET /v3/users/{user_id}/credentials/OS-EC2/{credential_id}
ec2_list_credentials GET /v3/users/{user_id}/credentials/OS-EC2
ec2_create_credential POST /v3/users/{user_id}/credentials/OS-EC2
ec2_delete_credential DELETE /v3/users/{user_id}/credentials/OS-EC2/{credential_id}
get_endpoint GET /v3/endpoints/{endpoint_id}
list_endpoints GET /v3/endpoints
create_endpoint POST /v3/endpoints
update_endpoint PATCH /v3/endpoints/{endpoint_id}
delete_endpoint DELETE /v3/endpoints/{endpoint_id}
create_endpoint_group POST /v3/OS-EP-FILTER/endpoint_groups
list_endpoint_groups GET /v3/OS-EP-FILTER/endpoint_groups
get_endpoint_group GET,HEAD /v3/OS-EP-FILTER/endpoint_groups/{endpoint_group_id}
update_endpoint_group PATCH /v3/OS-EP-FILTER/endpoint_groups/{endpoint_group_id}
delete_endpoint_group DELETE /v3/OS-EP-FILTER/endpoint_groups/{endpoint_group_id}
list_projects_associated_with_endpoint_group GET /v3/OS-EP-FILTER/endpoint_groups/{endpoint_group_id}/projects
list_endpoints_associated_with_endpoint_group GET /v3/OS-EP-FILTER/endpoint_groups/{endpoint_group_id}/endpoints
get_endpoint_group_in_project GET,HEAD /v3/OS-EP-FILTER/endpoint_groups/{endpoint_group_id}/projects/{project_id}
list_endpoint_groups_for_project GET /v3/OS-EP-FILTER/projects/{project_id}/endpoint_groups
add_endpoint_group_to_project PUT /v3/OS-EP-FILTER/endpoint_groups/{endpoint_group_id}/projects/{project_id}
remove_endpoint_group_from_project DELETE /v3/OS-EP-FILTER/endpoint_groups/{endpoint_group_id}/projects/{project_id}
check_grant HEAD,GET /v3/projects/{project_id}/users/{user_id}/roles/{role_id}
  HEAD,GET /v3/projects/{project_id}/groups/{group_id}/roles/{role_id}
  HEAD,GET /v3/domains/{domain_id}/users/{user_id}/roles/{role_id}
  HEAD,GET /v3/domains/{domain_id}/groups/{group_id}/roles/{role_id}
  HEAD,GET /v3/OS-INHERIT/projects/{project_id}/users/{user_id}/roles/{role_id}/inherited_to_projects
  HEAD,GET /v3/OS-INHERIT/projects/{project_id}/groups/{group_id}/roles/{role_id}/inherited_to_projects
  HEAD,GET /v3/OS-INHERIT/domains/{domain_id}/users/{user_id}/roles/{role_id}/inherited_to_projects
  HEAD,GET /v3/OS-INHERIT/domains/{domain_id}/groups/{group_id}/roles/{role_id}/inherited_to_projects
list_grants GET,HEAD /v3/projects/{project_id}/users/{user_id}/roles
  GET,HEAD /v3/projects/{project_id}/groups/{group_id}/roles GET,HEAD /v3/domains/{domain_id}/users/{user_id}/roles
  GET,HEAD /v3/domains/{domain_id}/groups/{group_id}/roles
  GET /v3/OS-INHERIT/domains/{domain_id}/groups/{group_id}/roles/inherited_to_projects
  GET /v3/OS-INHERIT/domains/{domain_id}/users/{user_id}/roles/inherited_to_projects
create_grant PUT /v3/projects/{project_id}/users/{user_id}/roles/{role_id}
  PUT /v3/projects/{project_id}/groups/{group_id}/roles/{role_id}
  PUT /v3/domains/{domain_id}/users/{user_id}/roles/{role_id}
  PUT /v3/domains/{domain_id}/groups/{group_id}/roles/{role_id}
  PUT /v3/OS-INHERIT/projects/{project_id}/users/{user_id}/roles/{role_id}/inherited_to_projects
  PUT /v3/OS-INHERIT/projects/{project_id}/groups/{group_id}/roles/{role_id}/inherited_to_projects
  PUT /v3/OS-INHERIT/domains/{domain_id}/users/{user_id}/roles/{role_id}/inherited_to_projects
  PUT /v3/OS-INHERIT/domains/{domain_id}/groups/{group_id}/roles/{role_id}/inherited_to_projects
revoke_grant DELETE /v3/projects/{project_id}/users/{user_id}/roles/{role_id}
  DELETE /v3/projects/{project_id}/groups/{group_id}/roles/{role_id}
  DELETE /v3/domains/{domain_id}/users/{user_id}/roles/{role_id}
  DELETE /v3/domains/{domain_id}/groups/{group_id}/roles/{role_id}
  DELETE /v3/OS-INHERIT/projects/{project_id}/users/{user_id}/roles/{role_id}/inherited_to_projects
  DELETE /v3/OS-INHERIT/projects/{project_id}/groups/{group_id}/roles/{role_id}/inherited_to_projects
  DELETE /v3/OS-INHERIT/domains/{domain_id}/users/{user_id}/roles/{role_id}/inherited_to_projects
  DELETE /v3/OS-INHERIT/domains/{domain_id}/groups/{group_id}/roles/{role_id}/inherited_to_projects
list_system_grants_for_user HEAD,GET /v3/system/users/{user_id}/roles
check_system_grant_for_user HEAD,GET /v3/system/users/{user_id}/roles/{role_id}
create_system_grant_for_user PUT /v3/system/users/{user_id}/roles/{role_id}
revoke_system_grant_for_user DELETE /v3/system/users/{user_id}/roles/{role_id}
list_system_grants_for_group HEAD,GET /v3/system/groups/{group_id}/roles
check_system_grant_for_group HEAD,GET /v3/system/groups/{group_id}/roles/{role_id}
create_system_grant_for_group PUT /v3/system/groups/{group_id}/roles/{role_id}
revoke_system_grant_for_group DELETE /v3/system/groups/{group_id}/roles/{role_id}
get_group GET,HEAD /v3/groups/{group_id}
list_groups GET,HEAD /v3/groups
list_groups_for_user GET,HEAD /v3/users/{user_id}/groups
create_group POST /v3/groups
update_group PATCH /v3/groups/{group_id}
delete_group DELETE /v3/groups/{group_id}
list_users_in_group GET,HEAD /v3/groups/{group_id}/users
remove_user_from_group DELETE /v3/groups/{group_id}/users/{user_id}
check_user_in_group HEAD,GET /v3/groups/{group_id}/users/{user_id}
add_user_to_group PUT /v3/groups/{group_id}/users/{user_id}
create_identity_provider PUT /v3/OS-FEDERATION/identity_providers/{idp_id}
list_identity_providers GET,HEAD /v3/OS-FEDERATION/identity_providers
get_identity_provider GET,HEAD /v3/OS-FEDERATION/identity_providers/{idp_id}
update_identity_provider PATCH /v3/OS-FEDERATION/identity_providers/{idp_id}
delete_identity_provider DELETE /v3/OS-FEDERATION/identity_providers/{idp_id}
get_implied_role GET /v3/roles/{prior_role_id}/implies/{implied_role_id}
list_implied_roles GET,HEAD /v3/roles/{prior_role_id}/implies
create_implied_role PUT /v3/roles/{prior_role_id}/implies/{implied_role_id}
delete_implied_role DELETE /v3/roles/{prior_role_id}/implies/{implied_role_id}
list_role_inference_rules GET,HEAD /v3/role_inferences
check_implied_role HEAD /v3/roles/{prior_role_id}/implies/{implied_role_id}
get_limit_model GET,HEAD /v3/limits/model
get_limit GET,HEAD /v3/limits/{limit_id}
list_limits GET,HEAD /v3/limits
create_limits POST /v3/limits
update_limit PATCH /v3/limits/{limit_id}
delete_limit DELETE /v3/limits/{limit_id}
create_mapping PUT /v3/OS-FEDERATION/mappings/{mapping_id}
get_mapping GET,HEAD /v3/OS-FEDERATION/mappings/{mapping_id}
list_mappings GET,HEAD /v3/OS-FEDERATION/mappings
delete_mapping DELETE /v3/OS-FEDERATION/mappings/{mapping_id}
update_mapping PATCH /v3/OS-FEDERATION/mappings/{mapping_id}
get_policy GET /v3/policies/{policy_id}
list_policies GET /v3/policies
create_policy POST /v3/policies
update_policy PATCH /v3/policies/{policy_id}
delete_policy DELETE /v3/policies/{policy_id}
create_policy_association_for_endpoint PUT /v3/policies/{policy_id}/OS-ENDPOINT-POLICY/endpoints/{endpoint_id}
check_policy_association_for_endpoint GET,HEAD /v3/policies/{policy_id}/OS-ENDPOINT-POLICY/endpoints/{endpoint_id}
delete_policy_association_for_endpoint DELETE /v3/policies/{policy_id}/OS-ENDPOINT-POLICY/endpoints/{endpoint_id}
create_policy_association_for_service PUT /v3/policies/{policy_id}/OS-ENDPOINT-POLICY/services/{service_id}
check_policy_association_for_service GET,HEAD /v3/policies/{policy_id}/OS-ENDPOINT-POLICY/services/{service_id}
delete_policy_association_for_service DELETE /v3/policies/{policy_id}/OS-ENDPOINT-POLICY/services/{service_id}
create_policy_association_for_region_and_service
  PUT /v3/policies/{policy_id}/OS-ENDPOINT-POLICY/services/{service_id}/regions/{region_id}
check_policy_association_for_region_and_service
  GET,HEAD /v3/policies/{policy_id}/OS-ENDPOINT-POLICY/services/{service_id}/regions/{region_id}
delete_policy_association_for_region_and_service
  DELETE /v3/policies/{policy_id}/OS-ENDPOINT-POLICY/services/{service_id}/regions/{region_id}
get_policy_for_endpoint GET,HEAD /v3/endpoints/{endpoint_id}/OS-ENDPOINT-POLICY/policy
list_endpoints_for_policy GET /v3/policies/{policy_id}/OS-ENDPOINT-POLICY/endpoints
get_project GET /v3/projects/{project_id}
list_projects GET /v3/projects
list_user_projects GET /v3/users/{user_id}/projects
create_project POST /v3/projects
update_project PATCH /v3/projects/{project_id}
delete_project DELETE /v3/projects/{project_id}
list_project_tags GET,HEAD /v3/projects/{project_id}/tags
get_project_tag GET,HEAD /v3/projects/{project_id}/tags/{value}
update_project_tags PUT /v3/projects/{project_id}/tags
create_project_tag PUT /v3/projects/{project_id}/tags/{value}
delete_project_tags DELETE /v3/projects/{project_id}/tags
delete_project_tag DELETE /v3/projects/{project_id}/tags/{value}
list_projects_for_endpoint GET /v3/OS-EP-FILTER/endpoints/{endpoint_id}/projects
add_endpoint_to_project PUT /v3/OS-EP-FILTER/projects/{project_id}/endpoints/{endpoint_id}
check_endpoint_in_project GET,HEAD /v3/OS-EP-FILTER/projects/{project_id}/endpoints/{endpoint_id}
list_endpoints_for_project GET /v3/OS-EP-FILTER/projects/{project_id}/endpoints
remove_endpoint_from_project DELETE /v3/OS-EP-FILTER/projects/{project_id}/endpoints/{endpoint_id}
create_protocol PUT /v3/OS-FEDERATION/identity_providers/{idp_id}/protocols/{protocol_id}
update_protocol PATCH /v3/OS-FEDERATION/identity_providers/{idp_id}/protocols/{protocol_id}
get_protocol GET /v3/OS-FEDERATION/identity_providers/{idp_id}/protocols/{protocol_id}
list_protocols GET /v3/OS-FEDERATION/identity_providers/{idp_id}/protocols
delete_protocol DELETE /v3/OS-FEDERATION/identity_providers/{idp_id}/protocols/{protocol_id}
get_region GET,HEAD /v3/regions/{region_id}
list_regions GET,HEAD /v3/regions
create_region POST /v3/regions PUT /v3/regions/{region_id}
update_region PATCH /v3/regions/{region_id}
delete_region DELETE /v3/regions/{region_id}
get_registered_limit GET,HEAD /v3/registered_limits/{registered_limit_id}
list_registered_limits GET,HEAD /v3/registered_limits
create_registered_limits POST /v3/registered_limits
update_registered_limit PATCH /v3/registered_limits/{registered_limit_id}
delete_registered_limit DELETE /v3/registered_limits/{registered_limit_id}
list_revoke_events GET /v3/OS-REVOKE/events
get_role GET,HEAD /v3/roles/{role_id}
list_roles GET,HEAD /v3/roles
create_role POST /v3/roles
update_role PATCH /v3/roles/{role_id}
delete_role DELETE /v3/roles/{role_id}
get_domain_role GET,HEAD /v3/roles/{role_id}
list_domain_roles GET,HEAD /v3/roles?domain_id={domain_id}
create_domain_role POST /v3/roles
update_domain_role PATCH /v3/roles/{role_id}
delete_domain_role DELETE /v3/roles/{role_id}
list_role_assignments GET,HEAD /v3/role_assignments
list_role_assignments_for_tree GET,HEAD /v3/role_assignments?include_subtree
s3tokens_validate POST /v3/s3tokens
ec2tokens_validate POST /v3/ec2tokens
get_service GET /v3/services/{service_id}
list_services GET /v3/services
create_service POST /v3/services
update_service PATCH /v3/services/{service_id}
delete_service DELETE /v3/services/{service_id}
create_service_provider PUT /v3/OS-FEDERATION/service_providers/{service_provider_id}
list_service_providers GET,HEAD /v3/OS-FEDERATION/service_providers
get_service_provider GET,HEAD /v3/OS-FEDERATION/service_providers/{service_provider_id}
update_service_provider PATCH /v3/OS-FEDERATION/service_providers/{service_provider_id}
delete_service_provider DELETE /v3/OS-FEDERATION/service_providers/{service_provider_id}
revocation_list GET /v3/auth/tokens/OS-PKI/revoked
check_token HEAD /v3/auth/tokens
validate_token GET /v3/auth/tokens
revoke_token DELETE /v3/auth/tokens
create_trust POST /v3/OS-TRUST/trusts
list_trusts GET,HEAD /v3/OS-TRUST/trusts
list_trusts_for_trustor GET,HEAD /v3/OS-TRUST/trusts?trustor_user_id={trustor_user_id}
list_trusts_for_trustee GET,HEAD /v3/OS-TRUST/trusts?trustee_user_id={trustee_user_id}
list_roles_for_trust GET,HEAD /v3/OS-TRUST/trusts/{trust_id}/roles
get_role_for_trust GET,HEAD /v3/OS-TRUST/trusts/{trust_id}/roles/{role_id}
delete_trust DELETE /v3/OS-TRUST/trusts/{trust_id}
get_trust GET,HEAD /v3/OS-TRUST/trusts/{trust_id}
get_user GET,HEAD /v3/users/{user_id}
list_users GET,HEAD /v3/users
list_projects_for_user GET  /v3/auth/projects
list_domains_for_user GET /v3/auth/domains
create_user POST /v3/users
update_user PATCH /v3/users/{user_id}
delete_user DELETE /v3/users/{user_id}
revoke_tokens_for_user DELETE /v3/users/{user_id}/tokens
"""


def _parsed(text: str) -> dict[str, tuple[tuple[str, str], ...]]:
    found: dict[str, tuple[tuple[str, str], ...]] = {}
    for line in text.replace("\n  ", " ").splitlines():
        action, *words = line.split()
        found[action] = tuple(zip(words[::2], words[1::2], strict=True))
    return found


OPERATIONS = _parsed(_TEXT)
"""Action -> (methods by comma, path) of each request."""

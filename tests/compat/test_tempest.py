"""OpenStack's own tests of the Identity API, unmodified: at the controller, and at a site that passes changes on."""

import re
import subprocess

import pytest

pytestmark = [pytest.mark.compat, pytest.mark.federation, pytest.mark.xdist_group("stock")]
TESTS, LONGEST_S = 138, 120
CONF = """
[DEFAULT]
log_file = tempest.log
[oslo_concurrency]
lock_path = ./lock
[auth]
use_dynamic_credentials = true
create_isolated_networks = false
admin_username = admin
admin_password = {password}
admin_project_name = admin
admin_domain_name = Default
default_credentials_domain_name = Default
[identity]
uri_v3 = {url}
auth_version = v3
region = {region}
v3_endpoint_type = public
user_lockout_failure_attempts = 2
user_lockout_duration = 5
user_unique_last_password_count = 2
[identity-feature-enabled]
api_extensions = all
security_compliance = true
[enforce_scope]
keystone = true
[service_available]
cinder = false
neutron = false
glance = false
swift = false
nova = false
horizon = false
"""


def workspace(tempest, directory, member, password, environment):
    made = ["init", "--workspace-path", directory / "workspace.yaml", "--name", "identity", directory / "identity"]
    subprocess.run([tempest, *made], check=True, capture_output=True, env=environment)
    conf = CONF.format(password=password, url=member.url, region=member.region)
    (directory / "identity" / "etc" / "tempest.conf").write_text(conf)
    return directory / "identity"


@pytest.mark.parametrize("number", [0, 1], ids=["controller", "site"])
def test_every_test_passes(number, federation, tempest_python, environment, tmp_path):
    tempest = tempest_python.with_name("tempest")
    place = workspace(tempest, tmp_path, federation.members()[number], federation.password(), environment)
    which = ["--regex", r"^tempest\.api\.identity"]
    done = subprocess.run(
        [tempest, "run", *which, "--concurrency", "2"],
        cwd=place,
        env=environment,
        capture_output=True,
        text=True,
        timeout=LONGEST_S,
        check=False,
    )
    counted = dict(re.findall(r" - (Passed|Skipped|Failed): (\d+)", done.stdout))
    failed = re.findall(r"(\S+) \[\S+\] \.\.\. FAILED", done.stdout)
    assert not failed, done.stdout[-4000:]
    assert (done.returncode, counted) == (0, {"Passed": str(TESTS), "Skipped": "0", "Failed": "0"}), done.stderr[-2000:]

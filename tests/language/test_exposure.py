"""What others may reach keeps a process from starting, and the command that it names mends it."""

import dataclasses
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from controller.settings import Settings as ControllerSettings
from regional_keystone import exposure
from regional_keystone.errors import StoreRefused
from regional_keystone.settings import Settings, options, type_name

NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
LISTED = {
    "the state directory": "",
    "a site's keys": "identity",
    "a site's box key": "identity/box.key",
    "a site's TLS key": "identity/tls.key",
    "the authority": "authority",
    "the CA's key": "authority/ca.key",
    "the bundle signer": "authority/signer.key",
    "the token ring": "fernet-keys",
    "the credential ring": "credential-keys",
    "the receipt ring": "receipt-keys",
    "a site's signing key": "jws-keys/private/private.pem",
}
NAMED = {
    "the certificate's key": ("listen", "tls_key"),
    "the join token": ("site", "join_token_file"),
    "the cache's secret": ("memcached", "secret_file"),
    "Cassandra's password": ("cassandra", "password_file"),
    "Cassandra's key": ("cassandra", "tls_key"),
    "ZooKeeper's password": ("zookeeper", "password_file"),
    "the first password": ("bootstrap", "password_file"),
    "an authority elsewhere": ("controller", "authority_dir"),
    "a token ring elsewhere": ("keys", "directory"),
    "a credential ring elsewhere": ("keys", "credential_directory"),
    "a receipt ring elsewhere": ("keys", "receipt_directory"),
    "a signing key elsewhere": ("jwt_tokens", "jws_private_key_repository"),
}
DIRECTORIES = {"authority_dir", "directory", "credential_directory", "jws_private_key_repository"}
BELIEVED = {
    "the policy": ("policy", "file"),
    "public signing keys": ("jwt_tokens", "jws_public_key_repository"),
    "public keys of a Keystone": ("jwt_tokens", "trusted_public_key_repository"),
    "a certificate": ("listen", "tls_cert"),
    "Cassandra's CA": ("cassandra", "tls_ca"),
    "memcached's CA": ("memcached", "tls_ca"),
    "ZooKeeper's CA": ("zookeeper", "tls_ca"),
}


@pytest.fixture
def state(tmp_path):
    """A state directory as servers leave it."""
    found = tmp_path / "state"
    for name in ("", "identity", "authority", "fernet-keys", "credential-keys", "receipt-keys", "jws-keys/private"):
        (found / name).mkdir(mode=0o700, parents=True)
    for name in ("identity/box.key", "identity/tls.key", "authority/ca.key", "authority/signer.key"):
        (found / name).touch(mode=0o400)
    (found / "jws-keys/private/private.pem").touch(mode=0o600)
    (found / "jws-keys/public").mkdir(mode=0o755)
    (found / "jws-keys/public/1.pem").touch(mode=0o644)
    return found


def settings(state, *named):
    """Settings with this state directory and (section, option, path)s."""
    found = ControllerSettings()
    for section, option, path in (("site", "state_dir", state), *named):
        found = dataclasses.replace(found, **{section: dataclasses.replace(getattr(found, section), **{option: path})})
    return found


def mended(told, path):
    """Refused by name; what it tells to do is done, and it is refused no more."""
    with pytest.raises(StoreRefused) as refusal:
        exposure.refuse(told)
    what, _, cure = str(refusal.value).partition("; mend it: ")
    assert what.startswith(f"{path}: ")
    subprocess.run(shlex.split(cure), check=True)
    exposure.refuse(told)


@pytest.mark.parametrize("mode", [0o770, 0o702, 0o740, 0o704], ids=oct)
@pytest.mark.parametrize("name", LISTED.values(), ids=LISTED)
def test_what_lies_in_the_state_directory_is_for_its_owner_alone(state, name, mode):
    exposure.refuse(settings(state))
    (state / name).chmod(mode)
    mended(settings(state), state / name)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o622], ids=oct)
@pytest.mark.parametrize("option", NAMED.values(), ids=NAMED)
def test_what_a_setting_names_is_for_its_owner_alone(state, tmp_path, option, mode):
    path = tmp_path / "a secret"
    path.mkdir(mode=0o700) if option[1] in DIRECTORIES else path.touch(mode=0o600)
    exposure.refuse(settings(state, (*option, path)))
    path.chmod(mode | 0o100)
    mended(settings(state, (*option, path)), path)


@pytest.mark.parametrize("option", BELIEVED.values(), ids=BELIEVED)
def test_what_is_believed_may_be_read_and_not_written_by_others(state, tmp_path, option):
    path = tmp_path / "believed"
    path.touch()
    path.chmod(0o644)
    exposure.refuse(settings(state, (*option, path)))
    for mode in (0o664, 0o646):
        path.chmod(mode)
        mended(settings(state, (*option, path)), path)


@pytest.mark.parametrize("name", ["jws-keys/public", "jws-keys/public/1.pem"])
def test_public_keys_may_be_read_and_not_changed(state, name):
    (state / name).chmod(0o777)
    mended(settings(state), state / name)


@as_root
@pytest.mark.parametrize("name", ["", "identity", "identity/tls.key", "authority", "authority/signer.key"])
def test_what_belongs_to_another_user_is_refused(state, name):
    os.chown(state / name, NOBODY, NOBODY)
    mended(settings(state), state / name)


@as_root
def test_a_keystone_beside_us_may_own_the_ring_where_we_are_root(state):
    os.chown(state / "fernet-keys", NOBODY, NOBODY)
    exposure.refuse(settings(state))


@as_root
def test_who_is_not_root_believes_nobody_else():
    """Root's files are as good as one's own: a certificate, a policy."""
    code = (
        "import os, sys; from pathlib import Path; from regional_keystone import exposure\n"
        "os.setresgid(65533, 65533, 65533); os.setresuid(65533, 65533, 65533)\n"
        "for name in sys.argv[1:]: print(*(one.cure for one in exposure.private(Path(name))))"
    )
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o711)  # the one of pytest is closed
        roots, others = Path(folder) / "roots", Path(folder) / "others"
        for path in (roots, others):
            path.touch(mode=0o600)
        os.chown(others, NOBODY, NOBODY)
        done = subprocess.run([sys.executable, "-c", code, roots, others], capture_output=True, text=True, check=True)
    assert done.stdout == f"\nchown 65533 {others}\n"


@pytest.mark.parametrize("mode", [0o770, 0o751])
def test_a_group_may_read_the_ring_that_a_keystone_keeps(state, tmp_path, mode):
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    theirs.chmod(0o750)
    exposure.refuse(settings(state, ("keys", "follow", theirs)))
    theirs.chmod(mode)
    mended(settings(state, ("keys", "follow", theirs)), theirs)


@pytest.mark.parametrize("kind", [Settings, ControllerSettings])
def test_each_option_of_a_path_is_of_one_kind(kind):
    """Who adds one says whether it is private, a ring, or believed."""
    paths = {name for section, name in options(kind) if type_name(kind, section, name) == "path"}
    assert paths <= {*exposure.PRIVATE, *exposure.RINGS, *exposure.FOLLOWED, *exposure.BELIEVED}
    assert not {*exposure.PRIVATE} & {*exposure.RINGS, *exposure.BELIEVED}

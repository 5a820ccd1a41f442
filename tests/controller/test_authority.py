"""The federation's own authority: made once or handed over, whole or not at all, and certifying keys only."""

import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from controller.authority import CA_DAYS, CREDENTIALS, PARTS, Authority, Cas, ca_id, certified
from regional_keystone.errors import Conflict, Invalid, StoreRefused

NOW = 1_772_000_000_000_000
PEM = serialization.Encoding.PEM


def request(key, name="anything"):
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    return x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())


@pytest.fixture
def authority(tmp_path):
    return Authority.open(tmp_path / "authority", NOW)


def test_an_authority_is_the_same_when_it_is_opened_again(authority, tmp_path):
    again = Authority.open(tmp_path / "authority", NOW)
    assert (again.cluster, again.fingerprint, again.signer_key, again.box_key) == (
        authority.cluster,
        authority.fingerprint,
        authority.signer_key,
        authority.box_key,
    )


def test_its_files_are_for_the_owner_alone(authority, tmp_path):
    directory = tmp_path / "authority"
    assert directory.stat().st_mode & 0o777 == 0o700
    assert {file.stat().st_mode & 0o777 for file in directory.iterdir()} == {0o400}


@pytest.mark.parametrize("name", ["cluster", "ca.key", "ca.crt", "signer.key"])
def test_an_authority_that_lost_a_part_is_refused_and_nothing_is_made_in_its_place(authority, tmp_path, name):
    (tmp_path / "authority" / name).unlink()
    with pytest.raises(StoreRefused, match=name):
        Authority.open(tmp_path / "authority", NOW)
    assert not (tmp_path / "authority" / name).exists()


def test_a_first_start_that_was_cut_short_is_finished(authority, tmp_path):
    for name in ("box.key", "signer.key", "ca.crt"):
        (tmp_path / "authority" / name).unlink()
    assert Authority.open(tmp_path / "authority", NOW).cluster == authority.cluster


def test_a_key_that_is_not_that_of_the_certificate_is_refused(authority, tmp_path):
    Authority.open(tmp_path / "other", NOW)
    path = tmp_path / "authority" / "ca.key"
    path.unlink()
    path.write_bytes((tmp_path / "other" / "ca.key").read_bytes())
    with pytest.raises(StoreRefused, match="not the key"):
        Authority.open(tmp_path / "authority", NOW)


def test_a_certificate_names_cluster_site_and_instance_whatever_was_asked_for(authority):
    csr = request(ec.generate_private_key(ec.SECP256R1()), "RegionTwo").public_bytes(PEM).decode()
    made = x509.load_pem_x509_certificate(authority.certify(csr, "RegionOne", "a" * 32, NOW, 60.0).encode())
    names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [
        f"rk://{authority.cluster}/RegionOne/{'a' * 32}"
    ]
    assert not made.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    made.verify_directly_issued_by(authority.ca)


def test_what_is_no_request_for_a_key_of_ours_is_refused(authority):
    other = request(rsa.generate_private_key(65537, 2048)).public_bytes(PEM).decode()
    good = request(ec.generate_private_key(ec.SECP256R1()))
    der = bytearray(good.public_bytes(serialization.Encoding.DER))
    der[-1] ^= 1
    forged = x509.load_der_x509_csr(bytes(der)).public_bytes(PEM).decode()
    for csr in ("", "nonsense", other, forged, "é"):
        with pytest.raises(Invalid):
            authority.certify(csr, "RegionOne", "a" * 32, NOW, 60.0)


@pytest.fixture
def credentials(authority, tmp_path, monkeypatch):
    """As systemd hands over the files of an authority, to nobody else and for reading only."""
    directory = tmp_path / "credentials"
    shutil.copytree(authority.directory, directory)
    directory.chmod(0o500)
    monkeypatch.setenv(CREDENTIALS, str(directory))
    yield directory
    directory.chmod(0o700)


def test_an_authority_among_the_credentials_counts_and_none_is_made(authority, credentials, tmp_path):
    there = Authority.open(tmp_path / "another", NOW)
    assert (there.cluster, there.fingerprint, there.signer_key) == (
        authority.cluster,
        authority.fingerprint,
        authority.signer_key,
    )
    assert not (tmp_path / "another").exists()


def test_no_new_key_is_kept_among_the_credentials_and_it_is_said_what_to_do(authority, credentials):
    there, files = Authority.open(authority.directory, NOW), {*credentials.iterdir()}
    with pytest.raises(Conflict, match=r"credentials .*authority_dir and without LoadCredential="):
        there.new_signer()
    assert {*credentials.iterdir()} == files
    with pytest.raises(Conflict, match=r"add LoadCredential=signer-[0-9a-f]{16}\.key:FILE"):
        there.signer_of(b"k" * 32)
    later = authority.new_signer()
    credentials.chmod(0o700)
    shutil.copy2(next(authority.directory.glob("signer-*.key")), credentials)
    assert there.signer_of(later).public_key().public_bytes_raw() == later


@pytest.mark.parametrize("name", [name for name in PARTS if name != "cluster"])
def test_a_part_of_an_authority_among_the_credentials_is_refused(authority, credentials, name):
    credentials.chmod(0o700)
    (credentials / name).unlink()
    with pytest.raises(StoreRefused, match=f"{re.escape(name)} is missing; add LoadCredential="):
        Authority.open(authority.directory, NOW)
    assert not (credentials / name).exists()


def test_credentials_that_everybody_reaches_are_refused(authority, credentials):
    credentials.chmod(0o705)
    with pytest.raises(StoreRefused, match="others can reach"):
        Authority.open(authority.directory, NOW)


def test_credentials_of_something_else_change_nothing(authority, tmp_path, monkeypatch):
    (tmp_path / "else").mkdir()
    (tmp_path / "else/cluster").write_text("a word")
    monkeypatch.setenv(CREDENTIALS, str(tmp_path / "else"))
    assert Authority.open(authority.directory, NOW).directory == authority.directory


def test_the_unit_names_every_part():
    unit = Path(__file__).parents[2] / "configs/systemd/regional-keystone-controller.service"
    assert re.findall(r"(?m)^#LoadCredential=([^:]+):/\S+/(\S+)$", unit.read_text()) == [(one, one) for one in PARTS]


def test_keys_that_are_added_later_are_for_the_owner_alone_as_well(authority, tmp_path):
    name = authority.new_ca(NOW)
    authority.new_signer()
    authority.state_cas(Cas(number=1, trusted=(ca_id(authority.ca), name)))
    (tmp_path / "stream").mkdir(0o700)
    authority.certify_stream(tmp_path / "stream", ["localhost"], NOW, 60.0)
    added = [path for place in ("authority", "stream") for path in (tmp_path / place).iterdir()]
    assert len(added) == len(PARTS) + 4 + 2
    assert {path.name: oct(path.stat().st_mode & 0o777) for path in added} == {path.name: "0o400" for path in added}


def test_a_certificate_is_for_its_one_use_and_ends_with_the_ca_at_the_latest(authority, tmp_path):
    csr = request(ec.generate_private_key(ec.SECP256R1())).public_bytes(PEM).decode()
    ages = 2 * CA_DAYS * 86400.0
    site = x509.load_pem_x509_certificate(authority.certify(csr, "RegionOne", "a" * 32, NOW, ages).encode())
    (tmp_path / "stream").mkdir(0o700)
    own = authority.certify_stream(tmp_path / "stream", ["localhost"], NOW, ages)
    for made, usage in ((site, ExtendedKeyUsageOID.CLIENT_AUTH), (own, ExtendedKeyUsageOID.SERVER_AUTH)):
        assert list(made.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [usage]
        assert made.not_valid_after_utc == authority.ca.not_valid_after_utc
    assert authority.ca.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 0


def test_a_peer_has_one_name_or_none():
    def named(*names):
        found = {"subjectAltName": tuple(("URI", name) for name in names)}
        transport = SimpleNamespace(get_extra_info={"peercert": found}.get)
        return certified(SimpleNamespace(transport=transport))

    assert named("rk://c/RegionOne/a") == "rk://c/RegionOne/a"
    assert named() is named("rk://c/RegionOne/a", "rk://c/RegionTwo/b") is None


def test_a_ca_whose_file_holds_another_is_refused(authority, tmp_path):
    one, two = authority.new_ca(NOW), authority.new_ca(NOW)
    authority.state_cas(Cas(number=1, trusted=(ca_id(authority.ca), one)))
    path = tmp_path / "authority" / f"ca-{one}.crt"
    path.unlink()
    path.write_bytes((tmp_path / "authority" / f"ca-{two}.crt").read_bytes())
    with pytest.raises(StoreRefused, match="another certificate than its name says"):
        Authority.open(tmp_path / "authority", NOW)


@pytest.mark.parametrize("said", [Cas(number=1, trusted=()), Cas(number=0, trusted=("0" * 16,))])
def test_a_word_about_cas_that_cannot_be_is_refused(authority, tmp_path, said):
    authority.state_cas(said)
    with pytest.raises(StoreRefused, match="damaged"):
        Authority.open(tmp_path / "authority", NOW)

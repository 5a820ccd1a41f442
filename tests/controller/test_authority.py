"""The federation's own authority: made once, whole or not at all, and certifying keys only."""

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from controller.authority import Authority
from regional_keystone.errors import Invalid, StoreRefused

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

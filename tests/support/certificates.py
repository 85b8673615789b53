"""A certificate of a test's own."""

from __future__ import annotations

from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from twisted.internet.ssl import Certificate, PrivateCertificate

NOT_BEFORE, NOT_AFTER = datetime(2020, 1, 1), datetime(2120, 1, 1)


def key_and_certificate(host: str = "example.com") -> tuple[bytes, bytes]:
    """Make a certificate, and its key, as they stand in the file of an ``ssl:`` listener."""
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host)])
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(NOT_BEFORE)
        .not_valid_after(NOT_AFTER)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    public = built.public_bytes(serialization.Encoding.PEM)
    return pem, public


def certificate(host: str = "example.com") -> tuple[PrivateCertificate, Certificate]:
    """Make a certificate for example.com, with and without its key."""
    key, public = key_and_certificate(host)
    return PrivateCertificate.loadPEM(key + public), Certificate.loadPEM(public)

"""A certificate authority of the tests, and a server's certificate that it signed."""

import hashlib
import ssl
from pathlib import Path

import trustme


class Authority:
    """Files of a CA and of a certificate for localhost and 127.0.0.1, made in a folder."""

    def __init__(self, folder: Path) -> None:
        authority, other = trustme.CA(), trustme.CA()
        issued = authority.issue_cert("localhost", "127.0.0.1")
        leaf = issued.cert_chain_pems[0].bytes()
        root = authority.cert_pem.bytes()
        self.ca_file = _write(folder / "ca.pem", root)
        self.other_ca_file = _write(folder / "other-ca.pem", other.cert_pem.bytes())
        # The CA is sent along, so that clients can pin its fingerprint as well as the certificate's own.
        self.certificate_file = _write(folder / "certificate.pem", leaf + root)
        self.key_file = _write(folder / "key.pem", issued.private_key_pem.bytes())
        self.fingerprint = _fingerprint(leaf)
        self.ca_fingerprint = _fingerprint(root)


def _write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def _fingerprint(pem: bytes) -> str:
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem.decode())).hexdigest()

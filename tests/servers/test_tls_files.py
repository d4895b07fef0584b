"""An error names the wrong TLS setting, and no one is asked for a password."""

import subprocess
from pathlib import Path

import pytest

from everycore.servers.loading import CannotBootError
from everycore.servers.tls_files import check_tls
from tests.kit.running import make_certificate


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """cert.pem with both, key.pem, the same encrypted, and the key of another certificate."""
    folder = tmp_path_factory.mktemp("tls")
    other = Path(make_certificate(folder)).rename(folder / "other.pem")
    both = Path(make_certificate(folder)).rename(folder / "both.pem")
    key, _, certificate = both.read_text().partition("-----BEGIN CERTIFICATE-----")
    (folder / "key.pem").write_text(key)
    (folder / "cert.pem").write_text(f"-----BEGIN CERTIFICATE-----{certificate}")
    assert "PRIVATE" in other.read_text()
    subprocess.run(
        ["openssl", "pkcs8", "-topk8", "-in", "key.pem", "-out", "locked.pem", "-passout", "pass:sesame"],
        cwd=folder,
        check=True,
        capture_output=True,
    )
    return folder


def options(folder, values):
    """The options of the engine; a value with a suffix is a file in the folder."""
    return {f"ssl_{key}": str(folder / text) if "." in text else text for key, text in values.items()}


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"keyfile": "nothing.pem"},  # the primary has refused it: there is no certificate
        {"certfile": "both.pem"},
        {"certfile": "cert.pem", "keyfile": "key.pem"},
        {"certfile": "cert.pem", "keyfile": "locked.pem", "keyfile_password": "sesame"},
        {"certfile": "both.pem", "keyfile_password": "which is not needed"},
        {"certfile": "both.pem", "ca_certs": "cert.pem", "ciphers": "ECDHE+AESGCM"},
    ],
)
def test_settings_that_are_right(folder, values):
    check_tls(options(folder, values))


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"certfile": "none.pem"}, "--ssl-certfile: cannot read '{}/none.pem': no such file or directory"),
        ({"certfile": "key.pem"}, "--ssl-certfile: there is no certificate (PEM) in '{}/key.pem'"),
        ({"certfile": "cert.pem"}, "--ssl-certfile: there is no private key (PEM) in '{}/cert.pem'"),
        (
            {"certfile": "cert.pem", "keyfile": "none.pem"},
            "--ssl-keyfile: cannot read '{}/none.pem': no such file or directory",
        ),
        (
            {"certfile": "cert.pem", "keyfile": "cert.pem"},
            "--ssl-keyfile: there is no private key (PEM) in '{}/cert.pem'",
        ),
        (
            {"certfile": "cert.pem", "keyfile": "other.pem"},
            ("--ssl-keyfile: the key in '{}/other.pem' does not belong to the certificate in '{}/cert.pem'"),
        ),
        (
            {"certfile": "cert.pem", "keyfile": "locked.pem"},
            "--ssl-keyfile: the key in '{}/locked.pem' is encrypted; --ssl-keyfile-password is missing",
        ),
        (
            {"certfile": "cert.pem", "keyfile": "locked.pem", "keyfile_password": "wrong"},
            "--ssl-keyfile-password: does not open the key in '{}/locked.pem'",
        ),
        (
            {"certfile": "cert.pem", "keyfile": "locked.pem", "keyfile_password": "x" * 2000},
            "--ssl-keyfile-password: password cannot be longer than 1024 bytes",
        ),
        (
            {"certfile": "both.pem", "ca_certs": "key.pem"},
            "--ssl-ca-certs: there is no certificate (PEM) in '{}/key.pem'",
        ),
        ({"certfile": "both.pem", "ciphers": "NOSUCH"}, "--ssl-ciphers: OpenSSL has none of 'NOSUCH'"),
    ],
)
def test_settings_that_are_wrong(folder, values, says):
    with pytest.raises(CannotBootError) as caught:
        check_tls(options(folder, values))
    assert caught.value.report.text == says.replace("{}", str(folder))
    assert caught.value.report.status == 3

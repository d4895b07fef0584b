"""Finds out which TLS setting is wrong, before an engine fails with `[SSL] PEM lib`.

It does with the files what the engine will do, one after the other, and names the setting at which it fails.
Invariant: the user is never asked for a password. OpenSSL would ask at the terminal, in each worker and at
each start.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Any

from everycore.servers.loading import CannotBootError
from everycore.system.plain_files import reason_of


def check_tls(options: Mapping[str, Any]) -> None:
    """Check the TLS files in the engine's options, by uvicorn's names. Raises CannotBootError."""
    certificate = options.get("ssl_certfile")
    if not certificate:
        return
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _check_certificates(context, "--ssl-certfile", certificate)
    _check_key(context, certificate, options.get("ssl_keyfile"), options.get("ssl_keyfile_password"))
    if authorities := options.get("ssl_ca_certs"):
        _check_certificates(context, "--ssl-ca-certs", authorities)
    if ciphers := options.get("ssl_ciphers"):
        try:
            context.set_ciphers(ciphers)
        except ssl.SSLError:
            raise CannotBootError(f"--ssl-ciphers: OpenSSL has none of {ciphers!r}") from None


def _check_certificates(context: ssl.SSLContext, option: str, path: str) -> None:
    try:
        context.load_verify_locations(path)
    except ssl.SSLError:
        raise CannotBootError(f"{option}: there is no certificate (PEM) in {path!r}") from None
    except OSError as error:
        raise _unreadable(option, path, error) from None


def _check_key(context: ssl.SSLContext, certificate: str, path: str | None, password: str | None) -> None:
    option, key = ("--ssl-certfile", certificate) if path is None else ("--ssl-keyfile", path)
    is_encrypted = False

    def tell_password() -> str:
        nonlocal is_encrypted
        is_encrypted = True
        return password or ""

    try:
        context.load_cert_chain(certificate, path, tell_password)
    except ValueError as error:
        raise CannotBootError(f"--ssl-keyfile-password: {error}") from None
    except ssl.SSLError as error:
        if is_encrypted and not password:
            problem = f"the key in {key!r} is encrypted; --ssl-keyfile-password is missing"
        elif is_encrypted:
            option, problem = "--ssl-keyfile-password", f"does not open the key in {key!r}"
        elif error.reason == "KEY_VALUES_MISMATCH":
            problem = f"the key in {key!r} does not belong to the certificate in {certificate!r}"
        elif error.reason in ("PEM_LIB", "NO_START_LINE", None):
            problem = f"there is no private key (PEM) in {key!r}"
        else:  # OpenSSL's own demands, such as a key that is too short
            problem = f"OpenSSL refuses {key!r}: {error.reason.lower().replace('_', ' ')}"
        raise CannotBootError(f"{option}: {problem}") from None
    except OSError as error:
        raise _unreadable(option, key, error) from None


def _unreadable(option: str, path: str, error: OSError) -> CannotBootError:
    return CannotBootError(f"{option}: cannot read {path!r}: {reason_of(error)}")

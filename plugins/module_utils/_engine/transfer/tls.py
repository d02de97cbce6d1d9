# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""TLS 1.3 between two hosts that know each other's certificates, or as CRIU has it: certificates signed by an authority.

A pinned certificate is trusted for itself, by its SHA-256 fingerprint: neither its dates nor its names are looked at. Python's
ssl makes a server ask for a client's certificate only together with a set of trusted ones, so the side that accepts needs the
client's certificate itself; the fingerprint of the server's is enough for the side that connects.

Certificates are made by the program openssl: nothing in Python's own library can make one, and the private key of a host is so
never anywhere else.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import socket
import ssl
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from typing import Optional, Tuple

from ..errors import TransferError, UsageError

HANDSHAKE_TIMEOUT = 10.0
"""Seconds: who connects and says nothing holds nobody up for longer."""
CRIU_CACERT, CRIU_CACRL = "/etc/pki/CA/cacert.pem", "/etc/pki/CA/cacrl.pem"
CRIU_CERT, CRIU_KEY = "/etc/pki/criu/cert.pem", "/etc/pki/criu/private/key.pem"
"""Where CRIU looks for what is not named (criu/tls.c)."""
_X509_V_FLAG_NO_CHECK_TIME = 0x200000
"""openssl/x509_vfy.h: the clocks of two hosts differ, and a certificate made a second ago is of the future for one of them."""


@dataclass(frozen=True)
class TlsOptions:
    """Who we are, and who the other side has to be: files in PEM format."""

    cert: str
    key: str
    peer_cert: str = ""
    """The one certificate that the other side may have."""
    peer_fingerprint: str = ""
    """Its SHA-256, hexadecimal, colons and case do not matter. Given with peer_cert it has to be that certificate's."""
    cacert: str = ""
    """Without peer_cert and peer_fingerprint: the authorities that may have signed the other side's certificate. Empty: the system's."""
    cacrl: str = ""
    """What those authorities have revoked."""
    verify_name: bool = True
    """Whether a server's certificate has to name the address that we connected to; of no matter when it is pinned."""

    @property
    def pinned(self) -> bool:
        """Whether exactly one certificate is trusted."""
        return bool(self.peer_cert or self.peer_fingerprint)


@dataclass(frozen=True)
class Certificate:
    """A certificate that was made here, with its key."""

    cert: str
    key: str
    fingerprint: str


def connect(address: str, port: int, options: TlsOptions, timeout: Optional[float] = HANDSHAKE_TIMEOUT) -> ssl.SSLSocket:
    """Return a connection to ADDRESS and PORT whose other end has shown the certificate that it has to have.

    That the other end takes our certificate is known only with its first answer: `refused` tells by the error then.
    Raises TransferError.
    """
    try:
        plain = socket.create_connection((address, port), timeout)
    except OSError as error:
        raise TransferError(f"cannot connect to {address} port {port}: {error}; see whether it listens there") from error
    return secure(plain, options, server_side=False, name=address, timeout=timeout)


def accept(
    listener: socket.socket, options: TlsOptions, timeout: Optional[float] = HANDSHAKE_TIMEOUT
) -> Tuple[ssl.SSLSocket, Tuple[str, int]]:
    """Return the next connection that LISTENER has and where it comes from. Raises TransferError for one that is to be turned away."""
    plain, address = listener.accept()
    return secure(plain, options, server_side=True, name=address[0], timeout=timeout), (address[0], address[1])


def secure(
    plain: socket.socket, options: TlsOptions, server_side: bool, name: str = "", timeout: Optional[float] = HANDSHAKE_TIMEOUT
) -> ssl.SSLSocket:
    """Return the connection PLAIN, to or from NAME, encrypted and authenticated; it blocks without a limit then.

    Takes PLAIN over: it is closed when this raises TransferError.
    """
    try:
        plain.settimeout(timeout)
        context = _context(options, server_side)
        secured = context.wrap_socket(plain, server_side=server_side, server_hostname=name if context.check_hostname else None)
    except (OSError, ValueError) as error:
        plain.close()
        raise TransferError(f"no TLS connection with {name or 'the other side'}: {_why(error)}") from error
    except BaseException:
        plain.close()
        raise
    try:
        _check_peer(secured, options, name)
        secured.settimeout(None)
    except BaseException:
        secured.close()
        raise
    return secured


def refused(error: BaseException) -> bool:
    """Tell whether ERROR, of a connection made by `connect`, says that the other side does not take our certificate."""
    return isinstance(error, ssl.SSLError) and "ALERT" in (error.reason or "")


def fingerprint(cert: str) -> str:
    """Return the SHA-256 of the first certificate in PEM file CERT, lower case hexadecimal. Raises UsageError."""
    return hashlib.sha256(_der(cert)).hexdigest()


def make_certificate(directory: str, names: Tuple[str, ...] = ()) -> Certificate:
    """Make a key and a self-signed certificate for it in DIRECTORY, cert.pem and key.pem, the key for its owner only.

    NAMES are the IP addresses that it names. Raises UsageError when the program openssl is missing or fails.
    """
    cert, key = os.path.join(directory, "cert.pem"), os.path.join(directory, "key.pem")
    alternatives = ["-addext", "subjectAltName=" + ",".join(f"IP:{name}" for name in names)] if names else []
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-sha256"]
    command += ["-days", "3650", "-subj", "/CN=stillframe", *alternatives, "-keyout", key, "-out", cert]
    try:
        os.close(os.open(key, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    except OSError as error:
        raise UsageError(f"no certificate can be made in {directory} ({error}); install the program openssl") from error
    if done.returncode:
        with suppress(FileNotFoundError):
            os.unlink(key)
        said = done.stderr.strip().splitlines()
        raise UsageError(f"openssl has made no certificate in {directory}: {said[-1] if said else done.returncode}; look at its version")
    return Certificate(cert, key, fingerprint(cert))


def check(options: TlsOptions, server_side: bool) -> None:
    """Raise UsageError when a file of OPTIONS is missing or wrong. Connects to nobody."""
    try:
        _context(options, server_side)
    except (OSError, ValueError) as error:
        raise UsageError(f"the TLS options cannot be used: {_why(error)}") from error


def _context(options: TlsOptions, server_side: bool) -> ssl.SSLContext:
    """Return what a handshake goes by. Raises UsageError, OSError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server_side else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = options.verify_name and not options.pinned and not server_side
    if server_side:
        context.num_tickets = 0  # nothing is resumed, and CRIU's tls_recv takes a ticket for an error
    _load_own(context, options)
    if not options.pinned:
        _trust_authorities(context, options)
    elif options.peer_cert:
        if options.peer_fingerprint and not _same(fingerprint(options.peer_cert), options.peer_fingerprint):
            raise UsageError(f"certificate {options.peer_cert} has another fingerprint than the one given; give those of one certificate")
        context.load_verify_locations(cadata=_der(options.peer_cert))
        context.verify_mode = ssl.CERT_REQUIRED
        context.verify_flags |= _X509_V_FLAG_NO_CHECK_TIME
    elif server_side:
        raise UsageError("a fingerprint alone is not enough to accept a client; give its certificate")
    else:
        context.verify_mode = ssl.CERT_NONE  # `_check_peer` does what is left
    return context


def _load_own(context: ssl.SSLContext, options: TlsOptions) -> None:
    for path in (options.cert, options.key):
        if not os.access(path, os.R_OK):
            raise UsageError(f"{path} cannot be read; name the PEM files of our own certificate and of its key")
    context.load_cert_chain(options.cert, options.key)


def _trust_authorities(context: ssl.SSLContext, options: TlsOptions) -> None:
    """Trust those that CRIU trusts: of the file named, else of the system and of CRIU's own place."""
    if options.cacert:
        context.load_verify_locations(options.cacert)
    else:
        context.load_default_certs(ssl.Purpose.CLIENT_AUTH if context.verify_mode == ssl.CERT_NONE else ssl.Purpose.SERVER_AUTH)
        if os.path.exists(CRIU_CACERT):
            context.load_verify_locations(CRIU_CACERT)
    revoked = options.cacrl or (CRIU_CACRL if os.path.exists(CRIU_CACRL) else "")
    if revoked:
        context.load_verify_locations(revoked)
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    context.verify_mode = ssl.CERT_REQUIRED


def _check_peer(secured: ssl.SSLSocket, options: TlsOptions, name: str) -> None:
    """Raise TransferError unless the other side of SECURED has the certificate that is pinned, if one is."""
    if not options.pinned:
        return
    wanted = options.peer_fingerprint or fingerprint(options.peer_cert)
    found = hashlib.sha256(secured.getpeercert(binary_form=True) or b"").hexdigest()
    if not _same(found, wanted):
        raise TransferError(
            f"{name or 'the other side'} has shown the certificate {found}, not the one that is pinned; "
            "give the fingerprint of its own, or see who listens there"
        )


def _same(one: str, other: str) -> bool:
    return hmac.compare_digest(_plain(one), _plain(other))


def _plain(text: str) -> bytes:
    return text.replace(":", "").strip().lower().encode()


def _der(cert: str) -> bytes:
    """Return the first certificate in PEM file CERT. Raises UsageError."""
    begin, end = ssl.PEM_HEADER, ssl.PEM_FOOTER
    try:
        with open(cert, encoding="ascii", errors="replace") as file:
            text = file.read()
        start = text.index(begin)
        return ssl.PEM_cert_to_DER_cert(text[start : text.index(end, start) + len(end)])
    except (OSError, ValueError) as error:
        raise UsageError(f"{cert} holds no certificate in PEM format ({error}); name another file") from error


def _why(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({error.verify_message}); give its own, or that of the authority that signed it"
    if isinstance(error, ssl.SSLError):
        return f"{(error.reason or str(error)).lower().replace('_', ' ')}; see whether both sides use TLS 1.3, and which certificates"
    if isinstance(error, socket.timeout):
        return "it does not answer in time; see whether it uses TLS"
    return f"{error}; see whether both sides use TLS 1.3"

# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""TLS between two ends that know each other's certificates, and what happens when they do not."""

from __future__ import annotations

import shutil
import socket
import ssl
import stat
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Tuple

import pytest
from _engine.errors import TransferError, UsageError
from _engine.transfer import tls
from _engine.transfer.tls import TlsOptions

pytestmark = pytest.mark.skipif(not shutil.which("openssl"), reason="no openssl here")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Tuple[tls.Certificate, tls.Certificate, tls.Certificate]:
    """Return certificates of a client, a server and a stranger."""
    made = [tls.make_certificate(str(tmp_path_factory.mktemp(name)), ("127.0.0.1",)) for name in ("client", "server", "stranger")]
    return made[0], made[1], made[2]


def meet(client: TlsOptions, server: TlsOptions) -> str:
    """Let CLIENT send a line to SERVER and read its answer; return what the server read. Raises what either end raises."""
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as beside:

        def serve() -> str:
            connection, _address = tls.accept(listener, server)
            with connection:
                line = connection.recv(100).decode()
                connection.sendall(b"well")
                return line

        served = beside.submit(serve)
        try:
            with tls.connect("127.0.0.1", listener.getsockname()[1], client) as connection:
                assert connection.version() == "TLSv1.3"
                connection.sendall(b"hello")
                assert connection.recv(100) == b"well"
        except (TransferError, OSError):
            if served.exception() is None:
                raise
        return served.result()


def test_both_ends_know_each_other(made: Tuple[tls.Certificate, tls.Certificate, tls.Certificate]) -> None:
    client, server, _stranger = made
    assert stat.S_IMODE(Path(client.key).stat().st_mode) == 0o600
    accepts = TlsOptions(server.cert, server.key, peer_cert=client.cert)
    assert meet(TlsOptions(client.cert, client.key, peer_cert=server.cert), accepts) == "hello"
    colons = ":".join(server.fingerprint[at : at + 2].upper() for at in range(0, 64, 2))
    assert meet(TlsOptions(client.cert, client.key, peer_fingerprint=colons), accepts) == "hello"


def test_authorities_as_criu_has_them(made: Tuple[tls.Certificate, tls.Certificate, tls.Certificate]) -> None:
    client, server, stranger = made
    accepts = TlsOptions(server.cert, server.key, cacert=client.cert)
    assert meet(TlsOptions(client.cert, client.key, cacert=server.cert), accepts) == "hello"
    with pytest.raises(TransferError, match="is not trusted|alert"):
        meet(TlsOptions(client.cert, client.key, cacert=stranger.cert), accepts)


@pytest.mark.parametrize("by", ["cert", "fingerprint"])
def test_a_wrong_server_is_turned_away(by: str, made: Tuple[tls.Certificate, tls.Certificate, tls.Certificate]) -> None:
    client, server, stranger = made
    pin = {"peer_cert": stranger.cert} if by == "cert" else {"peer_fingerprint": stranger.fingerprint}
    with pytest.raises((TransferError, OSError)):
        meet(TlsOptions(client.cert, client.key, **pin), TlsOptions(server.cert, server.key, peer_cert=client.cert))  # type: ignore[arg-type]


def test_a_wrong_client_is_turned_away(made: Tuple[tls.Certificate, tls.Certificate, tls.Certificate]) -> None:
    client, server, stranger = made
    pinned = TlsOptions(server.cert, server.key, peer_cert=client.cert)
    with pytest.raises(TransferError, match="its certificate is not trusted"):
        meet(TlsOptions(stranger.cert, stranger.key, peer_cert=server.cert), pinned)


def test_old_versions_and_plain_text_are_turned_away(made: Tuple[tls.Certificate, tls.Certificate, tls.Certificate]) -> None:
    client, server, _stranger = made
    options = TlsOptions(server.cert, server.key, peer_cert=client.cert)
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode, old.maximum_version = False, ssl.CERT_NONE, ssl.TLSVersion.TLSv1_2
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as beside:
        for talk in (old.wrap_socket, lambda raw: raw.sendall(b"GET / HTTP/1.0\r\n\r\n"), lambda raw: raw.close()):
            accepted = beside.submit(tls.accept, listener, options)
            with socket.create_connection(listener.getsockname()) as raw:
                with suppress(OSError):
                    talk(raw)
                with pytest.raises(TransferError, match="no TLS connection with 127.0.0.1: .*;"):
                    accepted.result()


def test_options_that_make_no_sense(tmp_path: Path, made: Tuple[tls.Certificate, tls.Certificate, tls.Certificate]) -> None:
    client, server, stranger = made
    with pytest.raises(UsageError, match="fingerprint alone is not enough"):
        tls.check(TlsOptions(server.cert, server.key, peer_fingerprint=client.fingerprint), server_side=True)
    with pytest.raises(UsageError, match="another fingerprint"):
        tls.check(TlsOptions(server.cert, server.key, client.cert, stranger.fingerprint), server_side=True)
    with pytest.raises(UsageError, match="cannot be read"):
        tls.check(TlsOptions(str(tmp_path / "none"), server.key, client.cert), server_side=True)
    with pytest.raises(UsageError, match="holds no certificate"):
        tls.check(TlsOptions(server.cert, server.key, server.key), server_side=True)
    with pytest.raises(UsageError, match="cannot be used"):
        tls.check(TlsOptions(server.cert, client.key, client.cert), server_side=True)

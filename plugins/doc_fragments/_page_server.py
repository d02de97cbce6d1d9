# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The options of both ends of a transfer. Private to this collection; kept in step with module_utils/_argspecs.py."""

from __future__ import annotations


class ModuleDocFragment:
    """Where a dump sends its pages, and how both ends know each other."""

    DOCUMENTATION = r"""
options:
  page_server:
    description:
      - Send the memory to a page server on another host, which M(stillframe.checkpoint.page_server) or CRIU has started there.
      - All other images are put into O(images_dir) as ever. Copy them beside the memory to restore the tree there.
      - The dump before this one, in O(prev_images_dir), has been sent to the parent directory of that page server.
    type: bool
    default: false
  address:
    description:
      - The address of the page server.
    type: str
    default: 127.0.0.1
  port:
    description:
      - The port of the page server.
    type: int
    default: 0
"""

    TLS = r"""
options:
  tls:
    description:
      - Use TLS 1.3. Each side shows a certificate, and takes only the one that it is told to expect.
      - Without it, everybody on the way can read and change the memory.
    type: bool
    default: true
  tls_cert:
    description:
      - A file with this host's certificate, in PEM format.
    type: path
  tls_key:
    description:
      - A file with the key of O(tls_cert).
    type: path
  tls_peer_cert:
    description:
      - A file with the certificate of the other side. No other is taken. It is known by its SHA-256 fingerprint; its dates and names do
        not matter.
    type: path
  tls_peer_fingerprint:
    description:
      - The SHA-256 fingerprint of the other side's certificate, in hexadecimal.
      - Enough to know a page server by; to know a client, its certificate has to be given with O(tls_peer_cert).
    type: str
  tls_cacert:
    description:
      - A file with the authority that has signed the other side's certificate, as CRIU takes it. Used when no certificate is expected by
        O(tls_peer_cert) or O(tls_peer_fingerprint).
    type: path
  tls_cacrl:
    description:
      - A file with what that authority has revoked.
    type: path
  tls_no_cn_verify:
    description:
      - Do not look for the address of the page server in its certificate. Has no effect on one that is known by itself.
    type: bool
    default: false
"""

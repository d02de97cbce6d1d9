# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""announce.py ADDRESS DEVICE: tell all on the wire of DEVICE that ADDRESS is here now (RFC 5227 3, RFC 4861 7.2.6)."""

import fcntl
import ipaddress
import socket
import struct
import sys

SIOCGIFHWADDR = 0x8927
ARPHRD_ETHER, ETHERTYPE_IPV4, ETHERTYPE_ARP, REQUEST = 1, 0x0800, 0x0806, 1
ND_NEIGHBOR_ADVERT, OVERRIDE, TARGET_LINK_ADDRESS = 136, 0x20000000, 2


def main(address: str, device: str) -> None:
    """Send one announcement."""
    found = ipaddress.ip_address(address)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        hardware = fcntl.ioctl(any_socket, SIOCGIFHWADDR, struct.pack("16s16x", device.encode()))[18:24]
    if found.version == 4:
        head = struct.pack("!HHBBH", ARPHRD_ETHER, ETHERTYPE_IPV4, len(hardware), len(found.packed), REQUEST)
        frame = b"\xff" * 6 + hardware + struct.pack("!H", ETHERTYPE_ARP) + head + hardware + found.packed + bytes(6) + found.packed
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
            wire.bind((device, 0))
            wire.send(frame)
        return
    body = struct.pack("!BBHI", ND_NEIGHBOR_ADVERT, 0, 0, OVERRIDE) + found.packed + struct.pack("!BB", TARGET_LINK_ADDRESS, 1) + hardware
    with socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as sender:
        sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
        sender.bind((address, 0))
        sender.sendto(body, ("ff02::1", 0, 0, socket.if_nametoindex(device)))


if __name__ == "__main__":
    main(*sys.argv[1:])

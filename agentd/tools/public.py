"""Which addresses are public.

It stands in IANA's registries of special-purpose addresses, turned round: only what is
globally reachable is. https://www.iana.org/assignments/iana-ipv4-special-registry and
https://www.iana.org/assignments/iana-ipv6-special-registry
"""

import ipaddress

# The standard library lacks some of these, and each version others.
SPECIAL_V4 = tuple(
    map(
        ipaddress.IPv4Network,
        (
            *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16"),
            *("172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16"),
            *("198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
        ),
    )
)
GLOBAL_V6 = ipaddress.IPv6Network("2000::/3")  # all that was ever given out
# Protocols (Teredo among them), documentation, 6to4: they lead elsewhere, or nowhere.
SPECIAL_V6 = tuple(
    map(ipaddress.IPv6Network, ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"))
)
# They stand for an IPv4 address; a network without IPv4 has no other way to reach one.
EMBEDDING = tuple(map(ipaddress.IPv6Network, ("64:ff9b::/96", "::ffff:0:0/96")))


def is_public(text: str) -> bool:
    """Whether an address is reachable from anywhere. One with a zone is of this machine's links."""
    if "%" in text:
        return False
    address = ipaddress.ip_address(text)
    if isinstance(address, ipaddress.IPv6Address):
        if any(address in network for network in EMBEDDING):
            address = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        else:
            special = any(address in network for network in SPECIAL_V6)
            return address in GLOBAL_V6 and not special and address.is_global
    return address.is_global and not any(address in network for network in SPECIAL_V4)

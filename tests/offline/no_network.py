"""Python's sockets without a network: whatever is not this machine is refused, loudly.

A test or a notebook that needs a download passes on its writer's machine and fails on the train.
With ``block()`` it fails at home, and says where it wanted to go.
"""

import ipaddress
import socket


class NetworkBlocked(RuntimeError):
    """Not an ``OSError``: code that falls back when the network is down has to be noticed too."""


def is_loopback(host) -> bool:
    """Whether ``host``, a name or an address as sockets take it, is this machine."""
    if isinstance(host, bytes):
        host = host.decode()
    if host in (None, "", "localhost", socket.gethostname()):
        return True
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def block() -> None:
    """From now on this process reaches only itself and its neighbours on the same machine.

    Raises (later, from the guarded socket calls):
        NetworkBlocked: names the host that was wanted.
    """

    def refuse_unless_loopback(host):
        if not is_loopback(host):
            raise NetworkBlocked(f"the tests run without a network, but {host!r} was wanted")

    def guard_method(name):
        original = getattr(socket.socket, name)

        def guarded(self, *args):
            address = args[-1]  # connect(address), sendto(data, [flags,] address)
            if self.family in (socket.AF_INET, socket.AF_INET6):
                refuse_unless_loopback(address[0])
            return original(self, *args)

        setattr(socket.socket, name, guarded)

    def guarded_getaddrinfo(host, *args, **kwargs):
        refuse_unless_loopback(host)
        return getaddrinfo(host, *args, **kwargs)

    getaddrinfo, socket.getaddrinfo = socket.getaddrinfo, guarded_getaddrinfo
    for name in ("connect", "connect_ex", "sendto"):
        guard_method(name)

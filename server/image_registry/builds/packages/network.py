"""The sandbox's way out: a network of its own, whose traffic a program of this machine's user carries, and its rules.

slirp4netns makes the connections that the sandbox asks for with ordinary sockets, so that nothing of the machine's
network is changed: no interfaces, routes or firewall rules that could outlive it. Rules inside the sandbox, which
nobody in there may change, refuse what is not to be reached. IPv4 only.
"""

from __future__ import annotations

import contextlib
import ipaddress
import itertools
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from image_registry.builds.packages.wanted import Confinement
from image_registry.builds.processes import die_with_parent

_NETWORK = "198.18.77.0/24"  # of those for benchmarks (RFC 2544): no machine has a real address in it
_RESOLVER = "198.18.77.3"
NAMESERVER = f"nameserver {_RESOLVER}\n"
_DENIED = (
    *("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "240.0.0.0/4"),
    *("100.100.100.200", "168.63.129.16", "192.0.0.192"),  # metadata: Alibaba, Azure, Oracle
    _NETWORK,
)
# As root slirp4netns 1.2 takes mounts away that it shares with the machine, named network namespaces (those of other
# containers) among them. A user namespace of another user shares none.
_TUN = "/dev/net/tun"
_OWN_MOUNTS = ("unshare", "--mount", "--propagation=private") if os.geteuid() == 0 else ()


class NoNetworkError(Exception):
    """The sandbox's network can't be made; the text says why."""


def network_obstacle() -> str:
    """Why this user can give a sandbox no network of its own, as far as a look tells; '' if nothing is in the way."""
    missing = [name for name in ("slirp4netns", "nft") if shutil.which(name) is None]
    if missing:
        return f"{' and '.join(missing)} not installed"
    return "" if os.access(_TUN, os.R_OK | os.W_OK) else f"{_TUN} can't be opened by this user"


def rules(confinement: Confinement) -> str:
    """Return the rules as `nft -f` takes them. Raises ValueError for what is no address, network, or address:port."""
    allowed = [f"{_matched(target)} accept" for target in confinement.egress_allowed]
    denied = [*_DENIED, *_own_addresses(), *confinement.egress_denied]
    lines = [
        'oifname "lo" accept',
        f"ip daddr {_RESOLVER} meta l4proto {{ tcp, udp }} th dport 53 accept",
        *allowed,
        *(f"{_matched(target)} reject with icmpx type admin-prohibited" for target in dict.fromkeys(denied)),
        "meta nfproto ipv6 reject with icmpx type admin-prohibited",
    ]
    body = "\n".join(f"    {line}" for line in lines)
    return f"table inet egress {{\n  chain out {{\n    type filter hook output priority 0\n{body}\n  }}\n}}\n"


def _matched(target: str) -> str:
    address, colon, port = target.partition(":")
    if colon and not 0 < int(port) < 65536:
        raise ValueError(target)
    text = f"ip daddr {ipaddress.IPv4Network(address)}"
    return f"{text} tcp dport {int(port)}" if colon else text


def _own_addresses() -> list[str]:
    """The machine's own addresses: what listens on them is not to be reached, whichever interface it listens on."""
    with contextlib.suppress(OSError):
        text = Path("/proc/net/fib_trie").read_text()
        lines = [line.strip() for line in text.splitlines()]
        found = {
            before.removeprefix("|-- ")
            for before, line in itertools.pairwise(lines)
            if line.startswith("/32 host LOCAL")
        }
        return sorted(found)
    return []


@contextlib.contextmanager
def way_out(pid: int) -> Iterator[None]:
    """Connect the network namespace of a process to the machine's network. Raises NoNetworkError."""
    own = os.getpid()
    # Its own sandbox wants ids that a plain user's namespace doesn't have.
    enclosed = ("--enable-sandbox",) if os.geteuid() == 0 else ()
    ready, ready_writer = os.pipe()
    process = subprocess.Popen(
        [
            *_OWN_MOUNTS,
            *("slirp4netns", "--configure", "--mtu=65520", f"--cidr={_NETWORK}", "--disable-host-loopback"),
            *(*enclosed, "--enable-seccomp", f"--ready-fd={ready_writer}"),
            *("--netns-type=path", f"--userns-path=/proc/{pid}/ns/user", f"/proc/{pid}/ns/net", "tap0"),
        ],
        env={"PATH": os.environ.get("PATH", os.defpath)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        pass_fds=(ready_writer,),
        preexec_fn=lambda: die_with_parent(own),  # noqa: PLW1509 (builds have a single thread here)
    )
    os.close(ready_writer)
    try:
        with process:
            try:
                if not os.read(ready, 1):
                    said = process.stderr.read().decode(errors="replace").strip() if process.stderr else ""
                    raise NoNetworkError(f"slirp4netns ended: {said.splitlines()[-1] if said else 'it says nothing'}")
                yield
            finally:
                process.kill()
    finally:
        os.close(ready)

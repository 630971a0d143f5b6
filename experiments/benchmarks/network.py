"""Two hosts on one machine: network namespaces, joined by a wire with a given latency.

The wire is a TUN device in each namespace and a thread that passes packets on when they are due,
because `tc` can delay packets only where the kernel has its netem module. Needs root.
"""

import contextlib
import fcntl
import heapq
import itertools
import os
import select
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

WIRE = "wire"
"""Name of the network interface in each namespace."""
PORT = 29400
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x1, 0x1000
_MTU = 60_000
_LOOK = 0.1  # seconds between two looks at whether the wire is to end


@dataclass(frozen=True)
class Host:
    """A network namespace."""

    name: str
    address: str

    def torchrun(self, python: str, first: "Host", options: list[str]) -> list[str]:
        """The command that starts torchrun here, to meet one more host at the first one."""
        meeting = ["--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", "--rdzv-id=hosts"]
        # A namespace has no name of its own by which torchrun would know itself.
        is_first = f"--rdzv-conf=is_host={int(self == first)}"
        here = [f"--rdzv-endpoint={first.address}:{PORT}", is_first, f"--local-addr={self.address}"]
        return self.command([python, "-m", "torch.distributed.run", *meeting, *here, *options])

    def command(self, words: list[str]) -> list[str]:
        """The command that runs `words` here."""
        return ["ip", "netns", "exec", self.name, *words]


ENVIRONMENT = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": WIRE}
"""What torchrun needs in its environment there."""


@contextlib.contextmanager
def two_hosts(latency: float = 0.0) -> Iterator[tuple[Host, Host]]:
    """Two hosts in the block; packets arrive `latency` seconds after they were sent.

    Raises:
        OSError: namespaces or TUN devices cannot be made here.

    """
    hosts = tuple(Host(f"host-{os.getpid()}-{i}", f"10.213.0.{i + 1}") for i in range(2))
    with contextlib.ExitStack() as stack:
        ends = []
        for host in hosts:
            _ip("netns", "add", host.name)
            stack.callback(_ip, "netns", "del", host.name)
            ends.append(_open_tun(host.name))
            stack.callback(os.close, ends[-1])
            _ip("link", "set", host.name, "netns", host.name)
            _ip("-n", host.name, "link", "set", host.name, "name", WIRE, "mtu", str(_MTU))
            _ip("-n", host.name, "addr", "add", f"{host.address}/24", "dev", WIRE)
            _ip("-n", host.name, "link", "set", WIRE, "up")
            _ip("-n", host.name, "link", "set", "lo", "up")
        end = threading.Event()
        carrier = threading.Thread(target=_carry, args=(ends, latency, end), daemon=True)
        carrier.start()
        stack.callback(carrier.join)
        stack.callback(end.set)
        yield hosts[0], hosts[1]


def _ip(*arguments: str) -> None:
    result = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    if result.returncode:
        raise OSError(f"ip {' '.join(arguments)}: {result.stderr.strip()}")


def _open_tun(name: str) -> int:
    """The file of a new TUN device, which it keeps when it moves to another namespace."""
    end = os.open("/dev/net/tun", os.O_RDWR)
    try:
        fcntl.ioctl(end, _TUNSETIFF, struct.pack("16sH", name.encode(), _IFF_TUN | _IFF_NO_PI))
    except OSError:
        os.close(end)
        raise
    return end


def _carry(ends: list[int], latency: float, end: threading.Event) -> None:
    """Passes packets from each end to the other one, `latency` seconds later, until `end`."""
    other = dict(zip(ends, reversed(ends), strict=True))
    waiting: list[tuple[float, int, int, bytes]] = []
    number = itertools.count()  # packets that are due at the same time keep their order
    while not end.is_set():
        pause = min(waiting[0][0] - time.monotonic(), _LOOK) if waiting else _LOOK
        for file in select.select(ends, [], [], max(pause, 0.0))[0]:
            packet = os.read(file, 2 * _MTU)
            heapq.heappush(waiting, (time.monotonic() + latency, next(number), other[file], packet))
        while waiting and waiting[0][0] <= time.monotonic():
            _, _, file, packet = heapq.heappop(waiting)
            os.write(file, packet)

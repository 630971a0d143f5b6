"""No command talks to anything but its own machine."""

import json
import os
import subprocess
import sys

import pytest
from trained import OPTIONS

WATCH = """
import json, os, sys

def note(event, arguments):
    if event in ("socket.bind", "socket.connect", "socket.sendto", "socket.getaddrinfo"):
        address = arguments[0] if event == "socket.getaddrinfo" else arguments[1]
        where = address[0] if isinstance(address, tuple) else address
        where = where.decode(errors="replace") if isinstance(where, bytes) else where
        with open(os.environ["NOTED"], "a") as file:
            print(json.dumps([event, where or "all interfaces"]), file=file)

sys.addaudithook(note)
"""
"""Python imports a module of the name `sitecustomize` when it starts, in children too."""

FAMILY = ["--family", OPTIONS["family"]]
SMALL = [
    *("--meta-batch-size", "2", "--episodes", "2", "--horizon", "3", "--iterations", "1"),
    *("--eval-tasks", "2"),
]
COMMANDS = [
    ["train", *FAMILY, *SMALL, "--workers", "2", "--run-dir", "run"],
    ["train", *FAMILY, *SMALL, "--seeds", "1", "2", "--run-dir", "seeds"],
    ["evaluate", "run", "--tasks", "2"],
    ["adapt", "run", "--onnx", "--video", "clip.gif"],
    ["plot", "run"],
    ["check", OPTIONS["family"]],
    ["compare", *FAMILY, *SMALL, "--seeds", "1", "--algorithms", "promp", "--run-dir", "both"],
    [
        "tune",
        *FAMILY,
        *SMALL,
        "--eval-every",
        "1",
        "--trials",
        "1",
        "--search",
        "inner-lr=0.1:1",
        "--run-dir",
        "study",
    ],
]


def addresses(command, folder):
    """Runs the command; the addresses that it or its children bind, look up or connect to."""
    (folder / "sitecustomize.py").write_text(WATCH)
    noted = folder / "noted"
    noted.touch()
    environment = os.environ | {"PYTHONPATH": str(folder), "NOTED": str(noted)}
    process = subprocess.run(
        [sys.executable, "-m", "metarl", *command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    return [json.loads(line)[1] for line in noted.read_text().splitlines()]


def is_on_this_machine(address):
    """A name of a file (Unix sockets), or the loopback interface."""
    return "/" in address or address.startswith(("127.", "::1", "localhost", "\0"))


def test_addresses_are_noticed(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(WATCH)
    code = "import socket; socket.socket().bind(('', 0)); socket.getaddrinfo('example.org', 80)"
    noted = tmp_path / "noted"
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "NOTED": str(noted)}
    subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    found = [json.loads(line)[1] for line in noted.read_text().splitlines()]
    assert found == ["all interfaces", "example.org"]
    assert not any(map(is_on_this_machine, found))


@pytest.mark.faults
def test_nothing_is_fetched_and_nothing_listens(tmp_path, counts):
    for command in COMMANDS:
        found = addresses(command, tmp_path)
        beyond = [address for address in found if not is_on_this_machine(address)]
        counts.add("silent" if beyond else "survived", f"{command}: {beyond}")
        (tmp_path / "noted").unlink()
    counts.expect_survival(at_least=len(COMMANDS))

"""Submissions that are code: one that is sound, and one that does whatever its first number asks for."""

from __future__ import annotations

from pathlib import Path

SOUND = '''"""A sparse code with a decoder that is bent."""

import torch


class Bent:
    def __init__(self, site):
        draw = torch.Generator().manual_seed(1)
        self.encoder = torch.randn(site.d_in, 12, generator=draw)
        self.decoder = torch.randn(12, site.d_out, generator=draw)

    def encode(self, x):
        return torch.relu(x @ self.encoder - 1.0)

    def decode(self, codes):
        return torch.tanh(codes @ self.decoder)


def build(folder, site):
    return Bent(site)
'''

HOSTILE = '''"""Does what the first number of a batch says."""

import ctypes
import fcntl
import os
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

import torch

ACTS = []


def act(function):
    ACTS.append(function)
    return function


@act
def nothing(x):
    return x


@act
def write_beside(x):
    Path(os.environ["HOME"], "..", "..", "written").resolve().write_text("here")


@act
def write_home(x):
    Path("OUTSIDE/written").write_text("here")


@act
def remove(x):
    os.remove("OUTSIDE/kept")


@act
def change_mode(x):
    os.chmod("OUTSIDE/kept", 0o777)


@act
def truncate(x):
    os.truncate("OUTSIDE/kept", 0)


@act
def read(x):
    Path("OUTSIDE/kept").read_text()


@act
def read_environment(x):
    Path(f"/proc/{os.getppid()}/environ").read_bytes()


@act
def connect(x):
    socket.create_connection(("127.0.0.1", 9), timeout=1)


@act
def datagram(x):
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", 9))


@act
def lock(x):
    with open(__file__) as file:
        fcntl.flock(file, fcntl.LOCK_SH)


@act
def lock_bytes(x):
    """Each byte of a file, of any length, is one bit that another process can ask for."""
    with open(os.__file__) as file:
        fcntl.lockf(file, fcntl.LOCK_SH, 1, 10**9)


@act
def lock_an_open_file(x):
    with open(os.__file__) as file:
        fcntl.fcntl(file, 37, struct.pack("hhqqi", fcntl.F_RDLCK, 0, 0, 1, 0))


@act
def watch(x):
    if ctypes.CDLL(None, use_errno=True).inotify_init1(0) < 0:
        raise OSError(ctypes.get_errno(), "no notices")


@act
def start(x):
    subprocess.run([sys.executable, "-c", ""], check=True)


@act
def bomb(x):
    made = 0
    while made < 200:
        if os.fork() == 0:
            time.sleep(5)
            os._exit(0)
        made += 1


@act
def kill_parent(x):
    os.kill(os.getppid(), 0)


@act
def raise_limit(x):
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


@act
def fill(x):
    return torch.ones(30_000_000_000 // 4)


@act
def fill_file(x):
    try:
        with open("large", "wb") as file:
            for _ in range(40):
                file.write(bytes(5_000_000))
    finally:
        os.remove("large")


@act
def fill_folder(x):
    for number in range(20):
        Path(f"part-{number}").write_bytes(bytes(5_000_000))
    time.sleep(20)
    return x


@act
def leave(x):
    sys.exit(3)


@act
def give_a_list(x):
    return x.tolist()


@act
def print_much(x):
    for _ in range(200):
        print("x" * 10_000, flush=True)
    return x


@act
def write_inside(x):
    import tempfile

    with tempfile.NamedTemporaryFile("w+") as file:
        file.write("here")
        file.seek(0)
        assert file.read() == "here"
    Path("kept.txt").write_text("and here")
    return x


@act
def use_threads(x):
    import threading

    found = []
    threads = [threading.Thread(target=lambda: found.append(x @ x.mT)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return x + 0 * len(found)


@act
def loop(x):
    while True:
        pass


@act
def vanish(x):
    print("about to leave", flush=True)
    os._exit(7)


@act
def crash(x):
    import ctypes

    ctypes.string_at(0)


@act
def babble(x):
    for number in range(3, 64):
        try:
            if "socket" in os.readlink(f"/proc/self/fd/{number}"):
                os.write(number, b"\\x80\\x04\\x95cos\\nsystem\\n" * 100)
        except OSError:
            pass
    time.sleep(30)


@act
def announce(x):
    for number in range(3, 64):
        try:
            if "socket" in os.readlink(f"/proc/self/fd/{number}"):
                os.write(number, b"RMD1" + (2).to_bytes(4, "little") + (10**15).to_bytes(8, "little"))
        except OSError:
            pass
    time.sleep(30)


class Hostile:
    def encode(self, x):
        return ACTS[int(x.flatten()[0])](x)

    def decode(self, codes):
        return codes


def build(folder, site):
    return Hostile()
'''

TOML = """name = "{name}"
kind = "reconstruction"
title = "Code"
authors = ["A"]
licence = "MIT"

[method]
entry = "{entry}"
"""


def write_code(
    folder: Path, source: str = SOUND, name: str = "coded", entry: str = "method.py:build"
) -> Path:
    """A submission that is code in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "submission.toml").write_text(TOML.format(name=name, entry=entry))
    (folder / entry.partition(":")[0]).write_text(source)
    return folder

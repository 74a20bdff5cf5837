"""Runs a browser in a network of its own, in which nothing but one port of loopback exists.

    python quiet_network.py PORT PROGRAM [ARGUMENT ...]

Containers that come and go change the host's network, and Chromium then breaks off requests that it has just begun
(net::ERR_NETWORK_CHANGED), also on loopback. Owns the namespace and the relay into it; becomes PROGRAM. Where the kernel
grants no namespace, PROGRAM runs in the host's network as ever.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import socket
import struct
import sys
import threading
from pathlib import Path

CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000
PR_SET_PDEATHSIG = 1
SIOCSIFFLAGS = 0x8914
IFF_UP = 1
LIBC = ctypes.CDLL(None, use_errno=True)


def main(port: int, program: list[str]) -> None:
    inside, outside = socket.socketpair()
    if os.fork() == 0:
        # The relay stays in the host's network. It must not hold the pipes on which Playwright speaks to the browser.
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        inside.close()
        for descriptor in range(3, 256):
            if descriptor != outside.fileno():
                try:
                    os.close(descriptor)
                except OSError:
                    continue
        relay(outside, port)
        os._exit(0)
    if enter_namespace():
        raise_loopback()
        with socket.create_server(("127.0.0.1", port), backlog=128) as listener:
            socket.send_fds(inside, [b"x"], [listener.fileno()])
    os.execv(program[0], program)


def enter_namespace() -> bool:
    """A network namespace of our own; as root, or as root of a user namespace of our own."""
    if LIBC.unshare(CLONE_NEWNET) == 0:
        return True
    user, group = os.getuid(), os.getgid()
    if LIBC.unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0:
        return False
    try:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    except OSError as error:
        sys.exit(f"quiet_network: the namespace is half made ({error})")
    return True


def raise_loopback() -> None:
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))


def relay(channel: socket.socket, port: int) -> None:
    """Take the listening socket of the namespace and join each of its connections to the host's port."""
    _, descriptors, _, _ = socket.recv_fds(channel, 1, 1)
    if not descriptors:
        return
    listener = socket.socket(fileno=descriptors[0])
    while True:
        near, _ = listener.accept()
        threading.Thread(target=join, args=(near, port), daemon=True).start()


def join(near: socket.socket, port: int) -> None:
    try:
        far = socket.create_connection(("127.0.0.1", port))
    except OSError:
        near.close()
        return
    back = threading.Thread(target=copy, args=(far, near), daemon=True)
    back.start()
    copy(near, far)
    back.join()
    near.close()
    far.close()


def copy(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        return


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])

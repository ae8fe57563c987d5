"""A process that has imported TensorFlow and Keras, and forks trainers.

Fork to first step takes 1.9 s where a fresh interpreter needs 3.8 s. The zygote has a single
thread of Python and never runs an op or lists devices: a forked TensorFlow runtime would hang.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import selectors
import signal
import socket
import sys

from . import loopback
from .process import die_with_parent

#: Imported beforehand; what a trainer needs in every run.
PRELOAD = ("numpy", "tensorflow", "keras")


def main(control_fd: int, parent: int) -> None:
    """Serve fork requests on a Unix socket until its other end closes."""
    die_with_parent(parent)
    control = socket.socket(fileno=control_fd)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.disable()  # an import makes hardly any garbage, and looking for it takes a sixth of the time
    try:
        for name in PRELOAD:
            __import__(name)
        from . import trainer  # noqa: F401  once for all trainers
    except BaseException as error:  # the agent tells it; an import can fail in any way
        control.send(_message({"is": "broken", "error": f"{type(error).__name__}: {error}"}))
        return
    with contextlib.suppress(Exception):  # the trainer meets it again, and tells what it means
        from . import fit, replay  # noqa: F401  nothing in them runs an op
    gc.freeze()  # modules stay: no trainer has to look at them, nor copy their pages
    gc.enable()
    control.send(_message({"is": "ready"}))
    _serve(control)


def _serve(control: socket.socket) -> None:
    wake, woken = socket.socketpair()
    wake.setblocking(False)
    woken.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(woken.fileno(), warn_on_full_buffer=False)
    with selectors.DefaultSelector() as selector:
        selector.register(control, selectors.EVENT_READ)
        selector.register(wake, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is wake:
                    wake.recv(4096)
                    _reap(control)
                elif key.fileobj is control:
                    data, fds, _, _ = socket.recv_fds(control, 65536, 2)
                    if not data:
                        return
                    request = json.loads(data)
                    pid, listener = _fork(fds, bool(request["loopback"]))
                    if listener is not None:
                        selector.register(listener, selectors.EVENT_READ, pid)
                    control.send(_message({"is": "forked", "id": request["id"], "pid": pid}))
                elif not loopback.answer(key.fd, key.data):
                    selector.unregister(key.fileobj)
                    os.close(key.fd)


def _fork(fds: list[int], keep_to_loopback: bool) -> tuple[int, int | None]:
    """Fork a trainer; return its pid and, where it has one, the listener for its binds."""
    parent = os.getpid()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        pid = os.fork()
        if pid == 0:
            ours.close()
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            exposed = _hand_over_binds(theirs) if keep_to_loopback else ""
            _become_trainer(fds[0], fds[1], parent, exposed)
        theirs.close()
        for fd in fds:
            os.close(fd)
        listeners = socket.recv_fds(ours, 1, 1)[1] if keep_to_loopback else []
    return pid, listeners[0] if listeners else None


def _hand_over_binds(parent: socket.socket) -> str:
    """Have the zygote decide about this process' binds; return why it can't."""
    try:
        listener = loopback.install()
    except OSError as error:
        return str(error)
    socket.send_fds(parent, [b"."], [listener])
    os.close(listener)
    return ""


def _become_trainer(channel: int, log: int, parent: int, exposed: str) -> None:
    for fd in map(int, os.listdir("/proc/self/fd")):
        if fd > 2 and fd not in (channel, log):  # the zygote's own
            with contextlib.suppress(OSError):
                os.close(fd)
    code = 1
    try:
        die_with_parent(parent)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(log)
        from . import trainer

        code = trainer.main(channel, exposed)
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        # No atexit handlers: TensorFlow's would wait for peers that may be dead.
        os._exit(code)


def _reap(control: socket.socket) -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        code = os.waitstatus_to_exitcode(status)
        control.send(_message({"is": "exit", "pid": pid, "code": code}))


def _message(value: dict[str, object]) -> bytes:
    return json.dumps(value).encode()

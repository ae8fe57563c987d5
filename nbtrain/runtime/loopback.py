"""Keeps TensorFlow's gRPC server off the network when all workers are on this machine.

TensorFlow binds its server, which is unauthenticated and runs whatever it is sent, to all
addresses (`0.0.0.0` is written into `grpc_server_lib.cc`), and has no setting for it. On Linux a
trainer therefore asks the kernel to have its parent decide about `bind` (seccomp user
notification, Linux 5.6): the parent takes a copy of the socket (`pidfd_getfd`), binds it to
loopback where all addresses were asked for, and lets every other bind pass.

Needs no privilege. Where it can't be had, `install` says why, and the run goes on with a warning.
Sources: seccomp_unotify(2), pidfd_getfd(2), linux/seccomp.h.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import socket
import struct
import sys

_PR_SET_NO_NEW_PRIVS = 38
_SECCOMP_SET_MODE_FILTER = 1
_NEW_LISTENER = 1 << 3
_RET_USER_NOTIF, _RET_ALLOW = 0x7FC00000, 0x7FFF0000
_NOTIF_CONTINUE = 1
# _IOWR('!', 0, struct seccomp_notif) and _IOWR('!', 1, struct seccomp_notif_resp)
_NOTIF_RECV, _NOTIF_SEND = 0xC0502100, 0xC0182101
_NOTIF = struct.Struct("=QII iI Q 6Q")  # id, pid, flags; nr, arch, instruction, args
_RESPONSE = struct.Struct("=QqiI")  # id, value, error, flags
# Per machine: AUDIT_ARCH, then the numbers of seccomp, bind, pidfd_open, pidfd_getfd.
_ARCHS = {
    "x86_64": (0xC000003E, 317, 49, 434, 438),
    "aarch64": (0xC00000B7, 277, 200, 434, 438),
}
_WILD_4, _WILD_6 = b"\0" * 4, b"\0" * 16

_libc = ctypes.CDLL(None, use_errno=True)


class _Instruction(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_ushort),
        ("jt", ctypes.c_ubyte),
        ("jf", ctypes.c_ubyte),
        ("k", ctypes.c_uint),
    )


class _Program(ctypes.Structure):
    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.POINTER(_Instruction)))


def install() -> int:
    """Hand all `bind` calls of this process over; return the descriptor to `answer` on.

    Must be called before threads are started that shall be under it.

    Raises
    ------
    OSError
        If this system can't do it.
    """
    arch = _ARCHS.get(platform.machine())
    if sys.platform != "linux" or arch is None:
        raise OSError(errno.ENOSYS, f"not on {sys.platform} {platform.machine()}")
    audit, seccomp, bind, _, _ = arch
    load, equal, result = 0x20, 0x15, 0x06  # BPF_LD|W|ABS, BPF_JMP|JEQ|K, BPF_RET|K
    code = (
        (load, 0, 0, 4),  # the architecture
        (equal, 0, 3, audit),
        (load, 0, 0, 0),  # the call's number
        (equal, 0, 1, bind),
        (result, 0, 0, _RET_USER_NOTIF),
        (result, 0, 0, _RET_ALLOW),
    )
    instructions = (_Instruction * len(code))(*(_Instruction(*line) for line in code))
    program = _Program(len(code), instructions)
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    return _check(
        _libc.syscall(seccomp, _SECCOMP_SET_MODE_FILTER, _NEW_LISTENER, ctypes.byref(program))
    )


def answer(listener: int, pid: int) -> bool:
    """Decide about one `bind` of process `pid`, in its parent; call when `listener` is readable.

    Returns False when the process is gone and the listener of no use any more.
    """
    notification = bytearray(_NOTIF.size)
    try:
        _ioctl(listener, _NOTIF_RECV, notification)
    except OSError as problem:
        return problem.errno == errno.EINTR
    number, _, _, _, _, _, fd, address, length, *_ = _NOTIF.unpack(notification)
    error, flags = 0, 0
    try:
        wanted = _loopback(_read(pid, address, min(length, 128)))
        if wanted is None:
            flags = _NOTIF_CONTINUE
        else:
            _bind(pid, fd, wanted)
    except OSError as problem:
        error = -(problem.errno or errno.EACCES)
    response = bytearray(_RESPONSE.pack(number, 0, error, flags))
    with contextlib.suppress(OSError):  # the caller may be gone
        _ioctl(listener, _NOTIF_SEND, response)
    return True


def _loopback(address: bytes) -> tuple[str, int] | None:
    """Return the loopback address to bind to instead, or None for an address that is fine."""
    if len(address) < 8:
        return None
    (family,) = struct.unpack_from("=H", address)
    (port,) = struct.unpack_from(">H", address, 2)
    if family == socket.AF_INET and address[4:8] == _WILD_4:
        return ("127.0.0.1", port)
    if family == socket.AF_INET6 and address[8:24] == _WILD_6:
        return ("::ffff:127.0.0.1", port)  # a dual-stack socket, as gRPC makes them
    return None


def _bind(pid: int, fd: int, address: tuple[str, int]) -> None:
    _, _, _, pidfd_open, pidfd_getfd = _ARCHS[platform.machine()]
    process = _check(_libc.syscall(pidfd_open, pid, 0))
    try:
        copy = _check(_libc.syscall(pidfd_getfd, process, fd, 0))
    finally:
        os.close(process)
    with socket.socket(fileno=copy) as sock:
        try:
            sock.bind(address)
        except OSError:
            if sock.family != socket.AF_INET6:
                raise
            sock.bind(("::1", address[1]))  # a socket for IPv6 alone


def _read(pid: int, address: int, length: int) -> bytes:
    memory = os.open(f"/proc/{pid}/mem", os.O_RDONLY)
    try:
        return os.pread(memory, length, address)
    finally:
        os.close(memory)


def _ioctl(fd: int, request: int, data: bytearray) -> None:
    buffer = (ctypes.c_char * len(data)).from_buffer(data)
    _check(_libc.ioctl(fd, ctypes.c_ulong(request), buffer))


def _check(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result

"""For children of tests: to be nobody, who may do nothing but what CAP_NET_ADMIN allows."""

from __future__ import annotations

import codecs
import ctypes
import os
from collections.abc import Sequence
from pathlib import Path

_NOBODY = 65534
_ADMIN = 1 << 12  # CAP_NET_ADMIN
_VERSION = 0x20080522  # _LINUX_CAPABILITY_VERSION_3
_KEEPCAPS, _AMBIENT, _RAISE = 8, 47, 2  # PR_SET_KEEPCAPS, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE


def environment() -> dict[str, str]:
    """What a child needs to find this module."""
    return {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)}


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


def become_nobody(directories: Sequence[str], *, ambient: bool = False) -> None:
    """Make the directories, which are nobody's, and go on as that; `ambient`: children as well.

    Whatever is imported afterwards must be readable by anybody.
    """
    for codec in ("idna", "ascii", "latin-1"):  # loaded late by the library
        codecs.lookup(codec)
    for path in directories:
        os.makedirs(path)  # noqa: PTH103 - texts of a command line
        os.chown(path, _NOBODY, _NOBODY)
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(_KEEPCAPS, 1, 0, 0, 0) == 0
    os.setgroups([])
    os.setresgid(_NOBODY, _NOBODY, _NOBODY)
    os.setresuid(_NOBODY, _NOBODY, _NOBODY)
    inheritable = _ADMIN if ambient else 0
    data = (ctypes.c_uint32 * 6)(_ADMIN, _ADMIN, inheritable, 0, 0, 0)
    assert libc.capset(ctypes.byref(_Header(_VERSION, 0)), data) == 0
    if ambient:
        assert libc.prctl(_AMBIENT, _RAISE, 12, 0, 0) == 0

"""Coverage-guided input for the codecs: what takes a new way through them is mutated further.

Whatever comes in is refused in the words of the language or read, quickly; what was read can be
written and reads the same again. The inputs that found something are kept in
`corpus`, as few as cover the same; the run against the daemon (`hostile`) starts from them.

`OC2D_KEEP_CORPUS=1` writes back what was found.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import oc2d.language
from oc2d.errors import BadRequest, Refusal
from oc2d.language.codec import Encoding, InputLimits, decode, encode
from oc2d.language.command import OpenC2Command, command_tree, fingerprint, parse_command
from oc2d.language.message import open_envelope, salvage
from oc2d.language.response import parse_response
from tests.faults.hostile import CORPUS, Mutator
from tests.faults.scenario import Run

__all__ = ["run"]

_PLACE = str(Path(oc2d.language.__file__).parent)
_SLOW = 2.0  # seconds for one input, traced
_LARGEST = 4096  # bytes of an input that is worth keeping

Edge = tuple[int, int, int]  # code, line, next line


def run(this: Run) -> None:
    """Mutate, keep what takes a new way, mutate that."""
    tries = this.many(2000, 400_000)
    mutator = Mutator(this.rnd)
    found = {data: _edges(data)[0] for data in mutator.corpus}
    known = set().union(*found.values())
    this.figures["ways in the corpus"] = len(known)
    slowest = 0.0
    for number in range(tries):
        data = mutator.make()[:_LARGEST]
        edges, seconds = _edges(data)
        slowest = max(slowest, seconds)
        assert seconds < _SLOW, data
        if not edges <= known:
            known |= edges
            found[data] = edges
            mutator.corpus.append(data)
            this.figures["new inputs"] += 1
        if number % 20_000 == 19_999:
            this.tell()
    this.figures["inputs"] = tries
    this.figures["ways found"] = len(known)
    this.figures["slowest, ms"] = round(slowest * 1000)
    kept = _fewest(found)
    assert set().union(*kept.values()) == known
    if os.environ.get("OC2D_KEEP_CORPUS"):
        for path in CORPUS.iterdir():
            path.unlink()
        for data in kept:
            (CORPUS / hashlib.sha256(data).hexdigest()[:12]).write_bytes(data)


def _fewest(found: dict[bytes, set[Edge]]) -> dict[bytes, set[Edge]]:
    """Inputs that together cover what all do, small ones first."""
    kept: dict[bytes, set[Edge]] = {}
    covered: set[Edge] = set()
    for data, edges in sorted(found.items(), key=lambda one: len(one[0])):
        if not edges <= covered:
            kept[data] = edges
            covered |= edges
    for data in sorted(kept, key=len, reverse=True):
        others = set().union(*(edges for one, edges in kept.items() if one != data))
        if kept[data] <= others:
            del kept[data]
    return kept


def _edges(data: bytes) -> tuple[set[Edge], float]:
    """The ways that an input takes through the language, and how long that takes."""
    edges: set[Edge] = set()
    lines: dict[int, int] = {}

    def local(frame: FrameType, event: str, _: object) -> Any:
        if event == "line":
            where = id(frame)
            edges.add((_name(frame), lines.get(where, 0), frame.f_lineno))
            lines[where] = frame.f_lineno
        return local

    def trace(frame: FrameType, event: str, _: object) -> Callable[..., Any] | None:
        if event != "call" or not frame.f_code.co_filename.startswith(_PLACE):
            return None
        lines[id(frame)] = 0
        return local

    begun = time.thread_time()
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        _read(data)
    finally:
        sys.settrace(before)
    return edges, time.thread_time() - begun


def _name(frame: FrameType) -> int:
    return hash((frame.f_code.co_filename, frame.f_code.co_firstlineno))


def _read(data: bytes) -> None:
    for form in Encoding:
        try:
            tree = decode(data, form, InputLimits())
        except BadRequest:
            continue
        try:
            content = open_envelope(tree, bare_command=True).content
        except BadRequest:
            salvage(tree)
            continue
        try:
            command = parse_command(content, form)
        except Refusal:
            fingerprint(content, None)
        else:
            fingerprint(content, command)
            _again(command, form)
        try:
            parse_response(content)
        except Refusal:
            continue


def _again(command: OpenC2Command, form: Encoding) -> None:
    """Written in the form in which it came, it is the same command, but for what was ignored."""
    if command.notes or (command.args and command.args.unknown):
        return
    tree = {"headers": {}, "body": {"openc2": {"request": command_tree(command, form)}}}
    content = open_envelope(decode(encode(tree, form), form, InputLimits())).content
    assert parse_command(content, form) == command, (form, command)

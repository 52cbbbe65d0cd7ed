"""Plugins that decide on commands or only watch, kind or not (DESIGN 5)."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import structlog.testing

from oc2d.config import Policy
from oc2d.errors import Unauthorized, Unavailable
from oc2d.hookspecs import hookimpl
from tests.unit.engine.bench import deny, features

SECRET = "/etc/secret"


class Watching:
    def __init__(self, error=None):
        self.error = error
        self.requests, self.responses = [], []

    @hookimpl
    def oc2d_request(self, request):
        self.requests.append(request)
        if self.error:
            raise self.error

    @hookimpl
    def oc2d_response(self, request, status, duration_ms):
        self.responses.append((request.request_id, request.profile, status, duration_ms))
        if self.error:
            raise self.error


@pytest.mark.parametrize("error", [None, RuntimeError("no"), SystemExit()])
def test_observers_are_told_and_never_disturb(build, door, error):
    watching = Watching(error)
    bench = build(door, hooks=watching)
    for number in range(3):
        assert bench.answered(deny(), request_id=str(number)).status == 200
    bench.answered(deny(), request_id="0")
    bench.settle()
    assert [r.request_id for r in watching.requests] == ["0", "1", "2"]
    assert watching.responses == [(str(n), "x-door", 200, 0.0) for n in range(3)]
    assert len(door.executed) == 3


@pytest.mark.parametrize("order", [slice(None), slice(None, None, -1)])
def test_an_observer_that_fails_keeps_no_other_from_being_told(build, door, order):
    """The audit log lacked what was carried out, where another plugin raised before it was told."""
    failing, watching = Watching(RuntimeError("no")), Watching()
    bench = build(door, hooks=[failing, watching][order])
    with structlog.testing.capture_logs() as entries:
        assert bench.answered(deny()).status == 200
        bench.settle()
    for observer in (failing, watching):
        assert (len(observer.requests), len(observer.responses)) == (1, 1)
    told = [(one["hook"], one["plugin"]) for one in entries if one["event"] == "hook_failed"]
    assert told == [("oc2d_request", str(id(failing))), ("oc2d_response", str(id(failing)))]


def test_an_observer_without_a_hash_is_told_beside_another(build, door):
    """As an object of a dataclass is, which kept the daemon from starting."""

    @dataclass
    class Counting:
        told: int = 0

        @hookimpl
        def oc2d_response(self, status):
            self.told += status == 200

    bench = build(door, hooks=[counting := Counting(), watching := Watching()])
    assert bench.answered(deny()).status == 200
    bench.settle()
    assert (counting.told, len(watching.responses)) == (1, 1)


@pytest.mark.parametrize("error", [RuntimeError(SECRET), SystemExit()])
def test_an_authoriser_that_raises_refuses(build, door, error):
    class Broken:
        @hookimpl
        def oc2d_authorise(self, request):  # noqa: ARG002 - by the hook's name
            raise error

    bench = build(door, hooks=Broken())
    reply = bench.answered(deny())
    assert (reply.status, reply.text) == (403, "not permitted")
    assert bench.answered(features(), request_id="2").status == 403
    assert door.executed == []


def test_a_reason_that_is_no_text_of_utf_8_is_told_all_the_same(build, door):
    """As the name of a file may be; nothing was sent, and the request acknowledged."""

    class Odd:
        @hookimpl
        def oc2d_authorise(self, request):  # noqa: ARG002 - by the hook's name
            return "not \udcff here"

    reply = build(door, hooks=Odd()).answered(deny())
    assert (reply.status, reply.text) == (403, "not ? here")


@pytest.mark.parametrize(("refusal", "status"), [(Unauthorized("who?"), 401), ("no", 403)])
def test_an_authoriser_may_choose_the_status_and_knows_the_profile(build, door, refusal, status):
    seen = []

    class Decides:
        @hookimpl
        def oc2d_authorise(self, request):
            seen.append(request.profile)
            return refusal

    bench = build(door, hooks=Decides())
    assert bench.answered(deny()).status == status
    assert bench.answered(features(), request_id="2").status == status
    other = {"action": "scan", "target": {"x-none:thing": 1}}
    assert bench.answered(other, request_id="3").status == status
    assert (seen, door.executed) == (["x-door", None, "x-door"], [])


def test_after_a_503_of_an_authoriser_the_same_request_may_be_sent_again(build, door):
    class Full:
        refusal = Unavailable("not now")

        @hookimpl
        def oc2d_authorise(self, request):  # noqa: ARG002 - by the hook's name
            return self.refusal

    hooks = Full()
    bench = build(door, hooks=hooks)
    assert bench.answered(deny()).status == 503
    hooks.refusal = None
    assert bench.answered(deny()).status == 200
    assert len(door.executed) == 1


def test_observers_are_told_of_what_the_list_of_producers_refused(build, door):
    watching = Watching()
    bench = build(door, hooks=watching, policy=Policy(producers=("somebody else",)))
    assert bench.answered(deny()).status == 403
    bench.settle()
    assert [row[2] for row in watching.responses] == [403]

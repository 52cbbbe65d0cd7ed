"""Rules about much at once, and about what nobody would send who means well."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from oc2d.language.vocabulary import StatusCode
from oc2d.testing.kit.check import rule
from oc2d.testing.kit.subject import Sample
from oc2d.testing.kit.trial import Nonconformance, Trial, expect, shown, told
from oc2d.testing.kit.values import HOSTILE, STRANGER, fields_of, mutations, with_stranger
from oc2d.testing.transfer import Reply

__all__: list[str] = []

_ROUNDS = 5


@rule("ACT-12")
def many_at_once_are_one_after_the_other(trial: Trial) -> None:
    """Commands that arrive together are each answered, as if they had come one after the other."""
    simple = [one for one in (*trial.subject.samples, *trial.subject.refused) if not one.after]
    commands = [one.command for one in simple] * _ROUNDS
    with trial.fresh("one") as alone:
        wanted = [_told(alone.host.command(command)) for command in commands]
        state = alone.state()
    found = [_told(reply) for reply in trial.host.together(commands)]
    trial.no_faults("on many commands at once")
    for command, alone_said, said in zip(commands, wanted, found, strict=True):
        expect(
            alone_said == said,
            f"{told(command)} is answered {said} among others and {alone_said} by itself",
        )
    expect(trial.state() == state, f"together: {trial.state()}, one after the other: {state}")


def _told(reply: Reply) -> dict[str, Any]:
    return reply.response


@rule("LANG-36", "ACT-13")
def specifiers_are_matched_quietly(trial: Trial) -> None:
    """`matches` takes absent and odd specifiers; without any, a command is for everybody."""
    nsid, sample = trial.subject.nsid, next(iter(trial.subject.samples))
    trial.prepare(sample)
    plain = trial.host.command({**sample.command, "actuator": {nsid: {}}})
    trial.answered(sample, plain)
    odd = [
        {**sample.command, "actuator": {nsid: given}}
        for given in (*HOSTILE, {STRANGER: 1}, *_odd_fields(trial.actuator.specifiers_type))
    ]
    for command in odd:
        trial.host.ask(command, request_id=trial.host.fresh_id())
    trial.host.settle()
    trial.no_faults("on odd specifiers")
    wrong = [reply for reply in trial.host.replies if _internal(reply)]
    expect(not wrong, "odd specifiers are answered 500")


def _odd_fields(kind: object) -> Iterator[dict[str, Any]]:
    for name in fields_of(kind):
        for value in HOSTILE:
            yield {name: value}


@rule("LANG-17", "ACT-14")
def unknown_members_are_refused(trial: Trial) -> None:
    """A member that nobody knows is refused wherever it stands: ignoring it would be guessing."""
    nsid = trial.subject.nsid
    for sample in trial.subject.samples:
        trial.prepare(sample)
        odd = [
            {**sample.command, "args": {**sample.command.get("args", {}), nsid: changed}}
            for changed in with_stranger(
                sample.command.get("args", {}).get(nsid, {}), trial.actuator.args_type
            )
        ]
        odd += [{**sample.command, "target": t} for t in _strange_targets(trial, sample)]
        before = trial.state()
        for command, reply in zip(odd, trial.host.together(odd), strict=True):
            expect(reply.status in {400, 501}, f"{told(command)} → {shown(reply)}, not refused")
        expect(trial.state() == before, f"{sample} with an unknown member changed something")


def _strange_targets(trial: Trial, sample: Sample) -> Iterator[dict[str, Any]]:
    """Only those of the profile itself: the language checks its own."""
    nsid, _, name = sample.target.partition(":")
    if nsid == trial.subject.nsid:
        kind = trial.actuator.targets.get(name)
        for changed in with_stranger(sample.command["target"][sample.target], kind):
            yield {sample.target: changed}


@rule("LANG-18", "LANG-44", "ACT-14")
def hostile_values_do_no_harm(trial: Trial) -> None:
    """Whatever stands in target or arguments is answered, without internals, and it goes on."""
    for sample in trial.subject.samples:
        trial.prepare(sample)
        odd = list(_odd(trial, sample))
        for command, reply in zip(odd, trial.host.together(odd), strict=True):
            if _internal(reply):
                raise Nonconformance(f"{told(command)} → {shown(reply)}{trial.faults()}")
            expect("Traceback" not in reply.text, f"{told(command)} → {shown(reply)}")
        trial.no_faults(f"on hostile values in {sample}")
    for sample in trial.subject.samples:
        reply = trial.host.command(sample.command)
        alive = not _internal(reply) and reply.status != StatusCode.SERVICE_UNAVAILABLE
        expect(alive, f"after hostile values {sample} is answered {shown(reply)}{trial.faults()}")


def _odd(trial: Trial, sample: Sample) -> Iterator[dict[str, Any]]:
    """Every value in every place of target and own arguments; every argument that there is."""
    nsid, command = trial.subject.nsid, sample.command
    for changed in mutations(command["target"][sample.target], HOSTILE):
        yield {**command, "target": {sample.target: changed}}
    args = command.get("args", {})
    own = args.get(nsid, {})
    for name in dict.fromkeys([*own, *fields_of(trial.actuator.args_type)]):
        for changed in mutations(own.get(name), HOSTILE):
            yield {**command, "args": {**args, nsid: {**own, name: changed}}}


def _internal(reply: Reply) -> bool:
    return (reply.status, reply.text) == (500, "internal error")

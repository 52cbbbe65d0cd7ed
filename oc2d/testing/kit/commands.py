"""Rules about configuration, life, pairs, arguments, answers and duplicates."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from oc2d.actuator import API_VERSION, Actuator, Endpoint
from oc2d.errors import ConfigError, Refusal
from oc2d.language.vocabulary import Action
from oc2d.testing.kit.check import rule
from oc2d.testing.kit.subject import Sample, Subject
from oc2d.testing.kit.trial import Nonconformance, Trial, expect, shown, told
from oc2d.testing.kit.values import SETTINGS, STRANGER, fields_of

__all__: list[str] = []

_INTERNALS = ("Traceback", 'File "', "object at 0x", "<class ", "site-packages")


@rule("ACT-1")
def the_configuration_is_checked(trial: Trial) -> None:
    """What is wrong in its table is a `ConfigError` that says where, never another exception."""
    kind, table = trial.subject.actuator, trial.table
    strange = _parsed(kind, {**table, STRANGER: 1})
    expect(
        isinstance(strange, ConfigError) and any(STRANGER in p.path for p in strange.problems),
        f"an unknown key {STRANGER!r} must be a ConfigError with that path, not {strange!r}",
    )
    _parsed(kind, {})
    for key in table:
        for value in SETTINGS:
            _parsed(kind, {**table, key: value})


def _parsed(kind: type[Actuator], table: dict[str, Any]) -> ConfigError | None:
    try:
        kind.parse_config(table)
    except ConfigError as error:
        expect(error.problems, f"a ConfigError without a problem for {told(table)}")
        return error
    except Exception as error:
        raise Nonconformance(f"parse_config({told(table)}) raised {error!r}") from error
    return None


@rule("ACT-2")
def it_starts_stops_and_hears_of_the_link(trial: Trial) -> None:
    """It can be loaded, bears `stop` without `start`, a second start, and news of the link."""
    kind = trial.subject.actuator
    wanted, here = kind.api or (API_VERSION[0], 0), API_VERSION
    expect(
        wanted[0] == here[0] and wanted[1] <= here[1],
        f"it would not be loaded: `api` needs {'.'.join(map(str, wanted))} of the interface, "
        f"this oc2d offers {'.'.join(map(str, here))}",
    )
    for one in kind.create(kind.parse_config(trial.table)):
        try:
            one.stop()
        except Exception as error:
            raise Nonconformance(f"stop() without start() raised {error!r}") from error
    trial.stop_and_start()
    nsid, one = trial.subject.nsid, trial.actuator
    endpoints = (Endpoint("192.0.2.1", 8883), Endpoint("2001:db8::1", 8883))
    for given in (endpoints, endpoints[1:], ()):
        trial.host.call(nsid, one.link_resolving)
        for tell in (one.link_changing, one.link_changed):
            trial.host.call(nsid, lambda tell=tell, given=given: tell(given))  # type: ignore[misc]
    trial.no_faults("in its life")


@rule("ACT-3")
def its_status_can_be_told(trial: Trial) -> None:
    """`status` is an object of JSON, at once and after every sample."""
    for sample in (None, *trial.subject.samples):
        if sample is not None:
            trial.host.command(sample.command)
        found = trial.host.call(trial.subject.nsid, trial.actuator.status)
        try:
            json.dumps(dict(found), allow_nan=False)
        except (TypeError, ValueError) as error:
            raise Nonconformance(f"status() is no object of JSON: {error}") from error


@rule("LANG-46", "ACT-4")
def its_pairs_are_told_truly(trial: Trial) -> None:
    """`query features` tells its pairs, each has a sample, each names arguments that there are."""
    wanted: dict[str, set[str]] = {"query": {"features"}}
    for action, target in trial.subject.pairs:
        wanted.setdefault(action, set()).add(target)
    reply = trial.host.command({"action": "query", "target": {"features": ["pairs"]}})
    found = {action: set(targets) for action, targets in reply.results["pairs"].items()}
    expect(len(trial.host.actuators) > 1 or found == wanted, f"told {found}, has {wanted}")
    shown_pairs = {(sample.action, sample.target) for sample in trial.subject.samples}
    lacking = [" ".join(pair) for pair in trial.subject.pairs if pair not in shown_pairs]
    expect(not lacking, f"give a sample for {', '.join(lacking)}: nobody knows whether it works")
    fields = set(fields_of(trial.actuator.args_type))
    for pair in trial.subject.pairs.values():
        unknown = set(pair.args) - fields
        expect(not unknown, f"{pair} takes arguments that `args_type` does not have: {unknown}")


@rule("LANG-31", "LANG-40", "ACT-4")
def samples_are_answered_as_said(trial: Trial) -> None:
    """Each sample gets its status; results are of `results_type` and the same in CBOR."""
    kind = trial.subject.actuator.results_type
    for number, sample in enumerate(trial.subject.samples):
        with trial.fresh(f"json{number}") as one:
            reply = one.carry_out(sample)
            one.no_faults(f"on {told(sample.command)}")
            for call in one.called("execute"):
                results = getattr(call.result, "results", None)
                fits = results is None or (kind is not None and isinstance(results, kind))
                expect(fits, f"{sample} answered {type(results).__name__}, not `results_type`")
        with trial.fresh(f"cbor{number}") as one:
            one.prepare(sample)
            other = one.host.command(sample.command, encoding="cbor")
            same = (other.status, other.text) == (reply.status, reply.text)
            expect(same, f"{sample} in CBOR is answered {shown(other)}, in JSON {shown(reply)}")


def _stateful(subject: Subject) -> str:
    return "no command leaves anything behind" if subject.state is None else ""


@rule("ACT-15", needs=_stateful)
def its_state_shows_what_it_does(trial: Trial) -> None:
    """`state` changes with some sample: else the rules about it would show nothing."""
    before = trial.state()
    for sample in trial.subject.samples:
        for command in (*sample.after, sample.command):
            trial.host.command(command)
            if trial.state() != before:
                return
    raise Nonconformance("no sample changes `state`: give a function that sees it, or None")


@rule("LANG-43", "ACT-4")
def other_pairs_are_refused(trial: Trial) -> None:
    """An action on a target that it does not tell is 501, and reaches nobody."""
    others = [
        {"action": action.value, "target": sample.command["target"]}
        for sample in trial.subject.samples
        for action in Action
        if (action.value, sample.target) not in trial.subject.pairs
        and (action.value, sample.target) != ("query", "features")
    ]
    for command, reply in zip(others, trial.host.together(others), strict=True):
        taken = len(trial.host.actuators) > 1 and reply.status == 200  # noqa: PLR2004 - of another
        expect(reply.status == 501 or taken, f"{told(command)} → {shown(reply)}, not 501")  # noqa: PLR2004 - no such pair
    expect(not trial.executed(), "it was given a pair that it does not tell")


def _refused(subject: Subject) -> str:
    return "" if subject.refused else "no `refused` is given"


@rule("LANG-44", "ACT-5", needs=_refused)
def what_is_wrong_is_refused_on_sight(trial: Trial) -> None:
    """What no state could make possible is refused by `check`: also under `ack`, and unchanged."""
    before = trial.state()
    for sample in trial.subject.refused:
        trial.prepare(sample)
        before = trial.state() if sample.after else before
        done = len(trial.executed())
        for asked in ("complete", "ack"):
            reply = trial.ask_once(sample, response_requested=asked)
            trial.answered(sample, reply)
            words = reply.text
            expect(words, f"{told(sample.command)} is refused without a word")
            leaked = [part for part in (*_INTERNALS, str(trial.host.directory)) if part in words]
            expect(not leaked, f"{told(sample.command)} is answered with internals: {words}")
        expect(len(trial.executed()) == done, f"{sample} was executed, not refused by `check`")
        expect(trial.state() == before, f"{sample} was refused, and changed something")
        silent = sample.with_args(response_requested="none")
        message = trial.host.message(silent, request_id=trial.host.fresh_id())
        expect(trial.host.silent_to(message), f"{sample} with `none` was answered")
    trial.no_faults("on a command that it refuses")


def _accepted(subject: Subject) -> list[Sample]:
    return [sample for sample in subject.samples if sample.status < 300]  # noqa: PLR2004 - carried out


@rule("LANG-28", "LANG-29", "LANG-31", "LANG-32")
def it_answers_as_often_as_asked(trial: Trial) -> None:
    """`none`: no reply; `ack`: one 102; `complete`: the outcome. It does the same each time."""
    for number, sample in enumerate(_accepted(trial.subject)):
        states, seen = [], []
        for asked in ("complete", "ack", "none"):
            with trial.fresh(f"{asked}{number}") as one:
                one.prepare(sample)
                name = one.host.fresh_id()
                command = sample.with_args(response_requested=asked)
                one.host.ask(command, request_id=name)
                one.host.settle()
                states.append(one.state())
                seen.append([reply.status for reply in one.host.replies_to(name)])
                one.no_faults(f"on {told(command)}")
        final, acknowledged, silent = seen
        expect([s for s in final if s != 102] == [sample.status], f"{sample}: {final}")  # noqa: PLR2004 - in progress
        expect(acknowledged == [102], f"{sample} with `ack` is answered {acknowledged}, not 102")
        expect(silent == [], f"{sample} with `none` is answered {silent}")
        same = states[0] == states[1] == states[2]
        expect(same, f"{sample} does not do the same with complete, ack and none: {states}")


@rule("AMB-21")
def a_duplicate_changes_nothing(trial: Trial) -> None:
    """The same request again, in another encoding too, gets the same answer and does nothing."""
    for sample in trial.subject.samples:
        trial.prepare(sample)
        name = trial.host.fresh_id()
        trial.host.ask(sample.command, request_id=name)
        first = trial.host.reply_to(name)
        before, done = trial.state(), len(trial.executed())
        for encoding in ("json", "cbor"):
            trial.host.ask(sample.command, request_id=name, encoding=encoding)
            trial.host.settle()
        replies = [r for r in trial.host.replies_to(name) if r.status != 102]  # noqa: PLR2004 - in progress
        expect({r.status for r in replies} == {first.status}, f"{sample} again: {replies}")
        expect(len(trial.executed()) == done, f"{sample} was executed again for a duplicate")
        expect(trial.state() == before, f"a duplicate of {sample} changed something")


def _idempotent(subject: Subject) -> str:
    return "" if subject.actuator.idempotent else "it does not claim to be idempotent"


@rule("ACT-6", needs=_idempotent)
def a_key_again_changes_nothing(trial: Trial) -> None:
    """`idempotent`: the same key again, after a kill too, is answered the same and does nothing."""
    for number, sample in enumerate(trial.subject.samples):
        with trial.fresh(f"key{number}") as one:
            one.carry_out(sample)
            command = [*one.executed().values()][-1]
            (first, *_), before = _outcome(one, command), one.state()
            for how in ("at once", "after a kill"):
                if how == "after a kill":
                    one.kill_and_start()
                again = _outcome(one, command)[0]
                expect(again == first, f"{sample} with the same key {how}: {again}, not {first}")
                changed = one.state() != before
                expect(not changed, f"{sample} with the same key {how} changed what is in force")
            one.no_faults(f"on {sample} with the same key")


def _outcome(trial: Trial, command: Any) -> tuple[object]:  # noqa: ANN401 - a Command
    """Execute a command beside the engine, as after a crash before its outcome was written."""

    def execute() -> object:
        try:
            return trial.actuator.execute(command)
        except Refusal as refusal:
            return (type(refusal), refusal.text)

    found = trial.host.call(trial.subject.nsid, execute)
    return (msgspec.to_builtins(found, enc_hook=repr),)

"""Rules about time: windows and their end, deferred commands, restarts."""

from __future__ import annotations

from dataclasses import replace

from oc2d.actuator import Actuator, Command
from oc2d.language.vocabulary import Action
from oc2d.testing.kit.check import rule
from oc2d.testing.kit.subject import Sample, Subject
from oc2d.testing.kit.trial import Trial, expect, told

__all__: list[str] = []

_LONG = 60_000  # milliseconds of a window
_OVER = 61.0  # seconds after which it is over
_MOST = 4  # samples that are tried with each other


def _windowed(subject: Subject) -> str:
    if subject.actuator.revert is Actuator.revert:
        return "no `revert`: no windows"
    return "" if subject.taking("duration") else "none of its samples takes `duration`"


def _deferred(subject: Subject) -> str:
    return "" if subject.taking("start_time") else "none of its samples takes `start_time`"


@rule("LANG-23", "ACT-7", needs=_windowed)
def the_end_of_a_window_undoes_the_command(trial: Trial) -> None:
    """What is in force after the end of a window is what was in force before it."""
    for number, sample in enumerate(trial.subject.taking("duration")):
        with trial.fresh(f"window{number}") as one:
            one.prepare(sample)
            before = one.state()
            one.ask(sample, duration=_LONG)
            one.host.advance(_OVER)
            after = one.state()
            expect(one.called("revert"), f"the window of {sample} is over and was not ended")
            one.no_faults(f"at the end of the window of {sample}")
            expect(after == before, f"{sample}: {before} before its window, {after} after it")


@rule("ACT-7", needs=_windowed)
def the_end_of_a_window_undoes_nothing_else(trial: Trial) -> None:
    """What others did meanwhile stays as if the command with the window had not been."""
    samples = [sample for sample in trial.subject.samples if sample.status < 300][:_MOST]  # noqa: PLR2004 - carried out
    for number, first in enumerate(trial.subject.taking("duration")[:_MOST]):
        for place, later in enumerate(samples):
            if later.timed or later.after or first.after:
                continue
            with trial.fresh(f"with{number}-{place}") as one:
                one.ask(first, duration=_LONG)
                if one.host.command(later.command).status != later.status:
                    continue  # not possible beside each other
                one.host.advance(_OVER)
                one.no_faults(f"at the end of the window of {first} after {later}")
                found = one.state()
            with trial.fresh(f"without{number}-{place}") as one:
                one.ask(later)
                wanted = one.state()
            expect(
                found == wanted,
                f"{told(first.command)} for a minute, then {told(later.command)}: after the end "
                f"of the window {found}; the second alone: {wanted}",
            )


@rule("ACT-7", needs=_windowed)
def a_window_ends_no_lasting_command(trial: Trial) -> None:
    """A command for a time does not take back the same command that was given for ever."""
    for number, sample in enumerate(trial.subject.taking("duration")):
        with trial.fresh(f"lasting{number}") as one:
            one.carry_out(sample)
            before = one.state()
            if one.host.command(sample.with_args(duration=_LONG)).status != sample.status:
                continue  # not possible beside each other
            one.host.advance(_OVER)
            after = one.state()
            expect(
                after == before,
                f"{told(sample.command)} for ever, then for a minute: {before} before the minute, "
                f"{after} after it",
            )


@rule("ACT-8", needs=_windowed)
def revert_may_come_again(trial: Trial) -> None:
    """`revert` is harmless when repeated, after a restart, and for a key that it does not know."""
    for sample in trial.subject.taking("duration"):
        trial.prepare(sample)
        trial.ask(sample, duration=_LONG)
        trial.host.advance(_OVER)
    before = trial.state()
    commands = [call.arguments[0] for call in trial.called("revert")]
    commands += [replace(command, key="nobody-1") for command in commands]
    # for a command that cannot be read any more, the engine has no more than its key
    commands += [
        Command(command.key, "soc", Action.QUERY, "unreadable", None) for command in commands
    ]
    for how in ("again", "again after a kill"):
        if how != "again":
            trial.kill_and_start()
        for command in commands:
            trial.host.call(
                trial.subject.nsid,
                lambda command=command: trial.actuator.revert(command),  # type: ignore[misc]
            )
        expect(trial.state() == before, f"revert {how} changed what is in force")
    trial.no_faults("when revert is repeated")


@rule("ACT-9")
def a_restart_changes_nothing(trial: Trial) -> None:
    """What was in force is in force after a stop and a start, and after a kill."""
    for sample in trial.subject.samples:
        trial.carry_out(sample)
    before = trial.state()
    for how, restart in (
        ("a kill", trial.kill_and_start),
        ("a stop and a start", trial.stop_and_start),
    ):
        restart()
        after = trial.state()
        trial.no_faults(f"at {how}")
        expect(after == before, f"before {how} {before} was in force, after it {after}")


@rule("ACT-10", needs=_windowed)
def a_window_that_ended_meanwhile_does_not_come_back(trial: Trial) -> None:
    """What ends while the daemon is away is not in force for a moment after `restore`."""
    for number, sample in enumerate(trial.subject.taking("duration")):
        with trial.fresh(f"away{number}") as one:
            one.prepare(sample)
            before = one.state()
            one.ask(sample, duration=_LONG)
            one.kill_and_start(away=_OVER)
            after = one.state()
            one.no_faults(f"at a start after the window of {sample}")
            expect(
                after == before,
                f"{sample}: the window ended while the daemon was away; {before} before the "
                f"command, {after} after the start",
            )
            expect(
                one.restored == before,
                f"{sample} ended while the daemon was away, and after `restore` {one.restored} "
                "was in force: leave out the keys in `ended`",
            )


@rule("LANG-21", "AMB-25", "ACT-11", needs=_deferred)
def a_deferred_command_waits_for_its_start(trial: Trial) -> None:
    """With a `start_time` nothing happens before it; over a kill it is carried out all the same."""
    for number, sample in enumerate(trial.subject.taking("start_time")):
        for kill in (False, True):
            with trial.fresh(f"later{number}{kill:d}") as one:
                _defer(one, sample, kill=kill)


def _defer(trial: Trial, sample: Sample, *, kill: bool) -> None:
    trial.prepare(sample)
    before = trial.state()
    name = trial.host.fresh_id()
    trial.host.ask(
        sample.with_args(start_time=trial.clock.wall + _LONG),
        request_id=name,
    )
    expect(trial.state() == before, f"{sample} did something before its start time")
    seen = [reply.status for reply in trial.host.replies_to(name)]
    expect(seen == [102], f"{sample} with a start time is answered {seen}, not 102{trial.faults()}")
    if kill:
        trial.kill_and_start()
        expect(trial.state() == before, f"{sample} did something before its start time, at a kill")
    trial.host.advance(_OVER)
    trial.answered(sample, trial.host.reply_to(name))
    trial.no_faults(f"at the start time of {sample}")

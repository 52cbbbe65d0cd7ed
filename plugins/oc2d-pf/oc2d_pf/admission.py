"""How rules come into the two stores and the packet filter, and follow the addresses of a name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import repeat

import msgspec
import structlog

from oc2d.actuator import Command, Response
from oc2d.errors import Failed, NotSupported, Refusal
from oc2d.language.codec import Encoding
from oc2d.language.command import extension_tree
from oc2d.language.values import DomainName
from oc2d.language.vocabulary import StatusCode
from oc2d_pf import language
from oc2d_pf.engine import Asked, Engine
from oc2d_pf.language import IN_USE, NOT_IMPLEMENTED, SLOTS, Args
from oc2d_pf.names import Answer, LookUp, LookUpError
from oc2d_pf.store import Outcome, Row, Store, StoreError

__all__ = ["Admission", "renew"]

_log = structlog.get_logger("oc2d.pf")


class Admission:
    """Adds rules; on the worker."""

    def __init__(
        self, store: Store, engine: Engine, look_up: LookUp, check: Callable[[Command], None]
    ) -> None:
        self._store = store
        self._engine = engine
        self._look_up = look_up
        self._check = check
        # nothing of them is in force, and the disk did not let go of them
        self._left: list[Row] = []

    def admit(self, commands: Sequence[Command]) -> list[tuple[Row, float]]:
        """Add rules: rows first, then the engine, then the outcomes.

        Returns the rules of names, each with the seconds until the next look-up.
        """
        store = self._store
        begun: list[tuple[Command, Row, float]] = []
        try:
            with store.transaction():
                for left in self._left:
                    if (row := store.by_key(left.key)) is not None:
                        store.drop(row)
                for command in commands:
                    try:
                        begun.append(self._begin(command))
                    except Refusal as refusal:
                        store.remember(command.key, Outcome(refusal.status, refusal.text))
            self._left = []
            answers = self._answers(begun)
            outcomes = [
                (command, row, lifetime, self._outcome(command, row, answers))
                for command, row, lifetime in begun
            ]
            with store.transaction():
                for command, row, _, (kept, outcome) in outcomes:
                    if kept is None:
                        store.drop(row)
                    else:
                        store.put(kept)
                    store.remember(command.key, outcome)
        except StoreError as error:
            self._give_up(commands, error)
            raise
        return [
            (kept, lifetime)
            for _, _, lifetime, (kept, _) in outcomes
            if kept is not None and kept.state == "done" and kept.target_name == "domain_name"
        ]

    def _give_up(self, commands: Sequence[Command], error: StoreError) -> None:
        """Leave nothing of them in force, what an earlier run did neither."""
        try:
            rows = [row for one in commands if (row := self._store.by_key(one.key)) is not None]
            for row in rows:
                self._engine.withdraw(row.slots)
        except (Failed, StoreError):  # a refusal would say that nothing has happened
            raise RuntimeError("what could not be stored may be in force") from error
        self._left += rows

    def _answers(self, begun: list[tuple[Command, Row, float]]) -> Iterator[Response | Refusal]:
        """Have the engine put the rules in, and say of each of their slots what came of it."""
        asked: list[Asked] = []
        for command, row, _ in begun:
            asked += self._engine.rules(row, self._store.place(row.number), command)
        try:
            _settle(self._store, self._engine)
        except Failed as failed:
            return repeat(failed)
        return iter(self._engine.ask(asked))

    def _begin(self, command: Command) -> tuple[Command, Row, float]:
        """Write down what is about to be done; the second time it is there already."""
        self._check(command)
        row = self._store.by_key(command.key)
        if row is None and command.reserved is not None:
            number = command.reserved.rule_number
            raise Failed(f"{NOT_IMPLEMENTED}: rule {number} was deleted before its start")
        lifetime = 0.0
        if row is None or row.state == "reserved":
            row = self.row(command, "begun") if row is None else replace(row, state="begun")
            slots = {
                n: (f"{row.key}.{n}", "") for n, _ in enumerate(language.engine_targets(command))
            }
            if isinstance(command.target, DomainName):
                answer = self._looked_up(str(command.target))
                lifetime = answer.lifetime
                found = self._engine.foreign(row.action, answer.addresses)
                if not found:
                    raise NotSupported(f"{NOT_IMPLEMENTED}: {command.target} is this host itself")
                slots = {n: (f"{row.key}.{n}", text) for n, text in enumerate(found)}
            row = replace(row, slots=slots)
            self.put(row)
        return command, row, lifetime

    def put(self, row: Row) -> None:
        """Write a rule down, in its place; raises `NotSupported` where there is none."""
        if not self._store.put(row):
            raise NotSupported(f"{NOT_IMPLEMENTED}: all places of this priority are taken")

    def _looked_up(self, name: str) -> Answer:
        try:
            answer = self._look_up(name)
        except LookUpError as error:
            _log.warning("pf_name_not_found", name=name, error=str(error))
            raise Failed(f"{NOT_IMPLEMENTED}: no name server answered for {name}") from None
        if not answer.addresses:
            raise Failed(f"{NOT_IMPLEMENTED}: {name} has no address")
        if len(answer.addresses) > SLOTS:
            raise NotSupported(f"{NOT_IMPLEMENTED}: {name} has more than {SLOTS} addresses")
        return answer

    def _outcome(
        self, command: Command, row: Row, answers: Iterator[Response | Refusal]
    ) -> tuple[Row | None, Outcome]:
        """Make one answer of the engine's next: of several rules all must be in force, or none."""
        texts = dict.fromkeys([*command.notes, *language.masked(command.target)])
        slots = dict(row.slots)
        spared = None
        for slot, answer in [(slot, next(answers)) for slot in slots]:
            if isinstance(answer, Response):
                texts |= dict.fromkeys([answer.text] if answer.text else [])
                continue
            refusal = language.reworded(answer)
            if slots[slot][1] and "never_block" in refusal.text:
                spared = refusal
                texts[f"stays open: {slots.pop(slot)[1]} (never_block)"] = None
                continue
            return self._undone(row, refusal)
        if not slots and spared is not None:
            return None, Outcome(spared.status, spared.text)
        kept = replace(row, slots=slots, state="done")
        if kept.addresses:
            texts = {f"stands for {', '.join(kept.addresses)}": None, **texts}
        return kept, Outcome(StatusCode.OK, "; ".join(texts) or None, row.number)

    def _undone(self, row: Row, refusal: Refusal) -> tuple[Row | None, Outcome]:
        """Take back what is in force of a rule that could not be whole."""
        try:
            self._engine.withdraw(row.slots)
        except Failed:
            # not even that: it stays known by its number, so that it can be deleted, and ends
            kept = replace(row, slots=self._engine.present(row.slots))
            text = f"{refusal.text}; a part is in force as rule {row.number}"
            return kept, Outcome(refusal.status, text, row.number)
        return None, Outcome(refusal.status, refusal.text)

    def row(self, command: Command, state: str) -> Row:
        """Make the row of a rule, with its number; within a transaction."""
        args: Args = command.args
        return Row(
            number=self._number(args),
            key=command.key,
            state=state,
            action=command.action.value,
            target_name=command.target_name,
            target=extension_tree(command.target, Encoding.JSON),
            args=extension_tree(args, Encoding.JSON),
            persistent=args.persistent,
            producer=command.producer,
            start=command.start_time,
            stop=command.stop_time,
        )

    def _number(self, args: Args) -> int:
        if args.insert_rule is not msgspec.UNSET:
            if self._store.by_number(args.insert_rule) is not None:
                raise Failed(f"{IN_USE}: {args.insert_rule}")
            return args.insert_rule
        number = self._store.automatic(None if args.priority is msgspec.UNSET else args.priority)
        if number is None:
            raise NotSupported(f"{NOT_IMPLEMENTED}: no number is left for this priority")
        return number


def _settle(store: Store, engine: Engine) -> None:
    """Have the engine's rules where those of pf were moved to, however far that came before.

    Raises `Failed`; then it is still to be done, before a rule is put in.
    """
    if moved := store.moved():
        engine.move(
            {
                key: language.engine_number(store.place(row.number), slot)
                for row in moved
                for slot, (key, _) in row.slots.items()
            }
        )
        with store.transaction():
            store.settled()


def renew(store: Store, engine: Engine, row: Row, wanted: list[str]) -> None:
    """See that exactly these addresses are in force for a name.

    The row is written before what it adds and after what it takes away, and what the engine
    does not have counts as not there: so a death in between is mended the next time.

    Raises `Refusal`.
    """
    if len(wanted) > SLOTS:
        raise NotSupported(f"more than {SLOTS} addresses")
    there = engine.present(row.slots)
    kept = {n: slot for n, slot in there.items() if slot[1] in wanted}
    had = {address for _, address in kept.values()}
    new = [address for address in wanted if address not in had]
    if not new and kept == row.slots:
        return
    _settle(store, engine)
    engine.withdraw({n: slot for n, slot in there.items() if n not in kept})
    turn = row.turn + 1
    free = (n for n in range(SLOTS) if n not in kept)
    added = {n: (f"{row.key}.{n}.{turn}", address) for n, address in zip(free, new)}  # noqa: B905 - more places than addresses
    changed = replace(row, slots={**kept, **added}, turn=turn)
    with store.transaction():
        store.put(changed)
    if refused := engine.put_in(changed, store.place(row.number), added):
        slots = {n: slot for n, slot in changed.slots.items() if n not in refused}
        with store.transaction():
            store.put(replace(changed, slots=slots))
    _log.info("pf_name_renewed", name=row.target, number=row.number, addresses=wanted)

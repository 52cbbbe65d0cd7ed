"""The tiers as chains of iptables, and the lines for iptables-restore that make them. Pure.

A tier that denies is a chain of its own with a line a key. Their order does not matter, so a key is
appended or deleted (of IPv6 the chain is filled anew instead). To find what is to be deleted the
program reads the chain, so a large tier is spread over several. A tier that allows stands line by
line in the lists that consult it: what allows is a RETURN, and only from there does it lead back to
the rules of others. (An ACCEPT would override what others drop, and of chains that lead on to each
other the kernel follows 16 at most.) A list that changes is filled anew.

The list `answers` is `egress` for what may be an answer by which this host refuses: a tier that
rejects lets it pass, else a rule of direction both would refuse its own answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from zlib import crc32

from oc2d_slpf.backend import Permit, Step, Unpermit
from oc2d_slpf.iptables_guard import Guarded, with_ports
from oc2d_slpf.operations import AddKeys, DropKeys, DropSet, DropTier, Fill, MakeSet, Order, SetId
from oc2d_slpf.rules import PORT_PROTOCOLS, Direction, Judgement, Key, Shape, Verdict, unpack

__all__ = ["HOOKS", "Chains", "Held", "tests"]

#: Built-in chains, and the chain of ours that each calls first.
HOOKS = {"INPUT": "input", "FORWARD": "forward", "OUTPUT": "output"}
_LISTS = ("ingress", "egress", "answers")
_SIDES = {"in": (Direction.INGRESS, Direction.BOTH), "out": (Direction.EGRESS, Direction.BOTH)}
# what this host refuses by: see management for why these
_ANSWERS = {
    4: (" -p 6 -m tcp --tcp-flags RST RST", " -p 1 -m icmp --icmp-type 3/13"),
    6: (" -p 6 -m tcp --tcp-flags RST RST", " -p 58 -m icmp6 --icmpv6-type 1/1"),
}
_REFUSE = {
    4: (
        " -p 6 -j REJECT --reject-with tcp-reset",
        " -j REJECT --reject-with icmp-admin-prohibited",
    ),
    6: (" -p 6 -j REJECT --reject-with tcp-reset", " -j REJECT --reject-with icmp6-adm-prohibited"),
}
_LARGE, _SPREAD = 256, 64  # keys from which on a tier is spread, and over how many chains
_MANY = 10  # keys to delete, from which on filling the chain anew is quicker

#: Keys by shape.
Keys = Mapping[Shape, frozenset[Key]]


@dataclass(frozen=True, slots=True)
class Held:
    """Tiers and permits as steps leave them; what a step does not name is the same object after."""

    sets: Mapping[SetId, frozenset[Key]] = field(default_factory=dict)
    verdicts: Mapping[int, Judgement] = field(default_factory=dict)
    order: tuple[int, ...] = ()
    permits: frozenset[Permit] = frozenset()

    def changed(self, steps: Iterable[Step]) -> Held:  # noqa: C901 - one case an operation
        """Return what is held after these steps."""
        sets, verdicts = dict(self.sets), dict(self.verdicts)
        order, permits = self.order, set(self.permits)
        for step in steps:
            match step:
                case MakeSet(id_):
                    sets[id_] = frozenset()
                case AddKeys(id_, keys):
                    sets[id_] |= frozenset(keys)
                case DropKeys(id_, keys):
                    sets[id_] -= frozenset(keys)
                case DropSet(id_):
                    del sets[id_]
                case Fill(tier, verdict):
                    verdicts[tier] = verdict
                case DropTier(tier):
                    del verdicts[tier]
                case Order(tiers):
                    order = tiers
                case Permit():
                    permits.add(step)
                case Unpermit(permit):
                    permits.discard(permit)
        return Held(sets, verdicts, order, frozenset(permits))

    def tiers(self, version: int, side: str) -> dict[int, dict[Shape, frozenset[Key]]]:
        """Return, in order, the tiers that judge packets of this IP version on this side."""
        found: dict[int, dict[Shape, frozenset[Key]]] = {tier: {} for tier in self.order}
        for id_, keys in self.sets.items():
            shape = id_.shape
            if keys and shape.version == version and shape.direction in _SIDES[side]:
                found[id_.tier][shape] = keys
        return {tier: keys for tier, keys in found.items() if keys}


@dataclass(frozen=True, slots=True)
class Chains:
    """All that is ours in one address family; `prefix` tells it from what it is to replace."""

    guarded: Guarded
    prefix: str

    def names(self, held: Held) -> list[str]:
        """Name all the chains."""
        names = (*HOOKS.values(), *_LISTS, "refuse", *self._blocks(held))
        return [self.prefix + name for name in names]

    def whole(self, held: Held) -> list[str]:
        """Make all the chains; those that are there are emptied first."""
        found = [_emptied(name) for name in self.names(held)]
        found += [f"-A {self.prefix}refuse{rest}" for rest in _REFUSE[self._version]]
        for hook in HOOKS.values():
            found += self._guard(hook, held)
        for name in _LISTS:
            found += self._list(name, held)
        for name, (verdict, keys) in self._blocks(held).items():
            found += self._lines("-A", name, keys, self._target(verdict))
        return found

    def edits(self, before: Held, after: Held) -> list[str]:
        """Bring the chains from one state to the other; no lines: nothing changes here."""
        old, new = self._blocks(before), self._blocks(after)
        empty, lines = [], []
        for name, (verdict, keys) in new.items():
            target = self._target(verdict)
            had: Keys = old[name][1] if name in old else {}
            added: Keys = _without(keys, had)
            gone: Keys = _without(had, keys)
            # ip6tables compares addresses but not prefix lengths: it may delete another net's line
            refill = self._version == 6 or sum(map(len, gone.values())) > _MANY  # noqa: PLR2004 - the IP versions are their own names
            if name not in old or (gone and refill):
                empty.append(name)
                added, gone = keys, {}
            lines += self._lines("-A", name, added, target)
            lines += self._lines("-D", name, gone, target)
        if before.permits != after.permits:
            empty += HOOKS.values()
            for hook in HOOKS.values():
                lines += self._guard(hook, after)
        for name in _LISTS:
            if self._parts(name, before) != self._parts(name, after):
                empty.append(name)
                lines += self._list(name, after)
        dropped = [self.prefix + name for name in old if name not in new]
        lines += [f"-F {name}" for name in dropped] + [f"-X {name}" for name in dropped]
        return [_emptied(self.prefix + name) for name in empty] + lines

    # -- what is in each chain

    @property
    def _version(self) -> int:
        return self.guarded.version

    def _blocks(self, held: Held) -> dict[str, tuple[Judgement, Keys]]:
        """Return by name the chains of tiers: verdict and keys."""
        return {
            name: (held.verdicts[tier], part)
            for side in _SIDES
            for tier, keys in held.tiers(self._version, side).items()
            if held.verdicts[tier] is not Verdict.ALLOW
            for name, part in _spread(f"t{tier}-{side}", keys).items()
        }

    def _guard(self, hook: str, held: Held) -> list[str]:
        guarded, p = self.guarded, self.prefix
        onward = [f" -g {p}egress"]
        if hook == "input":
            passing, onward = guarded.arriving(held.permits), [f" -g {p}ingress"]
        elif hook == "forward":
            passing = guarded.forwarded()
            onward.insert(0, f" -j {p}ingress")
        else:
            passing = guarded.leaving(held.permits)
            onward = [*(f"{test} -g {p}answers" for test in _ANSWERS[self._version]), *onward]
        return [f"-A {p}{hook}{rest}" for rest in (*(f"{t} -j RETURN" for t in passing), *onward)]

    def _list(self, name: str, held: Held) -> list[str]:
        start = f"-A {self.prefix}{name}"
        found = []
        for part in self._parts(name, held):
            if isinstance(part, list):
                found += [f"{start} -j {self.prefix}{chain}" for chain in part]
            else:
                found += self._lines("-A", name, part, "-j RETURN")
        return [*found, f"{start} -g {self.prefix}egress"] if name == "answers" else found

    def _parts(self, name: str, held: Held) -> list[list[str] | Keys]:
        """Return what a list has of each tier: its chains, or keys that stand in the list itself.

        What comes behind the last tier that rejects is the same for answers as for any packet.
        """
        side = "in" if name == "ingress" else "out"
        tiers = held.tiers(self._version, side)
        passing: list[Judgement] = [Verdict.ALLOW]
        if name == "answers":
            passing.append(Verdict.REJECT)
            while tiers and held.verdicts[next(reversed(tiers))] is not Verdict.REJECT:
                tiers.popitem()
        return [
            keys if held.verdicts[tier] in passing else [*_spread(f"t{tier}-{side}", keys)]
            for tier, keys in tiers.items()
        ]

    def _lines(self, verb: str, name: str, keys: Keys, target: str) -> list[str]:
        start, end = f"{verb} {self.prefix}{name}", f" {target}"
        return [
            start + test + end
            for shape, values in keys.items()
            for key in values
            for test in tests(shape, key)
        ]

    def _target(self, verdict: Judgement) -> str:
        # there is nothing here to forge an answer with; what was stored for nftables is dropped
        return f"-g {self.prefix}refuse" if verdict is Verdict.REJECT else "-j DROP"


def tests(shape: Shape, key: Key) -> Iterator[str]:
    """Write what a key asks for: a rule for each, for none is there an "or" in iptables."""
    values = iter(unpack(shape, key))
    if shape.either is not None:
        network = f"{next(values)}/{shape.either}"
        yield f" -s {network}"
        yield f" -d {network}"
        return
    addresses = ""
    for side, prefix in (("-s", shape.source), ("-d", shape.destination)):
        if prefix is not None:
            addresses += f" {side} {next(values)}/{prefix}"
    protocols: Iterable[int] = (int(next(values)),) if shape.protocol else ()
    source = next(values) if shape.source_port else None
    destination = next(values) if shape.destination_port else None
    if not protocols and (source or destination):
        protocols = PORT_PROTOCOLS
    if not protocols:
        yield addresses
    for protocol in protocols:
        yield addresses + with_ports(protocol, source, destination)


def _spread(name: str, keys: Keys) -> dict[str, Keys]:
    """Return the chains of a tier: one, or many when it is large."""
    if sum(map(len, keys.values())) <= _LARGE:
        return {name: keys}
    found: dict[str, Keys] = {}
    for index in range(_SPREAD):
        part = {shape: _parted(values)[index] for shape, values in keys.items()}
        if part := {shape: values for shape, values in part.items() if values}:
            found[f"{name}-{index}"] = part
    return found


@lru_cache(maxsize=8)
def _parted(keys: frozenset[Key]) -> tuple[frozenset[Key], ...]:
    parts: list[list[Key]] = [[] for _ in range(_SPREAD)]
    for key in keys:
        parts[crc32(key) % _SPREAD].append(key)
    return tuple(map(frozenset, parts))


def _emptied(name: str) -> str:
    return f":{name} - [0:0]"


def _without(keys: Keys, others: Keys) -> dict[Shape, frozenset[Key]]:
    nothing: frozenset[Key] = frozenset()
    found = {
        shape: values - others.get(shape, nothing)
        for shape, values in keys.items()
        if values is not others.get(shape)
    }
    return {shape: values for shape, values in found.items() if values}

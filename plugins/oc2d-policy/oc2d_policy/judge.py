"""The policy as typed rules, and what it says of a request. Pure: the time is given."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from datetime import time as Time  # noqa: N812 - `time` is the module elsewhere
from enum import Enum
from ipaddress import IPv4Network, IPv6Network
from typing import TypeAlias

from oc2d.errors import Forbidden, Refusal, Unauthorized
from oc2d.hookspecs import Request
from oc2d_policy.subjects import Network, Subjects

__all__ = ["Effect", "Hours", "Patterns", "Policy", "Rule"]

Patterns: TypeAlias = tuple[re.Pattern[str], ...]


class Effect(Enum):
    """What a rule does with what it matches."""

    ALLOW = "allow"
    DENY = "deny"


@dataclass(frozen=True, slots=True)
class Hours:
    """From `start` to `end` on the days (0 is Monday); over midnight it belongs to its first day.

    `start` equal to `end` is the whole day.
    """

    days: frozenset[int]
    start: Time
    end: Time

    def hold(self, now: datetime) -> bool:
        """Tell whether a local time lies within."""
        at, day = now.time(), now.weekday()
        if self.start < self.end:
            return day in self.days and self.start <= at < self.end
        before = (now - timedelta(days=1)).weekday()
        return (day in self.days and at >= self.start) or (before in self.days and at < self.end)


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule; an empty condition is met by every request, and all must be met.

    `nets` and `domains` are told apart by the effect: a rule that allows matches a target that is
    wholly inside of one of them, a rule that denies already one that touches one.
    """

    effect: Effect
    name: str = ""
    producers: Patterns = ()
    topics: Patterns = ()
    profiles: Patterns = ()
    actions: Patterns = ()
    targets: Patterns = ()
    nets: tuple[Network, ...] = ()
    domains: Patterns = ()
    hours: tuple[Hours, ...] = ()
    not_before: datetime | None = None
    not_after: datetime | None = None

    def matches(self, request: Request, subjects: Subjects, now: datetime) -> bool:
        """Tell whether a request meets every condition."""
        command = request.command
        return (
            _like(request.producer, self.producers)
            and _like(request.topic, self.topics)
            and _like(request.profile, self.profiles)
            and _like(command.action.value, self.actions)
            and _like(command.target.name, self.targets)
            and (not (self.nets or self.domains) or self._concerns(subjects))
            and (not self.hours or any(hours.hold(now) for hours in self.hours))
            and (self.not_before is None or self.not_before <= now)
            and (self.not_after is None or now < self.not_after)
        )

    def _concerns(self, subjects: Subjects) -> bool:
        """Tell whether the target is among `nets` or `domains`: one of them is enough.

        Of two ends of a connection one inside is enough too: every packet concerned then has an
        end there. Of several networks or names else all have to be among those that are allowed.
        """
        if self.effect is Effect.ALLOW:
            near, enough = _inside, all
        else:
            near, enough = _touches, any
        networks = (any(near(n, self.nets) for n in ways) for ways in subjects.networks)
        if subjects.networks and (any if subjects.has_ends else enough)(networks):
            return True
        names = (_like(name, self.domains) for name in subjects.domains)
        return bool(self.domains and subjects.domains) and enough(names)


@dataclass(frozen=True, slots=True)
class Policy:
    """Rules in order: the first that matches decides, else `default`."""

    default: Effect
    rules: tuple[Rule, ...]
    zone: tzinfo

    def judge(self, request: Request, now: float) -> Refusal | None:
        """Return why a request is refused at this time (seconds since the epoch), or None.

        401 when nobody is named and the policy distinguishes who asks, else 403 (REQUIREMENTS 2.6).
        """
        local = datetime.fromtimestamp(now, self.zone)
        subjects = Subjects(request.command.target)
        if any(rule.nets or rule.domains for rule in self.rules) and subjects.too_many:
            return Forbidden("the target names more than the policy of this Consumer can judge")
        for rule in self.rules:
            if rule.matches(request, subjects, local):
                if rule.effect is Effect.ALLOW:
                    return None
                break
        else:
            if self.default is Effect.ALLOW:
                return None
        if request.producer is None and any(rule.producers for rule in self.rules):
            return Unauthorized("headers.from is missing")
        return Forbidden("the policy of this Consumer does not permit this command")


def _like(value: str | None, patterns: Patterns) -> bool:
    if not patterns:
        return True
    return value is not None and any(pattern.match(value) for pattern in patterns)


def _inside(network: Network, nets: Sequence[Network]) -> bool:
    return any(_subnet(network, net) for net in nets)


def _subnet(network: Network, net: Network) -> bool:
    if isinstance(network, IPv4Network):
        return isinstance(net, IPv4Network) and network.subnet_of(net)
    return isinstance(net, IPv6Network) and network.subnet_of(net)


def _touches(network: Network, nets: Sequence[Network]) -> bool:
    return any(network.version == net.version and network.overlaps(net) for net in nets)

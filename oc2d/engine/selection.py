"""Which actuator a command is for, and the command as that actuator is given it.

Steps 10 to 12 of REQUIREMENTS 2.6: LANG-34 to LANG-37, LANG-43, AMB-23, AMB-27.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import structlog

from oc2d.actuator import TIMES, Actuator, Command, Pair, Reason
from oc2d.engine import events
from oc2d.engine.window import Window
from oc2d.errors import BadRequest, NotSupported, Refusal
from oc2d.language.codec import Encoding
from oc2d.language.command import OpenC2Command, decode_extension
from oc2d.language.features import Capabilities, is_query_features
from oc2d.language.ids import Names, message_names
from oc2d.language.vocabulary import LANGUAGE_VERSIONS, Action, ResponseType

__all__ = ["Choice", "Hosted", "Mismatch", "capabilities", "compose", "id_names", "select"]

_log = structlog.get_logger("oc2d.engine")
_REQUEST = "$.body.openc2.request"


class Mismatch(Exception):  # noqa: N818 - not an error: the command is for somebody else
    """The named profile is not here, or its specifiers name others (LANG-36)."""


@dataclass(frozen=True, slots=True)
class Hosted:
    """An actuator in the engine's care; after `timeout` seconds its worker counts as stuck."""

    actuator: Actuator
    pairs: Mapping[tuple[Action, str], Pair]
    timeout: float

    @property
    def nsid(self) -> str:
        """The profile's NSID."""
        return self.actuator.profile

    def early(self, action: Action, target: str, asked: ResponseType) -> bool:
        """Tell whether a 102 goes out before it is executed: asked for, or long work (SLPF-50)."""
        pair = self.pairs.get((action, target))
        return asked is ResponseType.ACK or (pair is not None and pair.interim)

    def worded(self, reason: Reason, action: Action, target: str) -> str:
        """Word one of the engine's own refusals as the profile wants it, if it can."""
        try:
            return str(self.actuator.refusal(reason, action, target))
        except BaseException as error:  # noqa: BLE001 - any plugin, any error
            _log.error(events.ACTUATOR_FAILED, profile=self.nsid, exc_info=error)
            return reason.value


@dataclass(frozen=True, slots=True)
class Choice:
    """The chosen actuator; None: the command is the core's own (query features)."""

    host: Hosted | None
    guessed: bool = False
    """True when several could have carried it out and the order decided (AMB-27)."""


def capabilities(hosted: Sequence[Hosted], rate_limit: int | None) -> Capabilities:
    """Say what this Consumer can do: what `query features` answers (LANG-46 to LANG-52)."""
    pairs: dict[Action, list[str]] = {Action.QUERY: ["features"]}
    for host in hosted:
        for action, target in host.pairs:
            targets = pairs.setdefault(action, [])
            if target not in targets:
                targets.append(target)
    return Capabilities(
        versions=LANGUAGE_VERSIONS,
        profiles=tuple(host.nsid for host in hosted),
        pairs={action: tuple(targets) for action, targets in pairs.items()},
        rate_limit=rate_limit,
    )


def id_names(hosted: Sequence[Hosted]) -> Names:
    """Give the names that have ids in concise CBOR: the language's and those of the actuators."""
    return message_names(
        {host.nsid: host.actuator.ids for host in hosted if host.actuator.ids is not None}
    )


def select(
    command: OpenC2Command,
    encoding: Encoding,
    topic_profile: str | None,
    hosted: Mapping[str, Hosted],
) -> Choice:
    """Choose the one actuator for a command; `hosted` is in the configured order.

    Raises `Mismatch` when it is for others, `NotSupported` when nobody can be meant, `BadRequest`
    for specifiers that the profile does not know.
    """
    named = command.actuator
    if named is not None:
        host = hosted.get(named.nsid)
        if host is None or not _specified(host, command, encoding):
            raise Mismatch
        return Choice(None if is_query_features(command) else host)
    if topic_profile is not None and topic_profile not in hosted:
        raise Mismatch
    if is_query_features(command):
        return Choice(None)
    for nsid in (topic_profile, _target_namespace(command), _sole_argument_namespace(command)):
        if nsid is not None and nsid in hosted:
            return Choice(hosted[nsid])
    able = [h for h in hosted.values() if (command.action, command.target.name) in h.pairs]
    if able:
        return Choice(able[0], guessed=len(able) > 1)
    if len(hosted) == 1:
        return Choice(next(iter(hosted.values())))
    raise NotSupported(Reason.PAIR.value)


def _specified(host: Hosted, command: OpenC2Command, encoding: Encoding) -> bool:
    named = command.actuator
    type_ = host.actuator.specifiers_type
    if named is None:
        return True
    path = f"{_REQUEST}.actuator.{named.nsid}"
    if type_ is not None:
        return host.actuator.matches(decode_extension(named.specifiers, type_, encoding, path=path))
    if named.specifiers:  # ignoring one would widen what is addressed (LANG-17)
        raise BadRequest(f"{named.nsid} has no specifiers", path=path)
    return True


def _target_namespace(command: OpenC2Command) -> str | None:
    namespace, colon, _ = command.target.name.partition(":")
    return namespace if colon else None


def _sole_argument_namespace(command: OpenC2Command) -> str | None:
    profiles = command.args.profiles if command.args else {}
    return next(iter(profiles)) if len(profiles) == 1 else None


def compose(  # noqa: PLR0913 - each is a fact of the request
    command: OpenC2Command,
    encoding: Encoding,
    host: Hosted,
    *,
    key: str,
    producer: str | None,
    window: Window,
) -> Command:
    """Type the command for its actuator, and refuse what the pair does not take.

    Raises `NotSupported` for the pair and for arguments (SLPF-10, SLPF-11), `BadRequest` for
    values.
    """
    _known_target(command, host)
    pair = host.pairs.get((command.action, command.target.name))
    if pair is None:
        raise _refused(host, Reason.PAIR, command)
    _refuse_options(command, host, pair)
    actuator = host.actuator
    target, name = command.target.value, command.target.name.removeprefix(f"{host.nsid}:")
    if name != command.target.name:
        path = f"{_REQUEST}.target.{command.target.name}"
        target = decode_extension(target, actuator.targets[name], encoding, path=path)
    args = specifiers = None
    if actuator.args_type is not None:
        tree = command.args.profiles.get(host.nsid, {}) if command.args else {}
        path = f"{_REQUEST}.args.{host.nsid}"
        args = decode_extension(tree, actuator.args_type, encoding, path=path)
    if actuator.specifiers_type is not None:
        tree = command.actuator.specifiers if command.actuator else {}
        path = f"{_REQUEST}.actuator.{host.nsid}"
        specifiers = decode_extension(tree, actuator.specifiers_type, encoding, path=path)
    return Command(
        key=key,
        producer=producer,
        action=command.action,
        target_name=command.target.name,
        target=target,
        args=args,
        specifiers=specifiers,
        start_time=window.start,
        stop_time=window.stop,
        notes=command.notes,
    )


def _known_target(command: OpenC2Command, host: Hosted) -> None:
    """Refuse a target that the profile's namespace does not have (LANG-43)."""
    namespace, colon, name = command.target.name.partition(":")
    if colon and namespace == host.nsid and name not in host.actuator.targets:
        raise BadRequest(f"{namespace} has no target {name!r}", path=f"{_REQUEST}.target")


def _refuse_options(command: OpenC2Command, host: Hosted, pair: Pair) -> None:
    """Refuse arguments that the pair does not take, another profile's among them (LANG-37)."""
    args, type_ = command.args, host.actuator.args_type
    if args is None:
        return
    times = {name for name in TIMES if getattr(args, name) is not None}
    own = args.profiles.get(host.nsid)
    names = set(own) if isinstance(own, dict) and hasattr(type_, "__struct_fields__") else set()
    foreign = set(args.profiles) - {host.nsid}
    refused = sorted({*foreign, *args.unknown, *(times - pair.times), *(names - pair.args)})
    if refused or (own is not None and type_ is None):
        raise _refused(host, Reason.OPTION, command, ", ".join(refused) or host.nsid)


def _refused(host: Hosted, reason: Reason, command: OpenC2Command, detail: str = "") -> Refusal:
    phrase = host.worded(reason, command.action, command.target.name)
    if reason is Reason.PAIR:
        detail = f"{command.action.value} {command.target.name}"
    return NotSupported(f"{phrase}: {detail}")

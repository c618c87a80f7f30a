"""Rotary settings: what `model.rope_theta` says, and what `model.extra` may add to it.

    rope_theta: 50000 + extra {rope_parameters: {rope_type: linear, factor: 2}}
      -> {rope_type: linear, rope_theta: 50000, factor: 2}

Families with several kinds of layers keep one set for each kind: {full_attention: {...}, sliding_attention: {...}}.
"""

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from foundry_config.errors import ConfigError
from foundry_config.lookup import did_you_mean


def default_rope(cls: Any, theta: float) -> dict[str, Any]:
    """Return the rotary settings of a family with another base: the kinds of layers and shares of a head stay.

    What stretches a context that was trained before (yarn, linear and the like) does not.
    """
    try:
        published = getattr(cls(), "rope_parameters", None) or {}
    except Exception:  # a config that needs arguments raises what it likes; then the plain form is the best guess
        published = {}
    kinds = {kind: kept for kind, kept in published.items() if isinstance(kept, Mapping)}
    if kinds:
        return {kind: _based(kept, theta) for kind, kept in kinds.items()}
    return _based(published, theta)


def merged_rope(base: Mapping[str, Any], given: Any, *, family: str) -> Any:
    """Put `extra.rope_parameters` (or `rope_scaling`, its older name) over the settings that the config implies.

    Raises:
        ConfigError: `given` has another base than `model.rope_theta`, or does not fit the kinds of layers.
    """
    if not isinstance(given, Mapping):
        return given  # transformers says what is wrong with it
    kinds = sorted(kind for kind, kept in base.items() if isinstance(kept, Mapping))
    if not kinds:
        if base and given.get("rope_theta", base["rope_theta"]) != base["rope_theta"]:
            raise ConfigError(
                f"model.extra.rope_parameters.rope_theta: {given['rope_theta']!r} contradicts model.rope_theta"
                f" {base['rope_theta']!r}; set model.rope_theta alone"
            )
        return {**base, **_modern(given)}
    if not all(kind in kinds and isinstance(kept, Mapping) for kind, kept in given.items()):
        raise ConfigError(
            f"model.extra.rope_parameters: {family} has one set for each kind of layer; give {' and '.join(kinds)}"
        )
    return {kind: {**base[kind], **_modern(given.get(kind, {}))} for kind in kinds}


def unread_settings(config: Any, given: Any) -> Iterator[str]:
    """Say which of the rotary settings that `extra` gives have no effect, because their type does not read them.

    transformers holds for each type what it reads, and only logs what is odd.

    Args:
        config: The family's config, made with `given`.
        given: What `extra.rope_parameters` holds.
    """
    from transformers.modeling_rope_utils import RopeParameters  # transformers is loaded by then

    nested = isinstance(given, Mapping) and all(isinstance(kept, Mapping) for kept in given.values())
    sets = given.items() if nested else [("", given)]
    for kind, kept in sets:
        merged = config.rope_parameters[kind] if kind else config.rope_parameters
        read = _read_settings(config, merged)
        for name in kept if read else ():
            if name not in read:
                known = RopeParameters.__annotations__
                hint = "" if name in known else did_you_mean(name, known)
                yield (
                    f"model.extra.rope_parameters.{kind}{'.' if kind else ''}{name}: rotary positions of type"
                    f" {merged['rope_type']!r} do not read it.{hint} They read: {', '.join(sorted(read - {'type'}))}"
                )


def _read_settings(config: Any, rope: Mapping[str, Any]) -> set[str]:
    """What the type of some rotary settings reads, as transformers lists it; nothing where it does not.

    To a list that leaves something out ("proportional" has no `factor`), what the function itself asks for is added.
    """
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS, RopeParameters

    function = ROPE_INIT_FUNCTIONS.get(rope["rope_type"])
    source = inspect.getsource(function) if function is not None else ""
    asked = {name for name in RopeParameters.__annotations__ if f'"{name}"' in source}
    check = getattr(type(config), f"_validate_{rope['rope_type']}_rope_parameters", None)
    listener = _Listener()
    try:
        if check is not None:
            check(listener, dict(rope), ignore_keys=getattr(config, "ignore_keys_at_rope_validation", None))
    except _Heard as heard:
        return {*heard.args[0], *asked, "type"}
    return set()


class _Heard(Exception):
    """Carries the names that a check of transformers expects."""


class _Listener:
    """Stands in for a config whose rotary settings are checked, and hears which names they may have."""

    def _check_received_keys(
        self,
        rope_type: str,  # noqa: ARG002 (the signature is that of transformers)
        received_keys: set[str],  # noqa: ARG002
        required_keys: set[str],
        optional_keys: set[str] | None = None,
        ignore_keys: set[str] | None = None,
    ) -> None:
        # the share of a head that is rotated is read by all types, and listed by none
        raise _Heard({*required_keys, *(optional_keys or ()), *(ignore_keys or ()), "partial_rotary_factor"})


def _based(published: Mapping[str, Any], theta: float) -> dict[str, Any]:
    kept = {name: value for name, value in published.items() if name in ("rope_type", "partial_rotary_factor")}
    if "factor" in published:
        kept["rope_type"] = "default"
    return {"rope_type": "default", **kept, "rope_theta": theta}


def _modern(given: Mapping[str, Any]) -> dict[str, Any]:
    """Older configs call the type of scaling `type`."""
    renamed = dict(given)
    if "type" in renamed:
        renamed.setdefault("rope_type", renamed.pop("type"))
    return renamed

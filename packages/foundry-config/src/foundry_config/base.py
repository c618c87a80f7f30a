"""What every config struct shares: frozen, keyword-only, unknown fields refused, and validated on construction.

msgspec checks types and ranges when it decodes but not when a struct is built in Python; `Config` closes that gap:
`ModelConfig(layers=0)` fails exactly as `layers: 0` in a file does, with every problem at once. A struct names the
rules between its fields in `RULES`.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeAlias, TypeVar

import msgspec
from msgspec import Meta

from foundry_config.checking import build, decoding
from foundry_config.origins import Path
from foundry_config.problems import Problem, refusal
from foundry_config.tree_builder import dotted

T = TypeVar("T")

# What a change of the field does to a run that exists (every field carries exactly one of these; a test holds it):
Identity = Annotated[T, Meta(extra={"class": "identity"})]  # another experiment: resume refuses
Numeric = Annotated[T, Meta(extra={"class": "numeric"})]  # other bits, same meaning: resume asks
Free = Annotated[T, Meta(extra={"class": "free"})]  # no influence on the result

Positive = Annotated[int, Meta(ge=1, le=2**53)]
NonNegative = Annotated[int, Meta(ge=0, le=2**53)]
PositiveFloat = Annotated[float, Meta(gt=0, le=1e30)]
NonNegativeFloat = Annotated[float, Meta(ge=0, le=1e30)]
Fraction = Annotated[float, Meta(ge=0, le=1)]
BelowOne = Annotated[float, Meta(ge=0, lt=1)]
Text = Annotated[str, Meta(min_length=1)]

Rule: TypeAlias = Callable[[Any], Iterator[tuple[str | Path, str]]]
"""Looks at a section and yields (field, what is wrong) for one relation between fields; `a.b.0` is `b[0]` in `a`."""


class ConfigMeta(type(msgspec.Struct)):
    """Turns a missing or unknown argument into a `ConfigError` that lists it with everything else that is wrong."""

    if not TYPE_CHECKING:  # a checker keeps the precise signature of each struct

        def __call__(cls, *positional: Any, **fields: Any) -> Any:
            if positional:
                raise TypeError(
                    f"{cls.__name__} takes its fields by name: {cls.__name__}({cls.__struct_fields__[0]}=...)"
                )
            try:
                return super().__call__(**fields)
            except TypeError:
                _, findings = build(cls, fields)
                if not findings:
                    raise
            raise _refusal(cls, findings)


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, metaclass=ConfigMeta):
    """Base of all config structs."""

    RULES: ClassVar[tuple[Rule, ...]] = ()

    def __post_init__(self) -> None:
        if decoding.get():
            return
        checked, findings = build(type(self), {name: getattr(self, name) for name in self.__struct_fields__})
        if checked is None:
            raise _refusal(type(self), findings)
        for name in self.__struct_fields__:
            msgspec.structs.force_setattr(self, name, getattr(checked, name))

    def problems(self) -> Iterator[tuple[str | Path, str]]:
        """Yield (field, what is wrong) for every broken rule between the fields of this struct."""
        for rule in self.RULES:
            yield from rule(self)


def _refusal(cls: type[Any], findings: list[Any]) -> Exception:
    name = cls.__name__
    problems = [Problem(None, dotted((name, *finding.path)), finding.message) for finding in findings]
    return refusal(problems, name=name)

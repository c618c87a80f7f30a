"""Write a module of pydantic models with the fields, types, bounds and defaults of the structs."""

import msgspec
from msgspec import inspect as types

from foundry_config import schema
from foundry_config.describing import bare
from foundry_config.field_checker import struct_info

HEAD = "from typing import Annotated, Any, Literal\n\nfrom pydantic import BaseModel, ConfigDict, Field\n"
STRUCTS = (
    schema.DataConfig,
    schema.TokenizerConfig,
    schema.ModelConfig,
    schema.TrainingConfig,
    schema.EvaluationConfig,
    schema.LoggingConfig,
    schema.ExperimentConfig,
)


def twin_source() -> str:
    """Return the source of the module."""
    return "\n\n".join([HEAD, *(_model(struct) for struct in STRUCTS)])


def _model(struct: type[msgspec.Struct]) -> str:
    lines = [
        f"class {struct.__name__}(BaseModel):",
        '    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)',
    ]
    for field in struct_info(struct).fields:
        lines.append(f"    {field.name}: {_annotation(field.type)}{_default(field)}")
    return "\n".join(lines)


def _default(field: types.Field) -> str:
    if field.required:
        return ""
    if field.default is msgspec.NODEFAULT:
        return " = Field(default_factory=dict)"
    value = field.default
    return f" = {type(value).__name__}()" if isinstance(value, msgspec.Struct) else f" = {value!r}"


def _annotation(kind: types.Type) -> str:
    kind = bare(kind)
    if isinstance(kind, types.UnionType):
        return " | ".join(_annotation(member) for member in kind.types)
    if isinstance(kind, types.IntType | types.FloatType):
        name = "int" if isinstance(kind, types.IntType) else "float"
        bounds = {key: getattr(kind, key) for key in ("ge", "gt", "le", "lt") if getattr(kind, key) is not None}
        return f"Annotated[{name}, Field({', '.join(f'{key}={limit}' for key, limit in bounds.items())})]"
    if isinstance(kind, types.StrType):
        pattern = (kind.pattern or "").replace(r"$(?!\n)", "$")  # the regular expressions of pydantic know no lookahead
        options = [f"min_length={kind.min_length}"] * bool(kind.min_length)
        options += [f"max_length={kind.max_length}"] * bool(kind.max_length) + [f"pattern={pattern!r}"] * bool(pattern)
        return f"Annotated[str, Field({', '.join(options)})]" if options else "str"
    if isinstance(kind, types.LiteralType):
        return f"Literal[{', '.join(repr(value) for value in kind.values)}]"
    if isinstance(kind, types.VarTupleType):
        return f"tuple[{_annotation(kind.item_type)}, ...]"
    if isinstance(kind, types.ListType):
        return f"list[{_annotation(kind.item_type)}]"
    if isinstance(kind, types.DictType):
        return f"dict[str, {_annotation(kind.value_type)}]"
    if isinstance(kind, types.StructType):
        return kind.cls.__name__
    return {types.BoolType: "bool", types.NoneType: "None"}.get(type(kind), "Any")

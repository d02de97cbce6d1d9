# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""The message classes of CRIU's images, built from the schema tables at first use.

The descriptors live in a private pool, so they do not collide with another schema of the same names in the process,
and any protobuf runtime from 3.20 on will do: nothing generated is shipped.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # protobuf is imported where it is used: much can be told of a dump without it, and it takes its time
    from google.protobuf import descriptor_pb2, descriptor_pool

from . import schema_core, schema_files, schema_machine, schema_memory, schema_own, schema_sockets
from .field import Fields

PACKAGE = "stillframe.criu"
TABLES = (schema_core, schema_memory, schema_files, schema_sockets, schema_machine, schema_own)
_SCALARS = frozenset({"int32", "int64", "uint32", "uint64", "sint32", "sint64", "fixed64", "bool", "string", "bytes"})


@cache
def message(name: str) -> Any:
    """Return the class of message NAME, as CRIU's images/*.proto call it ("mm_entry"). KeyError when there is none."""
    from google.protobuf import message_factory

    descriptor = _pool().FindMessageTypeByName(f"{PACKAGE}.{name}")
    if hasattr(message_factory, "GetMessageClass"):
        return message_factory.GetMessageClass(descriptor)
    factory: Any = message_factory.MessageFactory(_pool())  # protobuf before 4.22
    return factory.GetPrototype(descriptor)


@cache
def enum(name: str) -> Mapping[str, int]:
    """Return the values of enum NAME by their names ("fd_types": {"REG": 1, …}). KeyError when there is none."""
    return _enums()[name]


def _enums() -> Mapping[str, Mapping[str, int]]:
    return {name: values for table in TABLES for name, values in table.ENUMS.items()}


@cache
def _pool() -> descriptor_pool.DescriptorPool:
    from google.protobuf import descriptor_pb2, descriptor_pool

    file = descriptor_pb2.FileDescriptorProto(name="stillframe/criu.proto", package=PACKAGE, syntax="proto2")
    enums = _enums()
    defaults = {name: value for table in TABLES for name, value in table.DEFAULTS.items()}
    for table in TABLES:
        for name, fields in table.MESSAGES.items():
            _add_message(file, name, fields + schema_own.EXTENSIONS.get(name, ()), enums, defaults)
    for name, values in enums.items():
        _add_enum(file, name, values)
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return pool


def _add_message(
    file: descriptor_pb2.FileDescriptorProto, name: str, fields: Fields, enums: Mapping[str, object], defaults: Mapping[str, str]
) -> None:
    from google.protobuf import descriptor_pb2

    add = file.message_type.add(name=name).field.add
    constants = descriptor_pb2.FieldDescriptorProto
    for field in fields:
        proto = add(name=field.name, number=field.number, label=constants.Label.Value(f"LABEL_{field.label.upper()}"))
        if field.kind in _SCALARS:
            proto.type = constants.Type.Value(f"TYPE_{field.kind.upper()}")
        else:
            proto.type = constants.TYPE_ENUM if field.kind in enums else constants.TYPE_MESSAGE
            proto.type_name = f".{PACKAGE}.{field.kind}"
        default = defaults.get(f"{name}.{field.name}")
        if default is not None:
            proto.default_value = default


def _add_enum(file: descriptor_pb2.FileDescriptorProto, name: str, values: Mapping[str, int]) -> None:
    """Add enum NAME: "message.enum" goes into its message, since its values' names are known only there."""
    owner, _dot, bare = name.rpartition(".")
    home = next(proto for proto in file.message_type if proto.name == owner).enum_type if owner else file.enum_type
    proto = home.add(name=bare)
    for value, number in values.items():
        proto.value.add(name=value, number=number)

# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""The schema is CRIU's: compared with the descriptors of an installed pycriu, message by message."""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any, Dict

import pytest

from _engine.images import schema, schema_own

DESCRIBE = """
import glob, importlib, json, os, sys
os.environ["PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION"] = "python"
import pycriu.images
from google.protobuf import descriptor_pb2
folder = os.path.dirname(pycriu.images.__file__)
sys.path.insert(0, folder)
found = {"version": folder, "messages": {}, "enums": {}}
def add_enum(prefix, enum):
    found["enums"][prefix + enum.name] = {value.name: value.number for value in enum.value}
def add(prefix, message):
    fields = {}
    for field in message.field:
        kind = field.type_name.lstrip(".") or descriptor_pb2.FieldDescriptorProto.Type.Name(field.type)
        fields[field.name] = [field.number, field.label, kind, field.default_value, field.options.packed]
    found["messages"][prefix + message.name] = fields
    for enum in message.enum_type:
        add_enum(prefix + message.name + ".", enum)
for path in sorted(glob.glob(folder + "/*_pb2.py")):
    module = importlib.import_module("pycriu.images." + os.path.basename(path)[:-3])
    file = descriptor_pb2.FileDescriptorProto.FromString(module.DESCRIPTOR.serialized_pb)
    for message in file.message_type:
        add("", message)
    for enum in file.enum_type:
        add_enum("", enum)
print(json.dumps(found))
"""
OTHER_ARCHITECTURES = ("arm", "ppc64", "s390", "mips", "loongarch64", "riscv64")
NOT_IMAGES = ("CRIU_Opts", "criu_", "img_streamer_")
CHANGED = {"pagemap_entry.nr_pages"}
"""Was field 2 before CRIU 4.2, which calls that one compat_nr_pages."""
NEWEST = "pidfd_entry"
"""Came with CRIU 4.1: a pycriu that has it lacks nothing of ours."""


def describe(path: str) -> Dict[str, Any]:
    """Return the messages and enums of the pycriu under PATH, in the system's own Python. Skips when there is none."""
    environment = {**os.environ, "PYTHONPATH": path, "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "python"}
    done = subprocess.run(["/usr/bin/python3", "-c", DESCRIBE], env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no pycriu to compare with: {done.stderr.strip().splitlines()[-1]}")
    found: Dict[str, Any] = json.loads(done.stdout)
    return found


def ours(name: str) -> Dict[str, Any]:
    from google.protobuf import descriptor_pb2

    built = descriptor_pb2.FileDescriptorProto.FromString(schema.message(name).DESCRIPTOR.file.serialized_pb)
    (proto,) = [one for one in built.message_type if one.name == name]
    prefix = schema.PACKAGE + "."
    fields = {}
    for field in proto.field:
        kind = field.type_name.lstrip(".")[len(prefix) :] or descriptor_pb2.FieldDescriptorProto.Type.Name(field.type)
        fields[field.name] = [field.number, field.label, kind, field.default_value, field.options.packed]
    return fields


def is_ours(name: str) -> bool:
    bare = name.rpartition(".")[2]
    foreign = bare.startswith(NOT_IMAGES) or any(f"_{one}" in name for one in OTHER_ARCHITECTURES)
    return not foreign or name.startswith("cpuinfo_")


@pytest.fixture(scope="module")
def theirs() -> Dict[str, Any]:
    """Return what the pycriu of STILLFRAME_PYCRIU, a directory for PYTHONPATH, or of the system describes."""
    return describe(os.environ.get("STILLFRAME_PYCRIU", ""))


def test_every_field_of_criu_is_ours(theirs: Dict[str, Any]) -> None:
    compared = 0
    for name, fields in theirs["messages"].items():
        if not is_ours(name):
            continue
        mine = ours(name)
        for field, facts in fields.items():
            if f"{name}.{field}" in CHANGED or not is_ours(facts[2]):
                continue
            assert mine.get(field) == facts, f"{name}.{field}"
            compared += 1
    assert compared > 500


def test_every_value_of_criu_is_ours(theirs: Dict[str, Any]) -> None:
    for name, values in theirs["enums"].items():
        if is_ours(name):
            assert values.items() <= dict(schema.enum(name)).items(), name


def test_nothing_of_ours_is_unknown_to_a_new_criu(theirs: Dict[str, Any]) -> None:
    if NEWEST not in theirs["messages"]:
        pytest.skip("the pycriu at hand is older than CRIU 4.1; name a newer one in STILLFRAME_PYCRIU")
    for table in schema.TABLES:
        for name in table.MESSAGES:
            if table is not schema_own:
                mine = set(ours(name)) - {field.name for field in schema_own.EXTENSIONS.get(name, ())}
                assert mine <= set(theirs["messages"][name]), name


def test_classes_are_built_once_and_in_a_pool_of_our_own() -> None:
    from google.protobuf import descriptor_pool

    assert schema.message("mm_entry") is schema.message("mm_entry")
    with pytest.raises(KeyError):
        descriptor_pool.Default().FindMessageTypeByName(f"{schema.PACKAGE}.mm_entry")


def test_unknown_names() -> None:
    with pytest.raises(KeyError):
        schema.message("no_such_entry")
    with pytest.raises(KeyError):
        schema.enum("no_such_enum")


def test_defaults_are_those_of_criu() -> None:
    assert schema.message("reg_file_entry")().mnt_id == -1
    assert schema.message("user_x86_regs_entry")().mode == schema.enum("user_x86_regs_mode")["NATIVE"]
    assert schema.message("packet_sock_entry")().fanout == 0xFFFFFFFF

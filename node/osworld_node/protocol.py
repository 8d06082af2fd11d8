"""The kubelet's device plugin protocol, v1beta1: messages built from descriptors, so that no generated file is kept."""

from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

VERSION: Final = "v1beta1"
REGISTRATION: Final = f"{VERSION}.Registration"
DEVICE_PLUGIN: Final = f"{VERSION}.DevicePlugin"
HEALTHY: Final = "Healthy"
UNHEALTHY: Final = "Unhealthy"

_STRING: Final = descriptor_pb2.FieldDescriptorProto.TYPE_STRING
_BOOL: Final = descriptor_pb2.FieldDescriptorProto.TYPE_BOOL
_MESSAGES: Final[dict[str, list[tuple[str, int, str]]]] = {
    # name: (field, number, type); "*" repeats, a capital names a message.
    "Empty": [],
    "DevicePluginOptions": [("pre_start_required", 1, "bool"), ("get_preferred_allocation_available", 2, "bool")],
    "RegisterRequest": [
        ("version", 1, "string"),
        ("endpoint", 2, "string"),
        ("resource_name", 3, "string"),
        ("options", 4, "DevicePluginOptions"),
    ],
    "Device": [("ID", 1, "string"), ("health", 2, "string")],
    "ListAndWatchResponse": [("devices", 1, "*Device")],
    "ContainerAllocateRequest": [("devices_ids", 1, "*string")],
    "AllocateRequest": [("container_requests", 1, "*ContainerAllocateRequest")],
    "DeviceSpec": [("container_path", 1, "string"), ("host_path", 2, "string"), ("permissions", 3, "string")],
    "ContainerAllocateResponse": [("devices", 3, "*DeviceSpec")],
    "AllocateResponse": [("container_responses", 1, "*ContainerAllocateResponse")],
}


def _pool() -> descriptor_pool.DescriptorPool:
    file = descriptor_pb2.FileDescriptorProto(name="osworld_node.proto", package=VERSION, syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, number, kind in fields:
            word = kind.removeprefix("*")
            entry = message.field.add(name=field, number=number)
            repeated, optional = entry.LABEL_REPEATED, entry.LABEL_OPTIONAL
            entry.label = repeated if kind.startswith("*") else optional
            if word == "string":
                entry.type = _STRING
            elif word == "bool":
                entry.type = _BOOL
            else:
                entry.type = entry.TYPE_MESSAGE
                entry.type_name = f".{VERSION}.{word}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return pool


_POOL: Final = _pool()


def _class(name: str) -> Any:
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(f"{VERSION}.{name}"))


Empty: Final = _class("Empty")
DevicePluginOptions: Final = _class("DevicePluginOptions")
RegisterRequest: Final = _class("RegisterRequest")
ListAndWatchResponse: Final = _class("ListAndWatchResponse")
Device: Final = _class("Device")
AllocateRequest: Final = _class("AllocateRequest")
AllocateResponse: Final = _class("AllocateResponse")
ContainerAllocateResponse: Final = _class("ContainerAllocateResponse")
DeviceSpec: Final = _class("DeviceSpec")

"""Protobuf messages from a table of their fields, built at run time.

They are made in a private descriptor pool, so that neither generated code nor another package's copy of the same
messages matters, and work on protobuf 3.19 to 7.
"""

from typing import Any, Dict, Mapping, Tuple

# Fields are (name, number, type, how): the type is a scalar of protobuf or a message; "*" repeats it, "map"
# maps strings to it, "one" puts it into the message's only oneof.
Fields = Tuple[str, int, str, str]
ONEOF = "parameter_choice"


def message_classes(package: str, table: Mapping[str, Tuple[Fields, ...]]) -> Dict[str, Any]:
    """Return message name → message class of a table of messages; "A.B" is message B inside of A."""
    from google.protobuf import descriptor_pool, message_factory

    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file_descriptor(package, table).SerializeToString())
    descriptors = {name: pool.FindMessageTypeByName(package + "." + name) for name in table}
    if hasattr(message_factory, "GetMessageClass"):  # since protobuf 4.22; GetPrototype is gone in 5
        return {name: message_factory.GetMessageClass(found) for name, found in descriptors.items()}
    factory = message_factory.MessageFactory(pool)
    return {name: factory.GetPrototype(found) for name, found in descriptors.items()}


def file_descriptor(package: str, table: Mapping[str, Tuple[Fields, ...]]) -> Any:
    """Return the FileDescriptorProto of a table of messages."""
    from google.protobuf import descriptor_pb2

    proto = descriptor_pb2.FileDescriptorProto(name=package + ".proto", package=package, syntax="proto3")
    made: Dict[str, Any] = {}
    for name, fields in table.items():
        parent, _, own = name.rpartition(".")
        message = made[parent].nested_type.add(name=own) if parent else proto.message_type.add(name=own)
        made[name] = message
        for field in fields:
            _add_field(message, package, name, field, table)
    return proto


def _add_field(message: Any, package: str, owner: str, field: Fields, table: Mapping[str, Tuple[Fields, ...]]) -> None:
    from google.protobuf import descriptor_pb2

    kinds = descriptor_pb2.FieldDescriptorProto
    name, number, type_name, how = field
    added = message.field.add(name=name, number=number)
    added.label = kinds.LABEL_REPEATED if how in ("*", "map") else kinds.LABEL_OPTIONAL
    if how == "one":
        if not message.oneof_decl:
            message.oneof_decl.add(name=ONEOF)
        added.oneof_index = 0
    if type_name not in table:
        added.type = getattr(kinds, "TYPE_" + type_name.upper())
        return
    added.type = kinds.TYPE_MESSAGE
    added.type_name = ".{}.{}".format(package, type_name)
    if how == "map":
        entry_name = name.title().replace("_", "") + "Entry"
        entry = message.nested_type.add(name=entry_name)
        entry.options.map_entry = True
        _add_field(entry, package, entry_name, ("key", 1, "string", ""), table)
        _add_field(entry, package, entry_name, ("value", 2, type_name, ""), table)
        added.type_name = ".{}.{}.{}".format(package, owner, entry_name)

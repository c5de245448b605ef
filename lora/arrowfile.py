"""An Arrow IPC file of one batch, read with suspicion: Arrow's readers believe what they read."""

from __future__ import annotations

import struct
from typing import Final

import pyarrow as pa

from lora.errors import CardCorruptError, CardSchemaError

__all__ = ["MAGIC", "one_batch"]

MAGIC: Final = b"ARROW1\x00\x00"
"""How such a file begins; the stream that it contains comes next."""


def one_batch(buffer: pa.Buffer, wanted: pa.Schema, keys: frozenset[str]) -> pa.RecordBatch:
    """The only record batch of a file with these columns and metadata keys, fully validated.

    Raises:
        CardCorruptError, CardSchemaError
    """
    if bytes(memoryview(buffer)[: len(MAGIC)]) != MAGIC:
        raise CardCorruptError("the file does not begin as an Arrow IPC file")
    try:
        reader = pa.ipc.open_file(buffer)
        batches = reader.num_record_batches
        found = reader.schema
        # Read as the stream that the file contains, so that the message whose metadata is looked
        # at is the message that is decoded.
        messages = pa.ipc.MessageReader.open_stream(buffer.slice(len(MAGIC)))
        stated, message = messages.read_next_message(), messages.read_next_message()
        # Arrow takes the kind of a message on trust and reads one as the other.
        if (stated.type, message.type) != ("schema", "record batch"):
            raise CardCorruptError(f"expected a schema and a batch, not {stated.type}")
        schema = pa.ipc.read_schema(stated)
        if batches != 1 or not schema.equals(found, check_metadata=True):
            raise CardSchemaError("a card is one record batch whose schema is stated once")
        if not schema.remove_metadata().equals(wanted) or set(schema.metadata or {}) != {
            key.encode() for key in keys
        }:
            raise CardSchemaError("the columns or the metadata keys are not those of a card")
        if _is_compressed(memoryview(message.metadata)):
            raise CardSchemaError("the file is compressed; a card is mapped as it lies")
        batch = pa.ipc.read_record_batch(message, schema)
        batch.validate(full=True)
    except (pa.ArrowException, OSError, ValueError, struct.error, StopIteration, EOFError) as e:
        raise CardCorruptError(f"not a whole Arrow IPC file: {e}") from e
    if any(column.null_count for column in batch.columns):
        raise CardSchemaError("a card holds no nulls")
    return batch


def _is_compressed(message: memoryview) -> bool:
    """Whether a record batch's flatbuffer states a compression (Message.header.compression)."""

    def entry(table: int, field: int) -> int:
        vtable = table - struct.unpack_from("<i", message, table)[0]
        size = struct.unpack_from("<H", message, vtable)[0]
        slot = 4 + 2 * field
        offset = struct.unpack_from("<H", message, vtable + slot)[0] if slot < size else 0
        return table + offset if offset else 0

    root = struct.unpack_from("<I", message, 0)[0]
    header = entry(root, 2)
    return entry(header + struct.unpack_from("<I", message, header)[0], 3) != 0

"""Vectors on the wire: exactly what was sent, or a clear error."""

import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from services.errors import AttachmentError
from services.runtime.vectors import FRAMES, _shapes, from_stream, to_stream


@given(
    arrays.arrays(
        np.float32,
        st.tuples(st.integers(0, 5), st.integers(1, 7)),
        elements=st.floats(width=32, allow_nan=False),
    )
)
def test_vectors_survive_the_wire(vectors):
    back = from_stream(to_stream(vectors))
    assert back.dtype == np.float32
    assert back.shape == vectors.shape
    assert np.array_equal(back, vectors)


@pytest.mark.parametrize("shape", [(1, 63), (1, 64), (1, 384), (170, 384), (200, 384)])
def test_a_stream_is_the_same_however_often_its_like_was_written(shape):
    vectors = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    first = to_stream(vectors)
    assert np.array_equal(from_stream(first), vectors)
    assert to_stream(vectors * 2) != first
    assert to_stream(vectors) == first


def read(stream):
    """What a stream holds, or why it cannot be read."""
    try:
        return from_stream(stream)
    except AttachmentError as error:
        return str(error)


FRAME = to_stream(np.zeros((2, 48), np.float32))


@given(
    place=st.integers(0, len(FRAME) - 1),
    bits=st.integers(0, 255),
    cut=st.none() | st.integers(1, 40),
    shift=st.none() | st.integers(0, 3),
)
def test_a_stream_like_one_that_was_read_is_read_as_if_it_were_the_first(place, bits, cut, shift):
    vectors = np.random.default_rng(place).normal(size=(2, 48)).astype(np.float32)
    damaged = bytearray(to_stream(vectors))
    damaged[place] ^= bits
    stream = bytes(damaged[:-cut] if cut else damaged)
    if shift is not None:  # as it may lie in what was received
        stream = memoryview(bytes(shift) + stream)[shift:]
    _shapes.clear()
    first = read(stream)
    assert isinstance(read(FRAME), np.ndarray)
    again = read(stream)
    if isinstance(first, str):
        assert again == first
        return
    assert (again.shape, again.dtype) == (first.shape, first.dtype)
    assert again.tobytes() == first.tobytes()
    assert again.flags == first.flags
    assert not again.flags.writeable


def test_streams_of_one_length_and_different_shapes_are_told_apart():
    values = np.random.default_rng(0).normal(size=96).astype(np.float32)
    shapes = [(2, 48), (48, 2), (1, 96)] * 2
    streams = [to_stream(values.reshape(shape)) for shape in shapes]
    assert len({*map(len, streams)}) == 1
    assert [from_stream(stream).shape for stream in streams] == shapes


def test_a_stream_keeps_no_more_shapes_than_a_few():
    for dim in range(64, 64 + 16 * FRAMES, 8):
        from_stream(to_stream(np.ones((1, dim), np.float32)))
        assert len(_shapes) <= FRAMES


def test_the_stream_is_what_the_wire_document_says():
    stream = to_stream(np.ones((2, 3), np.float32))
    with pa.ipc.open_stream(stream) as reader:
        batches = list(reader)
    assert len(batches) == 1
    assert str(batches[0].schema.field("embedding").type).startswith("fixed_size_list<")
    assert batches[0].schema.field("embedding").type.list_size == 3


WHOLE = to_stream(np.ones((2, 3), np.float32))


@pytest.mark.parametrize(
    "stream",
    [
        b"",
        b"nonsense",
        WHOLE[:60],
        b"\xfe" + WHOLE[1:],
        WHOLE.replace(b"embedding", b"embed\xffing"),
    ],
    ids=["empty", "nonsense", "cut", "damaged length", "damaged name"],
)
def test_what_is_no_stream_is_refused(stream):
    with pytest.raises(AttachmentError):
        from_stream(stream)


def test_another_column_is_refused():
    batch = pa.record_batch([pa.array([1.0])], names=["embedding"])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    with pytest.raises(AttachmentError, match="fixed_size_list"):
        from_stream(sink.getvalue().to_pybytes())


@pytest.mark.parametrize("rows", [[[1.0, None]], [[1.0, 2.0], None]])
def test_what_is_missing_is_refused(rows):
    column = pa.array(rows, pa.list_(pa.float32(), 2))
    batch = pa.record_batch([column], names=["embedding"])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    with pytest.raises(AttachmentError, match="missing"):
        from_stream(sink.getvalue().to_pybytes())


def test_no_process_imports_pandas_for_its_first_vector():
    code = """
import sys
import numpy as np
from services.runtime.vectors import from_stream, to_stream
from_stream(to_stream(np.ones((1, 3), np.float32)))
print([name for name in ("pandas", "pyarrow.compute") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_only_a_matrix_is_written():
    with pytest.raises(AttachmentError, match="shape"):
        to_stream(np.ones(3, np.float32))

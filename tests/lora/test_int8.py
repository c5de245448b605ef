"""Cards in int8: a step a value, a scale a rank; what is no such card is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from lora import Adapter, LoRACard, LoRAFormat
from lora.adapter import MAX_SCALE, from_int8, to_int8
from lora.errors import CardError, CardInvalidError, CardNotFiniteError, CardSchemaError
from lora.interop import export_peft, import_peft, load_adapters, save_adapters
from tests.lora.cards import BASE, adapter, card
from tests.lora.test_format import rewrite

MATRICES = arrays(
    np.float32,
    array_shapes(min_dims=2, max_dims=2, max_side=9),
    elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
)


@given(MATRICES, st.sampled_from([0, 1]))
def test_no_value_moves_by_more_than_half_a_step(values: np.ndarray, axis: int) -> None:
    steps, scale = to_int8(values, axis)
    assert steps.dtype == np.int8
    assert int(steps.min()) >= -127
    assert scale.shape == tuple(1 if i == axis else n for i, n in enumerate(values.shape))
    assert np.all((scale > 0) & (scale <= MAX_SCALE))
    found = from_int8(steps, scale)
    assert np.all(np.isfinite(found))
    # Each product is rounded to float32, by 2^-24 of at most 127 steps.
    off = np.abs(found.astype(np.float64) - values)
    assert np.all(off <= (0.5 + 2**-16) * scale.astype(np.float64))


@given(MATRICES)
def test_what_is_int8_already_stays_as_it_is(values: np.ndarray) -> None:
    once = from_int8(*to_int8(values, 0))
    np.testing.assert_allclose(from_int8(*to_int8(once, 0)), once, rtol=1e-6)


def test_a_slice_of_zeros_has_a_scale_and_stays_zero() -> None:
    steps, scale = to_int8(np.zeros((3, 2), np.float32), 0)
    assert not steps.any()
    assert scale.tolist() == [[1.0, 1.0]]


def narrow(**fields: object) -> LoRACard:
    modules = {"embedding": adapter(6, 6), "layer.0.query": adapter(5, 3, seed=1)}
    return card(modules={name: one.astype("int8") for name, one in modules.items()}, **fields)


def test_a_card_of_int8_takes_about_a_quarter_and_counts_what_it_takes_in_a_model() -> None:
    wide = adapter(384, 384, rank=8)
    one = wide.astype("int8")
    assert one.dtype == "int8"
    assert one.stored == wide.stored // 4 + 2 * 8 * 4
    assert one.nbytes == wide.nbytes == wide.stored
    assert one.astype("int8") is one
    assert one.astype("float32").factors[0].tobytes() == one.factors[0].tobytes()


def test_only_cards_of_int8_are_in_the_second_version(tmp_path: Path) -> None:
    stated = {}
    for made in (card(), narrow()):
        path = tmp_path / "x.lora.arrow"
        LoRAFormat.write(made, path)
        stated[made.head.dtype] = pa.ipc.open_file(path.read_bytes()).schema.metadata
    assert stated["float32"][b"format_version"] == b"1"
    assert stated["int8"][b"format_version"] == b"2"


def test_other_layouts_get_floats(tmp_path: Path) -> None:
    made = narrow()
    export_peft(made, tmp_path / "peft")
    back = import_peft(tmp_path / "peft", name="bank", base_model=BASE, dim=6)
    save_adapters(made.modules, tmp_path / "x.safetensors")
    for modules in (back.modules, load_adapters(tmp_path / "x.safetensors")):
        assert set(modules) == set(made.modules)
        for name, one in modules.items():
            assert one.dtype == "float32"
            for found, factor in zip(one.factors, made.modules[name].factors, strict=True):
                np.testing.assert_array_equal(found, factor)


A, B = np.ones((6, 2), np.int8), np.ones((2, 6), np.int8)
WIDE = np.full((1, 2), 0.5, np.float32)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Adapter(A, B, 2, 4.0),
        lambda: Adapter(A, B, 2, 4.0, WIDE),
        lambda: Adapter(A, B, 2, 4.0, WIDE, WIDE),
        lambda: Adapter(A, B, 2, 4.0, WIDE.ravel(), WIDE.T),
        lambda: Adapter(A, B, 2, 4.0, WIDE.astype(np.float64), WIDE.T),
        lambda: Adapter(A.astype(np.float32), B.astype(np.float32), 2, 4.0, WIDE, WIDE.T),
        lambda: Adapter(A, B.astype(np.float32), 2, 4.0, WIDE, WIDE.T),
    ],
    ids=["none", "one", "not-turned", "flat", "float64", "of-float32", "two-dtypes"],
)
def test_scales_belong_to_int8_and_to_each_rank(make: Callable[[], Adapter]) -> None:
    with pytest.raises(CardInvalidError):
        make()


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (0.0, CardInvalidError),
        (-1.0, CardInvalidError),
        (3e36, CardInvalidError),
        (np.nan, CardNotFiniteError),
        (np.inf, CardNotFiniteError),
    ],
    ids=str,
)
@pytest.mark.parametrize("role", ["a_scale", "b_scale"])
def test_a_scale_that_is_none_is_neither_written_nor_read(
    tmp_path: Path, role: str, value: float, error: type[CardError]
) -> None:
    sound = card(modules={"embedding": Adapter(A, B, 2, 4.0, WIDE, 3 * WIDE.T)})
    path = tmp_path / "x.lora.arrow"
    LoRAFormat.write(sound, path)
    scales = {"a_scale": WIDE, "b_scale": 3 * WIDE.T}
    bad = scales[role].copy()
    bad.flat[1] = value
    scales |= {role: bad}
    with pytest.raises(error):
        LoRAFormat.encode(card(modules={"embedding": Adapter(A, B, 2, 4.0, **scales)}))
    old = (WIDE if role == "a_scale" else 3 * WIDE).tobytes()
    path.write_bytes(path.read_bytes().replace(old, bad.tobytes()))
    with pytest.raises(error):
        LoRAFormat.read(path)


def test_a_step_of_minus_128_is_none(tmp_path: Path) -> None:
    steps = A.copy()
    steps[3, 1] = -128
    with pytest.raises(CardInvalidError, match="-128"):
        LoRAFormat.encode(card(modules={"embedding": Adapter(steps, B, 2, 4.0, WIDE, WIDE.T)}))
    path = tmp_path / "x.lora.arrow"
    LoRAFormat.write(narrow(), path)
    head = narrow().modules["embedding"].a.tobytes()
    path.write_bytes(path.read_bytes().replace(head, b"\x80" + head[1:]))
    with pytest.raises(CardInvalidError, match="-128"):
        LoRAFormat.read(path)


@pytest.mark.parametrize(
    ("column", "values", "error"),
    [
        ("role", ["a", "b", "a_scale", "a_scale"], CardSchemaError),
        ("role", ["a", "b", "c_scale", "b_scale"], CardSchemaError),
        ("role", ["a", "b_scale", "a_scale", "b"], CardError),
        ("dtype", ["int8", "int8", "int8", "float32"], CardError),
        ("dtype", ["int8", "float32", "float32", "float32"], CardError),
        ("rows", [6, 4, 4, 4], CardInvalidError),
        ("module", ["embedding", "embedding", "x", "embedding"], CardError),
        ("alpha", [8.0, 8.0, 9.0, 8.0], CardSchemaError),
    ],
    ids=["twice", "unknown", "swapped", "int8-scale", "mixed", "rows", "elsewhere", "alpha"],
)
def test_scales_that_do_not_belong_are_refused(
    tmp_path: Path, column: str, values: list[object], error: type[CardError]
) -> None:
    path = tmp_path / "x.lora.arrow"
    LoRAFormat.write(card(modules={"embedding": adapter(6, 6).astype("int8")}), path)
    schema = pa.ipc.open_file(path.read_bytes()).schema
    rewrite(path, columns={column: pa.array(values, schema.field(column).type)})
    with pytest.raises(error):
        LoRAFormat.read(path)


def test_a_version_that_says_otherwise_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.lora.arrow"
    for made, stated in ((card(), b"2"), (narrow(), b"1")):
        LoRAFormat.write(made, path)
        rewrite(path, metadata={b"format_version": stated})
        with pytest.raises(CardSchemaError, match="what it holds is format"):
            LoRAFormat.read(path)

"""Values that travel between ranks come out as they went in, and none of them can be a program."""

from __future__ import annotations

import math

import numpy as np
import pytest

from recognition.distributed.wire import decode, encode


def test_values_come_out_as_they_went_in() -> None:
    value = {"a": [1, 2.5, None, True, "ü\ud800"], "b": (1, ("x", [])), "c": {}, "d": math.inf, "": 2**70}
    found = decode(encode(value))
    assert found == value
    assert type(found["b"]) is tuple and type(found["a"]) is list


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int64, np.uint8, np.bool_])
def test_arrays_keep_their_type_shape_and_bits(dtype: type) -> None:
    arrays = [np.arange(6).reshape(2, 3).astype(dtype), np.zeros((0, 512), dtype), np.array(1, dtype)]
    found = decode(encode((arrays, "between", arrays[0])))
    for was, now in zip([*arrays, arrays[0]], [*found[0], found[2]]):
        assert now.dtype == was.dtype and now.shape == was.shape and now.tobytes() == was.tobytes()


@pytest.mark.parametrize("value", [object(), {1: 2}, b"bytes", {"x": print}, np.array([object()])])
def test_what_is_no_plain_value_is_refused(value: object) -> None:
    with pytest.raises(TypeError):
        encode(value)

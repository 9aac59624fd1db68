import contextlib
import os
import pickle
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from recognition.errors import DataError
from recognition.formats.pairs_bin import read_pairs, write_pairs
from tests.helpers.places import ROOT

IMAGES = [b"\xff\xd8one", b"\xff\xd8two", b"\x00\xfe\x80", b"four" * 100]
FLAGS = [True, False]


@pytest.fixture
def bin_path(tmp_path) -> Path:
    return tmp_path / "pairs.bin"


def assert_reads(path: Path) -> None:
    pairs = read_pairs(path)
    assert pairs.images == IMAGES
    assert all(type(image) is bytes for image in pairs.images)
    assert pairs.is_same.dtype == bool
    assert pairs.is_same.tolist() == FLAGS
    assert len(pairs) == 2


def test_the_writer_makes_the_fields_pickle(bin_path):
    write_pairs(bin_path, IMAGES, np.array(FLAGS))
    found = pickle.loads(bin_path.read_bytes())
    assert found == (IMAGES, FLAGS)
    assert [type(part) for part in found] == [list, list]
    assert bin_path.read_bytes() == pickle.dumps((IMAGES, FLAGS), pickle.HIGHEST_PROTOCOL)
    assert_reads(bin_path)


def test_equal_content_gives_equal_bytes_whatever_the_objects(bin_path, tmp_path):
    one = b"same" * 50
    write_pairs(bin_path, [one, one], [True])
    write_pairs(tmp_path / "other.bin", [bytes(bytearray(one)), bytes(bytearray(one))], [True])
    assert bin_path.read_bytes() == (tmp_path / "other.bin").read_bytes()


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("form", ["bytes", "array", "column", "scalars", "flag array", "ints", "wide scalars"])
def test_packs_of_every_protocol_and_form_read_alike(bin_path, protocol, form):
    images: list = list(IMAGES)
    flags: object = list(FLAGS)
    if form in ("array", "column"):
        images = [np.frombuffer(image, np.uint8).copy() for image in IMAGES]
    if form == "column":
        images = [image[:, None] for image in images]
    if form == "scalars":
        flags = [np.bool_(flag) for flag in FLAGS]
    if form == "wide scalars":
        flags = [np.int64(flag) for flag in FLAGS]
    if form == "flag array":
        flags = np.array(FLAGS)
    if form == "ints":
        flags = [int(flag) for flag in FLAGS]
    bin_path.write_bytes(pickle.dumps((images, flags), protocol))
    assert_reads(bin_path)


def test_python_2_packs_read(bin_path):
    """Opcodes as Python 2's cPickle writes them: byte strings as SHORT_BINSTRING, slots counted from 1."""
    strings = b"".join(
        b"T" + struct.pack("<I", len(image)) + image + b"q" + bytes([index + 3]) for index, image in enumerate(IMAGES)
    )
    bin_path.write_bytes(b"\x80\x02]q\x01(" + strings + b"e]q\x02(\x88\x89e\x86q\x07.")
    assert_reads(bin_path)


def test_python_2_numpy_packs_read(bin_path):
    image = b"\xff\xd8\x80"
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\nq\x02cnumpy\nndarray\nq\x03K\x00\x85U\x01b\x87R(K\x01K\x03\x85"
        b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x03"
        + image
        + b"tb"
    )
    bin_path.write_bytes(b"\x80\x02](" + array + array.replace(b"q\x02", b"").replace(b"q\x03", b"") + b"e](\x88e\x86.")
    assert read_pairs(bin_path).images == [image, image]


class _Calls:
    def __init__(self, function, *args):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", range(6))
def test_a_function_is_never_called_and_is_named(bin_path, tmp_path, protocol):
    trace = tmp_path / "called"
    bin_path.write_bytes(pickle.dumps(([_Calls(os.mkdir, str(trace)), b""], [True]), protocol))
    with pytest.raises(DataError, match=r"pairs\.bin: the pickle asks for \w+\.mkdir; expected only bytes, flags"):
        read_pairs(bin_path)
    assert not trace.exists()


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b"cos\nsystem\n(S'true'\ntR.", "os.system"),
        (b"(S'true'\nios\nsystem\n.", "os.system"),
        (b"(cos\nsystem\nS'true'\no.", "os.system"),
        (b"cbuiltins\neval\n(S'1'\ntR.", "builtins.eval"),
        (b"cnumpy\nload\n(S'x'\ntR.", "numpy.load"),
        (b"\x80\x04\x8c\x05numpy\x8c\x0cndarray.dump\x93.", "numpy.ndarray.dump"),
        (b"\x80\x02cbuiltins\nobject\n)\x81.", "builtins.object"),
    ],
)
def test_every_way_to_name_a_global_is_refused(bin_path, content, name):
    bin_path.write_bytes(content)
    with pytest.raises(DataError, match=f"the pickle asks for {name}"):
        read_pairs(bin_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x80\x02r\xff\xff\xff\x7f.", "stores into slot 2147483647 at byte 2"),
        (b"p99999999\n.", "stores into slot 99999999"),
        (b"\x80\x02}.", "uses EMPTY_DICT"),
        (b"\x80\x02\x82\x01.", "uses EXT1"),
        (b"Pname\n.", "uses PERSID"),
        (b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x0f.", "no pickle, or is cut off"),
        (b"", "no pickle, or is cut off"),
        (b"a text file", "no pickle, or is cut off"),
        (b"cnumpy\nndarray\n(I100000000\ntR.", "calls numpy.ndarray itself"),
        (b"cnumpy\ndtype\n(S'O8'\ntR.", "numpy array of type 'O8'"),
        (b"cnumpy\ndtype\n(S'V2000000000'\ntR.", "numpy array of type 'V2000000000'"),
        (b"cnumpy\ndtype\n(I3\ntb.", "changes the state of a function"),
        (b"c_codecs\nencode\n(Vx\nVutf-7\ntR.", "encodes text in an unknown way"),
        (b"(((.", "the pickle is damaged"),
        (b"0.", "uses POP"),
        (b"I1\n.", "holds something else"),
    ],
)
def test_hostile_pickles_end_in_one_line(bin_path, content, message):
    bin_path.write_bytes(content)
    start = time.monotonic()
    with pytest.raises(DataError, match=message) as caught:
        read_pairs(bin_path)
    assert time.monotonic() - start < 2
    assert "\n" not in str(caught.value)


def test_a_pickle_cannot_multiply_its_bytes(bin_path):
    text = b"V" + b"x" * 10_000 + b"\np1\n"
    program = b"(" + b"c_codecs\nencode\np0\n" + b"(" + text + b"Vlatin1\np2\ntR" + b"g0\n(g1\ng2\ntR" * 10_000 + b"l."
    bin_path.write_bytes(program)
    with pytest.raises(DataError, match="unfolds into more bytes than the file has"):
        read_pairs(bin_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ((IMAGES[:3], FLAGS), "3 images, an odd number"),
        ((IMAGES, [True]), "4 images for 1 pairs"),
        (([], []), "no pairs"),
        ((IMAGES, [True, 7]), "the flag of pair 1 is neither true nor false"),
        ((IMAGES, [True, None]), "the flag of pair 1 is neither"),
        ((["text", b"x"], [True]), "image 0 is of type str, not bytes"),
        ((IMAGES, 5), "the flags are not a list"),
        ((IMAGES, FLAGS, 1), "holds something else"),
    ],
)
def test_contents_that_contradict_themselves_are_named(bin_path, content, message):
    bin_path.write_bytes(pickle.dumps(content))
    with pytest.raises(DataError, match=message):
        read_pairs(bin_path)


def test_missing_file_and_folder_are_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.bin: cannot be read \(No such file"):
        read_pairs(tmp_path / "none.bin")
    with pytest.raises(DataError, match="is a folder; expected a plain file"):
        read_pairs(tmp_path)


def test_random_damage_never_escapes_as_another_exception(bin_path):
    whole = pickle.dumps(([np.frombuffer(image, np.uint8) for image in IMAGES], [np.bool_(f) for f in FLAGS]), 2)
    rng = np.random.default_rng(0)
    num_read = 0
    for _ in range(2000):
        damaged = bytearray(whole)
        for place in rng.integers(0, len(damaged), rng.integers(1, 4)):
            damaged[place] = rng.integers(0, 256)
        bin_path.write_bytes(damaged)
        with contextlib.suppress(DataError):
            num_read += len(read_pairs(bin_path)) == 2
    assert 0 < num_read < 2000


def test_the_module_loads_without_torch():
    code = "import sys, recognition.formats.pairs_bin; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_an_array_named_many_times_is_held_once(bin_path):
    large = np.zeros(1 << 20, np.uint8)
    bin_path.write_bytes(pickle.dumps(([large] * 40_000, [True] * 20_000), 5))
    images = read_pairs(bin_path).images
    assert len(images) == 40_000
    assert images[0] is images[-1]

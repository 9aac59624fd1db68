"""Lists as they are published: one small hand-written fixture a layout, and each with one broken line."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

from recognition.commands.pack_bin import main
from recognition.errors import DataError
from recognition.formats.matlab import read_matlab
from recognition.formats.pair_layouts import find_pair_layout, odd_pairs, people_of, read_published
from recognition.formats.pair_list import PicturePair
from recognition.formats.pairs_about import read_about
from recognition.formats.pairs_bin import read_pairs
from recognition.images.codec import encode_jpeg
from recognition.work.files import file_sha256

CALFW = "".join(f"A_B_{i:04d}.jpg {1 + i % 10}\nA_B_{i + 1:04d}.jpg {1 + i % 10}\n" for i in range(20)) + "".join(
    f"A_B_{i:04d}.jpg 0\nC_D_{i:04d}.jpg 0\n" for i in range(10)
)
RFW = "".join(f"m.01\t{i}\t{i + 1}\nm.01\t{i}\tm.02\t{i}\n" for i in range(1, 11))
LFW_CSV = "name,imagenum1,imagenum2,\n" + "".join(f"A B,{i},{i + 1},\nA B,{i},C D,{i}\n" for i in range(1, 11))
BFW = "fold,p1,p2,label,id1,id2,att1,att2,a1,a2,g1,g2,e1,e2,resnet50\n" + "".join(
    f"{fold},asian_females/n1/{i}_01.jpg,asian_{sex}/{other}/{i}_01.jpg,{label},0,{num},asian_females,asian_{sex},"
    f"AF,AF,F,F,A,A,0.5\n"
    for fold in (2, 1)
    for i, (sex, other, label, num) in enumerate([("females", "n1", 1, 0), ("males", "n2", 0, 0)] * 2)
)


def write(path: Path, text: str, *, windows: bool = False) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(("\ufeff" + text).encode().replace(b"\n", b"\r\n") if windows else text.encode())
    return path


def write_cfp(root: Path, diff: str = "1,1\n") -> Path:
    """Write CFP's protocol for ten people with two frontal pictures and one in profile."""
    protocol = root / "Protocol"
    frontal = "".join(
        f"{2 * p + i + 1} ../Data/Images/{p + 1:03d}/frontal/{i + 1:02d}.jpg\n" for p in range(10) for i in (0, 1)
    )
    profile = "".join(f"{p + 1} ../Data/Images/{p + 1:03d}/profile/01.jpg\n" for p in range(10))
    write(protocol / "Pair_list_F.txt", frontal)
    write(protocol / "Pair_list_P.txt", profile)
    for fold in range(1, 11):
        write(protocol / "Split/FP" / f"{fold:02d}" / "same.txt", f"{2 * fold - 1},{fold}\n{2 * fold},{fold}\n")
        write(protocol / "Split/FP" / f"{fold:02d}" / "diff.txt", f"{2 * fold},{1 + fold % 10}\n" if fold > 1 else diff)
        write(protocol / "Split/FF" / f"{fold:02d}" / "same.txt", f"{2 * fold - 1},{2 * fold}\n")
        write(protocol / "Split/FF" / f"{fold:02d}" / "diff.txt", f"{2 * fold},{1 + 2 * (fold % 10)}\n")
    return protocol


def agedb(path: Path, labels: tuple[float, ...] = (1, -1), num_splits: int = 10) -> Path:
    """Write AgeDB's form: ten cells, each a struct of a 2 x n cell of nested names, and the labels."""
    scipy_io = pytest.importorskip("scipy.io")
    splits = np.empty((num_splits, 1), dtype=object)
    for fold in range(num_splits):
        names = np.empty((2, len(labels)), dtype=object)
        for side in (0, 1):
            for i in range(len(labels)):
                who = "Ada_L" if side == 0 or labels[i] == 1 else "Bob"
                inner = np.empty((1, 1), dtype=object)
                inner[0, 0] = f"{100 * fold + 10 * side + i}_{who}_{30 + side}_f"
                names[side, i] = inner
        record = np.empty((1, 1), dtype=[("pairs", object), ("labels", object)])
        record[0, 0] = (names, np.array([labels], np.int16))
        splits[fold, 0] = record
    scipy_io.savemat(path, {"splits": splits}, do_compression=True)
    return path


@pytest.mark.parametrize("windows", [False, True])
def test_calfw_is_two_blocks_of_two_lines_cut_into_ten_folds(tmp_path: Path, windows: bool) -> None:
    path = write(tmp_path / "pairs_CALFW.txt", CALFW, windows=windows)
    assert find_pair_layout(path) == "calfw"
    pairs = read_published(path)
    assert [pair.is_same for pair in pairs] == [True, False, True] * 10
    assert [pair.fold for pair in pairs] == [fold for fold in range(1, 11) for _ in range(3)]
    # Fold 3 has same pairs 4 and 5 of the first block and pair 2 of the second.
    assert [(pair.first, pair.second) for pair in pairs[6:9]] == [
        ("A_B_0004.jpg", "A_B_0005.jpg"),
        ("A_B_0002.jpg", "C_D_0002.jpg"),
        ("A_B_0005.jpg", "A_B_0006.jpg"),
    ]
    assert people_of(pairs)[:4] == ("A_B", "A_B", "A_B", "C_D")


def test_rfw_has_no_first_line_and_its_name_is_the_group(tmp_path: Path) -> None:
    path = write(tmp_path / "African_pairs.txt", RFW)
    assert find_pair_layout(path) == "rfw"
    pairs = read_published(path)
    assert len(pairs) == 20 and pairs[1] == PicturePair(
        "m.01/m.01_0001", "m.02/m.02_0001", False, 1, groups=("African", "African")
    )
    assert [pair.fold for pair in pairs] == [fold for fold in range(1, 11) for _ in range(2)]


def test_lfw_as_a_csv_is_lfw(tmp_path: Path) -> None:
    path = write(tmp_path / "pairs.csv", LFW_CSV)
    assert find_pair_layout(path) == "lfw_csv"
    csv = read_published(path)
    lines = "".join(f"A B\t{i}\t{i + 1}\nA B\t{i}\tC D\t{i}\n" for i in range(1, 11))
    assert csv == read_published(write(tmp_path / "pairs.txt", f"10\t1\n{lines}"))
    assert find_pair_layout(tmp_path / "pairs.txt") == "lfw"


def test_bfw_is_read_by_its_header_and_sorted_by_fold(tmp_path: Path) -> None:
    path = write(tmp_path / "bfw-v0.1.5-datatable.csv", BFW)
    assert find_pair_layout(path) == "bfw"
    pairs = read_published(path)
    assert [pair.fold for pair in pairs] == [1] * 4 + [2] * 4
    assert [pair.is_same for pair in pairs] == [True, False] * 4
    assert pairs[1].people == ("asian_females/0", "asian_males/0")
    assert pairs[1].groups == ("asian_females", "asian_males")
    assert read_published(path, folds=[2]) == pairs[4:]


def test_cfp_joins_its_lists_and_folders(tmp_path: Path) -> None:
    split = write_cfp(tmp_path) / "Split"
    assert find_pair_layout(split / "FP") == "cfp"
    pairs = read_published(split / "FP")
    assert [pair.is_same for pair in pairs[:3]] == [True, False, True]
    assert [pair.fold for pair in pairs] == [fold for fold in range(1, 11) for _ in range(3)]
    assert pairs[3] == PicturePair(
        "Data/Images/002/frontal/01.jpg", "Data/Images/002/profile/01.jpg", True, 2, shown=("002", "002")
    )
    frontal = read_published(split / "FF")
    assert frontal[1].second == "Data/Images/002/frontal/01.jpg" and frontal[1].people == ("001", "002")


def test_agedb_is_read_out_of_its_nested_cells(tmp_path: Path) -> None:
    path = agedb(tmp_path / "AgeDB-30.mat")
    assert find_pair_layout(path) == "agedb"
    pairs = read_published(path)
    assert [pair.is_same for pair in pairs] == [True, False] * 10
    assert pairs[2] == PicturePair("100_Ada_L_30_f.jpg", "110_Ada_L_31_f.jpg", True, 2, shown=("Ada_L", "Ada_L"))
    # What the reader of the facts' source does with the file.
    split = pytest.importorskip("scipy.io").loadmat(path)["splits"][1][0][0][0]
    assert split[0][0][0][0][0][0] + ".jpg" == pairs[2].first and split[1][0].tolist() == [1, -1]


BROKEN = {
    "pairs_CALFW.txt": (CALFW.replace("C_D_0007.jpg 0", "C_D_0007.jpg zero"), 56, "`image.jpg number`"),
    "pairs_CPLFW.txt": (CALFW.replace("C_D_0007.jpg 0", "C_D_0007.jpg 1"), 56, "as the line before, same False"),
    "Asian_pairs.txt": (RFW.replace("m.01\t3\tm.02\t3", "m.01\t3\tm.02"), 6, "`name i j` or `name1 i name2 j`"),
    "pairs.csv": (LFW_CSV.replace("A B,4,C D,4", "A B,four,C D,4"), 9, "`name i j` or `name1 i name2 j`"),
    "bfw.csv": (BFW.replace(",1,0,0,asian_females,", ",x,0,0,asian_females,", 1), 2, "with a label of 0 or 1"),
    "bfw_short.csv": (BFW + "1,a.jpg\n", 10, "as the header says"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_one_broken_line_ends_with_its_number(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    text, line, expected = BROKEN[name]
    path = write(tmp_path / name, text)
    assert main([str(path), str(tmp_path), str(tmp_path / "out.bin"), "--quiet"]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"pack_bin: error: {path}:{line}: found ") and expected in error and error.count("\n") == 1
    assert not (tmp_path / "out.bin").exists()


def test_broken_folders_and_matlab_files_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    split = write_cfp(tmp_path / "cfp", diff="1,11\n") / "Split" / "FP"
    cases = [
        (split, f"{split / '01' / 'diff.txt'}:1: found '1,11'; expected `a,b`, numbers from 1 to 20 and 1 to 10"),
        (agedb(tmp_path / "label.mat", labels=(1, 0)), "split 1: pair 2: label 0; expected 1 or -1"),
        (agedb(tmp_path / "nine.mat", num_splits=9), "nine.mat: holds 9 splits; expected 10 splits of pairs"),
    ]
    (tmp_path / "hdf.mat").write_bytes(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(512))
    cases.append((tmp_path / "hdf.mat", "is a MATLAB file of version 7.3 (HDF5); expected version 5; save it again"))
    for path, expected in cases:
        assert main([str(path), str(tmp_path), str(tmp_path / "out.bin"), "--quiet"]) == 1
        error = capsys.readouterr().err
        assert expected in error and error.count("\n") == 1


def element(kind: int, content: bytes) -> bytes:
    return struct.pack("<II", kind, len(content)) + content + bytes(-len(content) % 8)


def matrix(array_class: int, dims: tuple[int, ...], rest: bytes) -> bytes:
    flags = element(6, struct.pack("<II", array_class, 0))
    return element(14, flags + element(5, struct.pack(f"<{len(dims)}i", *dims)) + element(1, b"splits") + rest)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (element(15, zlib.compress(bytes(300 << 20), 1)), "unpacks to over 256 MiB"),
        (matrix(1, (1 << 15, 1 << 15), b""), "an array of 32768 x 32768 in 0 bytes"),
        (matrix(6, (-1, 3), element(9, bytes(8))), "an array of -1 x 3"),
        (matrix(17, (1, 1), bytes(8)), "an array of class 17"),
        (matrix(1, (1, 1), b"")[:40], "is cut off"),
        (struct.pack("<II", 14, 1 << 30) + bytes(8), "is cut off"),
    ],
    ids=["bomb", "claims", "negative", "opaque", "cut", "long"],
)
def test_a_matlab_file_that_claims_more_than_it_holds_is_refused(tmp_path: Path, body: bytes, expected: str) -> None:
    pytest.importorskip("scipy.io")
    path = tmp_path / "x.mat"
    path.write_bytes(b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM" + body)
    with pytest.raises(DataError, match=expected):
        read_matlab(path)


def test_odd_pairs_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a/1.jpg", "a/2.jpg", "b c/1.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(encode_jpeg(np.full((16, 16, 3), 9 * len(name), np.uint8)))
    text = "a/1.jpg\ta/2.jpg\t1\na/2.jpg\ta/1.jpg\t1\na/1.jpg\ta/1.jpg\t1\na/1.jpg\tb c/1.jpg\t0\n"
    path = write(tmp_path / "list.txt", text)
    assert vars(odd_pairs(read_published(path))) == {"num_self": 1, "num_doubled": 1}
    assert main([str(path), str(tmp_path), str(tmp_path / "out.bin"), "--quiet"]) == 0
    assert "of its pairs, 1 of a picture with itself and 1 that were listed before" in capsys.readouterr().err
    assert len(read_pairs(tmp_path / "out.bin")) == 4


def test_what_is_known_lies_beside_the_bin_and_belongs_to_it(tmp_path: Path) -> None:
    for name in ("ann/1.jpg", "ann/2.jpg", "bob/1.jpg"):
        (tmp_path / "f" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "f" / name).write_bytes(encode_jpeg(np.full((16, 16, 3), 20, np.uint8)))
    write(tmp_path / "f" / "align.json", '{"template": [[1, 2]], "detector": "mtcnn"}')
    path = write(tmp_path / "list.txt", "ann/1.jpg ann/2.jpg 1\nann/1.jpg bob/1.jpg 0\n")
    assert main([str(path), str(tmp_path / "f"), str(tmp_path / "out.bin"), "--quiet"]) == 0
    sha256 = file_sha256(tmp_path / "out.bin")
    about = read_about(tmp_path / "out.bin", sha256=sha256, num_pairs=2)
    assert about.names == ("ann/1.jpg", "ann/2.jpg", "ann/1.jpg", "bob/1.jpg")
    assert about.people == ("ann", "ann", "ann", "bob")
    assert about.alignment == {"template": [[1, 2]], "detector": "mtcnn"}
    assert read_about(tmp_path / "none.bin", sha256=sha256, num_pairs=2).names is None
    with pytest.raises(DataError, match=r"out\.json: describes another out\.bin \(SHA-256 \w{12}\); expected 0000"):
        read_about(tmp_path / "out.bin", sha256="0" * 64, num_pairs=2)
    with pytest.raises(DataError, match=r"out\.json: holds names and images; expected texts, and 6 numbers of them"):
        read_about(tmp_path / "out.bin", sha256=sha256, num_pairs=3)
    write(tmp_path / "out.json", '{"of": "another program"}')
    assert read_about(tmp_path / "out.bin", sha256=sha256, num_pairs=2).names is None


def test_people_that_contradict_the_flags_are_unknown() -> None:
    assert people_of([PicturePair("a/1.jpg", "b/1.jpg", True)]) is None
    assert people_of([PicturePair("1.jpg", "2.jpg", False)]) is None
    assert people_of([PicturePair("a/1.jpg", "b/1.jpg", False)]) == ("a", "b")

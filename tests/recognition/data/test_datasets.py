import struct

import cv2
import numpy as np
import pytest

from recognition.config.schema import DataConfig
from recognition.data.datasets import open_dataset
from recognition.errors import ConfigError, DataError

SIZE = 32


def picture(value, height=SIZE, width=SIZE):
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0], image[..., 1], image[..., 2] = value, 255 - value, 7
    return image


def png(rgb):
    return cv2.imencode(".png", rgb[..., ::-1])[1].tobytes()


def write_rec(prefix, records):
    """Write (label, encoded) pairs as MXNet's sequential layout, by hand."""
    with open(f"{prefix}.rec", "wb") as rec, open(f"{prefix}.idx", "w") as idx:
        for key, (label, encoded) in enumerate(records):
            idx.write(f"{key}\t{rec.tell()}\n")
            payload = struct.pack("<IfQQ", 0, label, key, 0) + encoded
            rec.write(struct.pack("<II", 0xCED7230A, len(payload)) + payload + bytes(-len(payload) % 4))


@pytest.fixture
def packed(tmp_path):
    write_rec(tmp_path / "train", [(i % 3, png(picture(10 * i))) for i in range(9)])
    (tmp_path / "property").write_text(f"3,{SIZE},{SIZE}\n")
    return tmp_path


def config(path, **keys):
    return DataConfig(rec=str(path), image_size=SIZE, **keys)


@pytest.mark.parametrize("spelling", ["", "train.rec"])
def test_packed_set_gives_pictures_and_labels(packed, spelling):
    dataset = open_dataset(config(packed / spelling, num_classes=3, num_image=9))
    assert (len(dataset), dataset.num_classes) == (9, 3)
    for i in range(9):
        image, label = dataset[i]
        assert label == i % 3
        assert np.array_equal(image, picture(10 * i))


@pytest.mark.parametrize(("key", "found"), [("num_classes", 3), ("num_image", 9)])
def test_stated_counts_are_checked_against_the_data(packed, key, found):
    with pytest.raises(ConfigError, match=rf"data.{key}: the config states 5, .* has {found}; correct it or leave it"):
        open_dataset(config(packed, **{key: 5}))


def test_label_out_of_range_names_file_and_key(packed):
    write_rec(packed / "train", [(0, png(picture(0))), (3, png(picture(1)))])
    dataset = open_dataset(config(packed))
    with pytest.raises(DataError, match=r"train\.rec: record 1 at offset \d+: label 3 is outside \[0, 3\)"):
        dataset[1]


def test_image_of_another_size_is_an_error(packed):
    write_rec(packed / "train", [(0, png(picture(0, height=40, width=30)))])
    with pytest.raises(DataError, match=r"train\.rec: record 0 at offset 0: image is 30x40 pixels; expected 32x32;"):
        open_dataset(config(packed))[0]


def test_junk_in_a_record_names_file_and_key(packed):
    write_rec(packed / "train", [(0, png(picture(0))), (1, b"this is no picture")])
    with pytest.raises(DataError, match=r"train\.rec: record 1 at offset \d+: not an image"):
        open_dataset(config(packed))[1]


@pytest.fixture
def folders(tmp_path):
    for name, count in (("zoe", 1), ("adam", 3)):
        (tmp_path / name).mkdir()
        for i in range(count):
            (tmp_path / name / f"{i}.png").write_bytes(png(picture(50 * i)))
    (tmp_path / "adam" / "notes.txt").write_text("not an image by its name")
    return tmp_path


def test_folder_of_identities_is_numbered_by_sorted_name(folders):
    dataset = open_dataset(config(folders))
    assert (len(dataset), dataset.num_classes) == (4, 2)
    assert [dataset[i][1] for i in range(4)] == [0, 0, 0, 1]
    assert np.array_equal(dataset[2][0], picture(100))
    assert dataset.place(3) == str(folders / "zoe" / "0.png")


def test_empty_identity_folder_is_an_error(folders):
    (folders / "nobody").mkdir()
    with pytest.raises(DataError, match=r"nobody: holds no image; expected a \.jpg or \.png; remove"):
        open_dataset(config(folders))


def test_image_that_vanished_is_an_error(folders):
    dataset = open_dataset(config(folders))
    (folders / "zoe" / "0.png").unlink()
    with pytest.raises(DataError, match=r"0\.png: cannot be read \(No such file or directory\)"):
        dataset[3]


def test_synthetic_images_are_functions_of_their_index():
    dataset, again = (open_dataset(DataConfig("synthetic", num_classes=10, num_image=100)) for _ in range(2))
    image, label = dataset[57]
    assert (image.shape, image.dtype, label) == ((112, 112, 3), np.uint8, 7)
    assert np.array_equal(image, again[57][0])
    same, other = dataset[67][0].astype(int), dataset[58][0].astype(int)
    assert np.abs(image - same).mean() < 25 < np.abs(image - other).mean()


def test_synthetic_needs_its_counts():
    with pytest.raises(ConfigError, match=r"data\.num_classes is not set; data\.rec 'synthetic' has no files to count"):
        open_dataset(DataConfig("synthetic", num_image=10))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path, "does not exist; expected a folder with train.rec"),
        (lambda path: path.mkdir() or path, "has neither train.rec nor folders of identities; expected"),
    ],
)
def test_nothing_to_read_is_an_error(tmp_path, make, message):
    with pytest.raises(DataError, match=message):
        open_dataset(config(make(tmp_path / "nowhere")))


def test_no_path_is_an_error():
    with pytest.raises(ConfigError, match=r"data\.rec is not set; name a folder with train\.rec"):
        open_dataset(DataConfig())

import zlib

import numpy as np
import pytest

from recognition.config.schema import DataConfig
from recognition.errors import ConfigError, DataError
from recognition.feed.datasets import FolderDataset, open_dataset
from tests.helpers.sets import SIZE, picture, png, write_rec


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


@pytest.mark.parametrize(
    ("key", "found"), [("num_classes", "states 2, the labels of .* need 3"), ("num_image", "states 2, .* has 9")]
)
def test_stated_counts_are_checked_against_the_data(packed, key, found):
    with pytest.raises(ConfigError, match=rf"data.{key}: the config {found}; correct it or leave it out"):
        open_dataset(config(packed, **{key: 2}))


def test_label_out_of_range_names_file_and_key(packed):
    write_rec(packed / "train", [(0, png(picture(0))), (3, png(picture(1)))])
    dataset = open_dataset(config(packed))
    with pytest.raises(DataError, match=r"train\.rec: record 1 at offset \d+: label 3 is outside \[0, 3\)"):
        dataset[1]


def test_image_of_another_size_is_an_error(packed):
    write_rec(packed / "train", [(0, png(picture(0))), (0, png(picture(0, height=40, width=30)))])
    with pytest.raises(DataError, match=r"train\.rec: record 1 at offset \d+: image is 30x40 pixels; expected 32x32;"):
        open_dataset(config(packed, on_bad_record="skip"))[1]


def test_junk_in_a_record_names_file_and_key(packed):
    write_rec(packed / "train", [(0, png(picture(0))), (1, b"this is no picture")])
    with pytest.raises(DataError, match=r"train\.rec: record 1 at offset \d+: not an image"):
        open_dataset(config(packed))[1]


@pytest.fixture
def folders(tmp_path):
    root = tmp_path / "people"
    for name, count in (("zoe", 1), ("adam", 3)):
        (root / name).mkdir(parents=True)
        for i in range(count):
            (root / name / f"{i}.png").write_bytes(png(picture(50 * i)))
    (root / "adam" / "notes.txt").write_text("not an image by its name")
    return root


def test_folder_of_identities_is_numbered_by_sorted_name(folders):
    dataset = open_dataset(config(folders))
    assert (len(dataset), dataset.num_classes) == (4, 2)
    assert [dataset[i][1] for i in range(4)] == [0, 0, 0, 1]
    assert np.array_equal(dataset[2][0], picture(100))
    assert dataset.place(3) == str(folders / "zoe" / "0.png")


def test_the_fingerprint_of_a_folder_is_that_of_its_names(folders):
    names = "adam/0.png\nadam/1.png\nadam/2.png\nzoe/0.png"
    expected = {"images": 4, "classes": 2, "names": f"{zlib.crc32(names.encode()):08x}"}
    assert open_dataset(config(folders)).fingerprint() == expected
    assert FolderDataset(folders / ".." / "people", SIZE).fingerprint() == expected


def test_a_folder_of_other_files_is_an_error_and_an_empty_one_no_identity(folders, caplog):
    (folders / "nobody").mkdir()
    dataset = open_dataset(config(folders))
    assert (len(dataset), dataset.num_classes, dataset[3][1]) == (4, 2, 1)
    assert "people: passed over 1 file: .txt 1; 1 folder without an image (nobody)" in caplog.text
    (folders / "nobody" / "0.webp").write_bytes(b"")
    words = r"nobody: holds no image, but 1 other file: \.webp 1; expected \.jpg, \.jpeg, \.jpe, \.jfif or \.png; "
    with pytest.raises(DataError, match=words):
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
        (
            lambda path: path,
            "no such file or folder; expected a packed set .* or a folder of identity folders; set data.rec",
        ),
        (lambda path: path.mkdir() or path, "holds no image; expected a packed set"),
    ],
)
def test_nothing_to_read_is_an_error(tmp_path, make, message):
    with pytest.raises(DataError, match=message):
        open_dataset(config(make(tmp_path / "nowhere")))


def test_no_path_is_an_error():
    with pytest.raises(ConfigError, match=r"data\.rec is not set; name a folder with train\.rec"):
        open_dataset(DataConfig())


def test_several_sets_become_one_with_their_identities_in_a_row(packed, folders):
    dataset = open_dataset(config(packed, more_rec=(str(folders),)))
    assert (len(dataset), dataset.num_classes, dataset.image_size) == (13, 5, SIZE)
    labels = [dataset[i][1] for i in range(13)]
    assert labels == [i % 3 for i in range(9)] + [3, 3, 3, 4]
    assert dataset.labels().tolist() == labels
    assert np.array_equal(dataset[11][0], picture(100))
    assert dataset.place(12) == str(folders / "zoe" / "0.png")
    assert dataset.place(8).endswith("train.rec: record 8 at offset " + dataset.place(8).rpartition(" ")[2])
    dataset.read_ahead([range(0, 5), range(7, 11)])


@pytest.fixture
def packed_twice(tmp_path):
    for name in ("a", "b"):
        write_rec(tmp_path / name, [(i % 3, png(picture(10 * i))) for i in range(6)])
    (tmp_path / "property").write_text(f"3,{SIZE},{SIZE}\n")
    return tmp_path


def test_a_pattern_names_every_set_it_matches(packed_twice):
    dataset = open_dataset(config(packed_twice / "*.rec", num_classes=6, num_image=12))
    assert [dataset[i][1] for i in range(12)] == [0, 1, 2, 0, 1, 2, 3, 4, 5, 3, 4, 5]
    with pytest.raises(DataError, match=r"\*\.wreck: no such file or folder; expected a packed set"):
        open_dataset(config(packed_twice / "*.wreck"))


def test_identities_may_be_shared_or_mapped(packed_twice):
    shared = open_dataset(config(packed_twice / "*.rec", identities="same"))
    assert shared.num_classes == 3
    assert shared[7][1] == 1
    lines = [f"{number}\t{label}\t{(label + number) % 4}" for number in range(2) for label in range(3)]
    (packed_twice / "map.tsv").write_text("\n".join(lines))
    mapped = open_dataset(config(packed_twice / "*.rec", identities=str(packed_twice / "map.tsv")))
    assert [mapped[i][1] for i in range(12)] == [0, 1, 2, 0, 1, 2, 1, 2, 3, 1, 2, 3]
    assert mapped.labels().tolist() == [0, 1, 2, 0, 1, 2, 1, 2, 3, 1, 2, 3]
    (packed_twice / "map.tsv").write_text("\n".join(lines[:-1]))
    found = r"map.tsv: misses 1 of the 3 identities of set 1, .*\.rec \(class 2\); expected a line for each; add them"
    with pytest.raises(DataError, match=found):
        open_dataset(config(packed_twice / "*.rec", identities=str(packed_twice / "map.tsv")))


def test_identities_of_a_single_set_are_not_chosen(packed):
    with pytest.raises(ConfigError, match=r"data\.identities: found 'same' with a single set; remove this key"):
        open_dataset(config(packed, identities="same"))


def test_every_dataset_knows_its_labels(packed, folders):
    for dataset in (
        open_dataset(config(packed)),
        open_dataset(config(folders)),
        open_dataset(DataConfig("synthetic", num_classes=3, num_image=10, image_size=SIZE)),
    ):
        assert dataset.labels().tolist() == [dataset[i][1] for i in range(len(dataset))]
        dataset.read_ahead([range(0, 2)])


def test_stated_classes_are_taken_when_they_cover_the_labels(packed):
    (packed / "property").write_text(f"112,{SIZE},{SIZE}\n")
    dataset = open_dataset(config(packed, num_classes=3))
    assert (dataset.num_classes, dataset.num_needed, dataset.num_used) == (3, 3, 3)
    assert open_dataset(config(packed, num_classes=5)).num_classes == 5


def test_stated_classes_of_several_sets_are_taken_when_they_cover_the_labels(packed_twice):
    joined = open_dataset(config(packed_twice / "*.rec", num_classes=7))
    assert (joined.num_classes, joined.num_needed, joined.num_used) == (7, 6, 6)
    shared = open_dataset(config(packed_twice / "*.rec", identities="same", num_classes=3))
    assert (shared.num_classes, shared.num_needed, shared.num_used) == (3, 3, 3)


@pytest.mark.parametrize("policy", ["raise", "skip"])
def test_pictures_of_another_size_are_told_before_training(packed, folders, policy):
    for path in (packed, folders):
        other = DataConfig(rec=str(path), image_size=SIZE + 16, on_bad_record=policy)
        with pytest.raises(
            DataError, match=rf"image is {SIZE}x{SIZE} pixels; expected 48x48; set data.image_size={SIZE}"
        ):
            open_dataset(other)


def test_a_few_pictures_of_another_size_are_bad_records_where_these_are_replaced(packed):
    write_rec(packed / "train", [(0, png(picture(0))), (1, png(picture(0, height=40))), (2, b"no picture")])
    with pytest.raises(DataError, match=r"record 1 .*image is 32x40 pixels; expected 32x32; align the images"):
        open_dataset(config(packed))
    assert len(open_dataset(config(packed, on_bad_record="skip"))) == 3

"""One reader of pictures: what becomes of each mode, depth and orientation, and of broken files."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from fbnet_lesson.data import CocoDataset, check_dataset, headers
from fbnet_lesson.data import pictures as reader
from fbnet_lesson.data.coco import read_image as read_array
from fbnet_lesson.data.pictures import read_header, read_image, read_whole, turned, value_range


def saved(folder, picture, name="a.png", **options):
    picture.save(folder / name, **options)
    return folder / name


def grey(folder, values, name="a.tif"):
    """What a picture of the ``values`` (one row) is read as: one number a pixel."""
    path = saved(folder, Image.fromarray(np.atleast_2d(values)), name)
    pixels = read_array(path)
    assert (pixels == pixels[:, :, :1]).all()
    return pixels[0, :, 0].tolist()


def deep_png(path, values, colour):
    """A PNG file of 16 bits a colour, which Pillow cannot write."""

    def chunk(name, data):
        body = name + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    head = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return path


def oriented(folder, orientation, size=(6, 4), name="a.jpg", **options):
    """(path, upright pixels) of a file whose pixels are stored as the orientation says."""
    upright = np.zeros((size[1], size[0], 3), np.uint8)
    upright[: size[1] // 2, : size[0] // 2] = 255  # top left is white
    upright[-1, -1] = 128
    stored = Image.fromarray(np.repeat(np.repeat(upright, 8, 0), 8, 1))
    exif = Image.Exif()
    exif[0x0112] = orientation
    if orientation > 1:
        stored = stored.transpose(reader.BACK[orientation])
    return saved(folder, stored, name, exif=exif, **options), np.repeat(
        np.repeat(upright, 8, 0), 8, 1
    )


# Modes and depths


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
def test_a_picture_of_any_mode_becomes_rgb(tmp_path, mode):
    picture = Image.new("RGB", (4, 3), (255, 255, 255)).convert(mode)
    image = read_array(saved(tmp_path, picture, "a.jpg" if mode == "CMYK" else "a.png"))
    assert image.shape == (3, 4, 3) and image.dtype == np.uint8 and image.min() >= 254


def test_sixteen_bits_keep_their_range(tmp_path):
    for name in ("a.tif", "a.png"):
        assert grey(tmp_path, np.uint16([0, 256, 0x7FFF, 0xFFFF]), name) == [0, 1, 127, 255]


@pytest.mark.parametrize("bits", [9, 10, 11, 12, 13, 14, 15, 16])
def test_fewer_bits_in_sixteen_use_the_whole_range(tmp_path, bits):
    white = 2**bits - 1
    values = grey(tmp_path, np.uint16([0, white // 2, white]))
    full = 2 ** (bits + bits % 2) - 1
    assert values == [0, white // 2 * 256 // (full + 1), white * 256 // (full + 1)]
    assert values[2] >= 127


def test_eight_bits_in_sixteen_stay_what_they_are(tmp_path):
    assert grey(tmp_path, np.uint16([0, 7, 200, 255])) == [0, 7, 200, 255]


@pytest.mark.parametrize(
    ("values", "read"),
    [
        (np.float32([0, 0.5, 1]), [0, 128, 255]),
        (np.float32([0, 0.25]), [0, 64]),
        (np.float32([0, 100, 255]), [0, 100, 255]),
        (np.float32([0, 2048, 4095]), [0, 128, 255]),
        (np.float32([0, 1, 1.25]), [0, 204, 255]),
        (np.float32([-1, 0, 1]), [0, 128, 255]),
        (np.float32([np.nan, 0.5, np.inf]), [0, 128, 0]),
        (np.float32([np.nan, np.nan]), [0, 0]),
        (np.int32([-1000, 0, 3080]), [0, 62, 255]),
        (np.int32([0, 2**23, 2**24]), [0, 128, 255]),
        (np.int32([0, 4095]), [0, 255]),
        (np.int16([-5, 0, 5]), [0, 128, 255]),
    ],
    ids=lambda values: str(values) if isinstance(values, np.ndarray) else "",
)
def test_floats_signed_and_long_numbers_are_scaled_by_the_rule_that_is_said(tmp_path, values, read):
    if values.dtype == np.int16:  # Pillow writes no signed 16 bits
        assert reader.to_8_bits(values)[0].tolist() == read
    else:
        assert grey(tmp_path, values) == read


def test_a_black_picture_is_black():
    assert value_range(np.zeros(3, np.uint16)) == (0, 255)
    assert reader.to_8_bits(np.zeros((1, 3), np.float32))[0].tolist() == [[0, 0, 0]]


@pytest.mark.parametrize(("colour", "channels"), [(2, 3), (6, 4), (4, 2), (0, 1)])
def test_sixteen_bits_a_colour_keep_their_range_too(tmp_path, colour, channels):
    values = np.zeros((2, 3, channels), np.uint16)
    values[..., :3], values[0, 0, 0] = 2048, 4095
    if channels in (2, 4):
        values[..., -1] = 65535  # alpha, which has no part in it
    image = read_array(deep_png(tmp_path / "a.png", values, colour))
    assert image[1, 1].tolist() == [128] * 3 and image[0, 0, 0] == 255


def test_sixteen_bits_a_colour_of_a_cut_file_are_refused(tmp_path):
    values = np.random.default_rng(0).integers(0, 4095, (30, 30, 3))
    path = deep_png(tmp_path / "a.png", values, 2)
    os.truncate(path, 2000)
    with pytest.raises(ValueError, match=r"cannot read the picture .*a\.png"):
        read_image(path)


# Orientation


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif", "a.webp"])
@pytest.mark.parametrize("size", [(6, 4), (5, 5)])
def test_all_eight_orientations_are_applied_or_not(tmp_path, orientation, name, size):
    path, upright = oriented(tmp_path, orientation, size, name)
    header = read_header(path)
    assert header.orientation == orientation
    applied, stored = read_array(path, "apply"), read_array(path, "ignore")
    assert applied.shape[:2] == header.upright and stored.shape[:2] == header.size
    assert np.abs(applied.astype(int) - upright).max() < 60 and applied[0, 0].min() > 230
    turns = reader.BACK.get(orientation)
    again = Image.fromarray(applied) if turns is None else Image.fromarray(applied).transpose(turns)
    assert np.abs(np.asarray(again).astype(int) - stored).max() == 0


def test_the_size_of_the_annotations_tells_which_pixels_they_mean(tmp_path):
    header = read_header(oriented(tmp_path, 6)[0])  # stored as 32 x 48, height and width swapped
    assert turned(header, header.size) is False and turned(header, header.upright) is True
    square = read_header(oriented(tmp_path, 6, (5, 5))[0])
    mirrored = read_header(oriented(tmp_path, 2)[0])
    assert turned(square, square.size) is None and turned(mirrored, mirrored.size) is None
    with pytest.raises(ValueError, match="that of neither"):
        turned(header, (1, 1))


def test_nonsense_in_the_exif_block_is_no_orientation(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 9
    path = saved(tmp_path, Image.new("RGB", (4, 3)), "a.jpg", exif=exif)
    assert read_header(path).orientation == 1
    path.write_bytes(path.read_bytes().replace(b"Exif\0\0II", b"Exif\0\0??"))
    assert read_header(path).size == (3, 4) and read_image(path).size == (4, 3)


def one_picture(path, header, size):
    """A set of one picture with one object in the white corner of the upright picture."""
    height, width = size
    box = [0, 0, width / 2, height / 2]
    record = {"id": 1, "image_id": 1, "category_id": 1, "bbox": box, "iscrowd": 0}
    image = {"id": 1, "file_name": path.name, "width": width, "height": height}
    categories = [{"id": 1, "name": "a"}]
    return {"images": [image], "annotations": [record], "categories": categories}


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("size", [(6, 4), (5, 5)])
def test_a_training_picture_is_turned_where_its_size_says_so_and_else_on_demand(
    tmp_path, orientation, size
):
    path, upright = oriented(tmp_path, orientation, size)
    data = one_picture(path, None, upright.shape[:2])
    decided = orientation >= 5 and size == (6, 4)
    report = check_dataset(data, tmp_path)
    assert report.ok == decided
    if not decided:
        assert report.counts() == {"EXIF undecided": 1}
        with pytest.raises(ValueError, match=r"1 pictures \(image 1 is the first\) have an EXIF"):
            CocoDataset(data, tmp_path, on_defect="drop")
        stored, _ = CocoDataset(data, tmp_path, exif="ignore")[0]
        assert np.array_equal(stored.permute(1, 2, 0), read_array(path, "ignore"))
    image, target = CocoDataset(data, tmp_path, exif=None if decided else "apply")[0]
    x1, y1, x2, y2 = (int(v) for v in target["boxes"][0])
    assert image[:, y1 : y2 - 6, x1 : x2 - 6].min() > 200


def test_a_picture_in_stored_pixels_is_left_as_it_is_where_the_size_says_so(tmp_path):
    path, upright = oriented(tmp_path, 6)
    data = one_picture(path, None, upright.shape[1::-1])
    image, _ = CocoDataset(data, tmp_path)[0]
    assert np.array_equal(image.permute(1, 2, 0), read_array(path, "ignore"))


def test_an_impossible_way_to_read_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r'exif is \'maybe\'; it must be "apply" or "ignore"'):
        read_image(tmp_path / "a.png", "maybe")
    with pytest.raises(ValueError, match=r'exif is \'maybe\'; it must be "ignore" or "apply"'):
        CocoDataset({}, tmp_path, exif="maybe")


# Large, broken and missing files


def test_a_large_picture_is_read_without_a_warning_and_a_too_large_one_is_refused(
    tmp_path, monkeypatch, recwarn
):
    path = saved(tmp_path, Image.new("RGB", (100, 80)))
    monkeypatch.setattr(
        Image, "MAX_IMAGE_PIXELS", 5000
    )  # Pillow warns above, refuses twice as many
    assert read_image(path).size == (100, 80) and not recwarn.list
    monkeypatch.setattr(reader, "MAX_PIXELS", 7999)
    for read in (read_image, read_header, read_whole):
        with pytest.raises(ValueError, match=r"100 x 80 pixels; at most 7,999 are read, cut it"):
            read(path)


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.bmp", "a.tif", "a.webp", "a.gif"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_cut_file_is_found_without_decoding_the_others(tmp_path, name, share):
    noise = np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8)
    path = saved(tmp_path, Image.fromarray(noise), name)
    assert read_header(path).size == (60, 80)
    os.truncate(path, int(path.stat().st_size * share))
    with pytest.raises(ValueError, match=r"cannot read the picture .*a\."):
        read_header(path)


def test_a_picture_broken_in_the_middle_is_found_when_the_pictures_are_decoded(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8)
    path = saved(tmp_path, Image.fromarray(noise))
    data = bytearray(path.read_bytes())
    data[2000:2400] = bytes(400)
    path.write_bytes(data)
    assert read_header(path).size == (60, 80)
    with pytest.raises(ValueError, match="cannot read the picture"):
        read_whole(path)


def test_what_is_no_picture_is_told(tmp_path):
    with pytest.raises(ValueError, match=r"no such picture: .*none\.png"):
        read_image(tmp_path / "none.png")
    (tmp_path / "a.png").write_text("%PDF")
    with pytest.raises(ValueError, match=r"a\.png: it is none of JPEG, PNG, BMP"):
        read_image(tmp_path / "a.png")


def test_headers_of_common_files_are_those_that_pillow_reads(tmp_path):
    rng = np.random.default_rng(1)
    for number, options in enumerate(
        [{}, {"progressive": True}, {"quality": 100, "subsampling": 0}, {"comment": b"x" * 3000}]
    ):
        size = tuple(rng.integers(1, 90, 2))
        noise = Image.fromarray(rng.integers(0, 255, (size[1], size[0], 3), np.uint8))
        path = saved(tmp_path, noise, f"{number}.jpg", **options)
        assert read_header(path).size == size[::-1] == read_array(path).shape[:2]
        trailed = tmp_path / "trailed.jpg"  # as some cameras do
        trailed.write_bytes(path.read_bytes() + bytes(5000))
        assert read_header(trailed).size == size[::-1]


# What is remembered


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("FBNET_LESSON_CACHE", str(tmp_path / "cache"))
    (tmp_path / "images").mkdir()
    for i in range(5):
        Image.new("RGB", (8, 6), (i, 0, 0)).save(tmp_path / "images" / f"{i}.png")
    return tmp_path / "images"


@pytest.fixture
def reads(monkeypatch):
    """The names of the files that are read, as they are."""
    names = []

    def noting(function):
        return lambda path: names.append(os.path.basename(path)) or function(path)

    monkeypatch.setattr(headers, "read_header", noting(read_header))
    monkeypatch.setattr(headers, "read_whole", noting(read_whole))
    return names


def plain_set(folder):
    images = [
        {"id": i, "file_name": f"{i}.png", "width": 8, "height": 6}
        for i in range(len(list(folder.iterdir())))
    ]
    return {"images": images, "annotations": [], "categories": [{"id": 1, "name": "a"}]}


def test_headers_of_unchanged_pictures_are_not_read_again(folder, reads):
    CocoDataset(plain_set(folder), folder)
    assert sorted(reads) == [f"{i}.png" for i in range(5)]
    CocoDataset(plain_set(folder), folder)
    assert len(reads) == 5
    Image.new("RGB", (8, 6), (9, 9, 9)).save(folder / "2.png")
    os.utime(folder / "2.png", ns=(1, 1))
    CocoDataset(plain_set(folder), folder)
    assert reads[5:] == ["2.png"]


def test_a_check_decodes_once_what_an_opening_has_not(folder, reads):
    CocoDataset(plain_set(folder), folder)
    check_dataset(plain_set(folder), folder)
    assert len(reads) == 10
    check_dataset(plain_set(folder), folder)
    CocoDataset(plain_set(folder), folder)
    assert len(reads) == 10


def test_a_changed_picture_is_a_defect_at_the_next_opening(folder):
    CocoDataset(plain_set(folder), folder)
    Image.new("RGB", (9, 6)).save(folder / "2.png")
    with pytest.raises(ValueError, match="image size"):
        CocoDataset(plain_set(folder), folder)


def test_a_broken_or_unwritable_memory_costs_only_time(folder, reads, monkeypatch):
    CocoDataset(plain_set(folder), folder)
    (notes,) = (folder.parent / "cache" / "pictures").iterdir()
    for text in ("", "[]", '{"version": 1}', notes.read_text().replace("[", "[[", 1)):
        notes.write_text(text)
        assert len(CocoDataset(plain_set(folder), folder)) == 5
    assert len(reads) == 25
    (folder.parent / "file").touch()
    monkeypatch.setenv("FBNET_LESSON_CACHE", str(folder.parent / "file"))
    assert len(CocoDataset(plain_set(folder), folder)) == 5


def test_pictures_that_change_behind_a_data_set_are_an_error_that_names_them(folder):
    dataset = CocoDataset(plain_set(folder), folder)
    Image.new("RGB", (9, 6)).save(folder / "2.png")
    with pytest.raises(ValueError, match=r"2\.png has changed since it was checked"):
        dataset[2]


def test_pictures_are_not_opened_where_that_is_not_wanted(folder, reads):
    (folder / "2.png").write_text("no picture")
    report = check_dataset(plain_set(folder), folder, pictures="none")
    assert report.ok and reads == []
    assert check_dataset(plain_set(folder), folder).counts() == {"unreadable image": 1}


def test_bytes_and_names_of_every_sort_are_read_alike(folder):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6)).save(buffer, "PNG")
    for name in ("ä ö.png", "日本.png", "100%.png", "a#b.png", "-x.png", "a:b.png"):
        (folder / name).write_bytes(buffer.getvalue())
        data = plain_set(folder) | {
            "images": [{"id": 1, "file_name": name, "width": 8, "height": 6}]
        }
        assert CocoDataset(data, folder).file_names == [name]

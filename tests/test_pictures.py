"""Pictures of every kind are opened as people see them, and rows keep them whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, UnidentifiedImageError

from ftx import DataError, Picture
from ftx.data.conversation import IMAGE, Conversation, Message
from ftx.data.images import look_at, open_picture, open_rgb
from ftx.data.store import Store, Writer
from ftx.data.template import IMAGE_ID, Encoded, Placed


def halves(size: tuple[int, int] = (60, 40)) -> Image.Image:
    """Red above, blue below."""
    image = Image.new("RGB", size, "red")
    image.paste("blue", (0, size[1] // 2, *size))
    return image


def seen(path: Path) -> Image.Image:
    picture = look_at(path.parent, path.name)
    opened = open_picture(picture)
    assert opened.mode == "RGB"
    assert opened.size == (picture.width, picture.height)
    return opened


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_is_turned_as_its_camera_was(orientation: int, tmp_path: Path) -> None:
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Pillow's transposition that a viewer undoes
    stored = halves() if orientation == 1 else halves().transpose(Image.Transpose(undo[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "photo.png", exif=exif)
    opened = seen(tmp_path / "photo.png")
    assert opened.size == (60, 40)
    assert (opened.getpixel((30, 5)), opened.getpixel((30, 35))) == ((255, 0, 0), (0, 0, 255))


def test_what_is_transparent_stands_on_white(tmp_path: Path) -> None:
    clear = halves().convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize((60, 40)).point(lambda value: 255 if value > 127 else 0))
    clear.save(tmp_path / "clear.png")
    clear.quantize(16).save(tmp_path / "palette.png")
    Image.merge("LA", [Image.new("L", (60, 40), 7), clear.getchannel("A")]).save(tmp_path / "grey.png")
    for name in ("clear", "palette", "grey"):
        opened = seen(tmp_path / f"{name}.png")
        assert opened.getpixel((30, 2)) == (255, 255, 255), name
        assert opened.getpixel((30, 38)) == ((7, 7, 7) if name == "grey" else (0, 0, 255)), name


def test_grey_of_any_depth(tmp_path: Path) -> None:
    wide = np.linspace(0, 65535, 60 * 40).reshape(40, 60)
    Image.fromarray(wide.astype(np.uint16)).save(tmp_path / "16.png")
    Image.fromarray((wide / 65535).astype(np.float32)).save(tmp_path / "float.tiff")
    Image.fromarray((wide / 257).astype(np.uint8)).save(tmp_path / "8.png")
    Image.fromarray(wide > 30000).save(tmp_path / "1.png")
    reference = np.asarray(seen(tmp_path / "8.png")).astype(int)
    assert abs(np.asarray(seen(tmp_path / "16.png")).astype(int) - reference).max() <= 1
    assert abs(np.asarray(seen(tmp_path / "float.tiff")).astype(int) - reference).max() <= 1
    assert set(np.asarray(seen(tmp_path / "1.png")).flatten()) == {0, 255}


def test_print_colours_and_animations(tmp_path: Path) -> None:
    halves().convert("CMYK").save(tmp_path / "print.jpg", quality=95)
    frames = [halves(), Image.new("RGB", (60, 40), "green")]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / "moving.webp", save_all=True, append_images=frames[1:], lossless=True)
    for name in ("print.jpg", "moving.gif", "moving.webp"):
        opened = seen(tmp_path / name)
        red, blue = opened.getpixel((30, 5)), opened.getpixel((30, 35))
        assert red[0] > 200 and max(red[1:]) < 60, name  # type: ignore[index,type-var]
        assert blue[2] > 200 and max(blue[:2]) < 60, name  # type: ignore[index,type-var]


def test_a_strip_is_no_picture(tmp_path: Path) -> None:
    from ftx import RowError

    for size, words in {
        (1, 10_000): "more than 200 times as long as wide",
        (201, 1): "crop it",
        (16_385, 90): "below",
    }.items():
        Image.new("L", size).save(tmp_path / "strip.png")
        with pytest.raises(RowError, match=words):
            look_at(tmp_path, "strip.png")
    Image.new("L", (200, 1)).save(tmp_path / "strip.png")
    assert look_at(tmp_path, "strip.png").width == 200


def test_no_decoder_that_starts_a_program_is_used(tmp_path: Path) -> None:
    from ftx import RowError

    path = tmp_path / "x.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    with Image.open(path) as image:
        assert image.format == "EPS"
    with pytest.raises(RowError, match="is no picture"):
        look_at(tmp_path, "x.png")
    with pytest.raises(UnidentifiedImageError):
        open_rgb(path)


def test_a_file_that_changed_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    halves().save(path)
    picture = look_at(tmp_path, "a.png")
    halves((61, 40)).save(path)
    with pytest.raises(DataError, match="has changed since the data were prepared"):
        open_picture(picture)
    path.unlink()
    with pytest.raises(DataError, match="does not open"):
        open_picture(picture)


def picture(name: str) -> Picture:
    return Picture(f"/there/{name}", 30, 20, 1, 2, name)


def test_the_store_keeps_pictures_with_their_samples(tmp_path: Path) -> None:
    rows = [
        Encoded([1, 2, 3], b"\0\1\1"),
        Encoded(
            [1, IMAGE_ID, IMAGE_ID, 4, IMAGE_ID],
            b"\0\0\0\1\0",
            (Placed(picture('a\n,"é'), 1, 3), Placed(picture("b"), 4, 5)),
        ),
        Encoded([5], b"\1"),
        Encoded([IMAGE_ID, 6], b"\0\1", (Placed(picture("b"), 0, 1),)),
    ]
    digests = set()
    for there in ("here", "there"):
        (tmp_path / there).mkdir()
        with Writer(tmp_path / there) as writer:
            for row in rows:
                writer.add(row)
            digests.add(writer.digest())
        store = Store(tmp_path / there)
        assert [store[i].pictures for i in range(4)] == [row.pictures for row in rows]
        assert store.pictured.tolist() == [False, True, False, True]
        assert [one.digest for one in store.pictures()] == ['a\n,"é', "b", "b"]
    assert len(digests) == 1
    (tmp_path / "here" / "pictures.jsonl").write_text("")
    with pytest.raises(ValueError, match="do not fit each other"):
        Store(tmp_path / "here")


def test_no_cut_divides_a_picture() -> None:
    row = Encoded([1, 7, IMAGE_ID, IMAGE_ID, 8, 3, 4], b"\0" * 7, (Placed(picture("a"), 1, 5),))
    assert [len(row.part(0, stop).ids) for stop in range(1, 8)] == [1, 1, 1, 1, 5, 6, 7]
    assert row.part(0, 4).pictures == ()
    assert row.part(0, 5).pictures == row.pictures


def test_a_message_cut_short_keeps_the_pictures_before_the_cut() -> None:
    told = Message("user", f"{IMAGE}a", images=("x", "y"), pictures=(picture("x"), picture("y")))
    assert Conversation((told,)).pictures == [picture("x")]


def test_open_rgb_opens_a_plain_picture_as_pillow_does(tmp_path: Path) -> None:
    halves().save(tmp_path / "a.bmp")
    assert np.array_equal(np.asarray(open_rgb(tmp_path / "a.bmp")), np.asarray(halves()))

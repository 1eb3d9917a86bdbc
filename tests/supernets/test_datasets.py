"""A user's images: the pixels the server makes, in seeded orders, and errors that name the file."""

import io
from dataclasses import asdict
from itertools import islice

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from supernets import create_supernet
from supernets.data import digits_data
from supernets.data.datasets import LabelledImages, Piece, open_images
from supernets.data.image_sources import Augmentation, TorchSource
from supernets.data.pixels import centre, decode, normalise, random_crop
from supernets.digits import PREPROCESSING, WEIGHTS
from supernets.errors import DataError
from supernets.supernet import Preprocessing
from superserve import messages
from superserve.decode import decode as server_decode
from superserve.engine import Engine
from superserve.engine_types import EngineSpec

COLOUR = Preprocessing.imagenet(24)
GREY = Preprocessing(20, 28, 1, (0.3,), (0.2,), crop=0.9, ink_on_dark=True)


def picture(width, height, seed=0, mode="RGB"):
    """Colourful, without symmetry, and bright at the border: nothing hides a turn or a crop."""
    noise = np.random.default_rng(seed).integers(0, 256, (6, 7, 4), dtype=np.uint8)
    image = Image.fromarray(noise, "RGBA" if mode == "RGBA" else None)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    return image if mode == "RGBA" else image.convert("RGB").convert(mode)


def encoded(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def turned(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return {"exif": exif}


FILES = {
    "small-jpeg": encoded(picture(31, 17), "JPEG", quality=90),
    "large-jpeg": encoded(picture(900, 611), "JPEG", quality=80, progressive=True),
    "grey-jpeg": encoded(picture(400, 300, mode="L"), "JPEG"),
    **{f"turned-{n}": encoded(picture(300, 211), "JPEG", **turned(n)) for n in range(1, 9)},
    "png": encoded(picture(77, 50), "PNG"),
    "transparent": encoded(picture(60, 80, mode="RGBA"), "PNG"),
    "palette": encoded(picture(60, 80).quantize(16), "PNG"),
    "deep": encoded(Image.fromarray(np.arange(0, 65000, 13, np.uint16).reshape(50, 100)), "PNG"),
    "webp": encoded(picture(123, 45), "WEBP"),
}


@pytest.mark.parametrize("step", [COLOUR, GREY], ids=["colour", "grey"])
@pytest.mark.parametrize("name", FILES)
def test_a_file_gives_the_same_pixels_here_and_in_the_server(name, step):
    """Bit for bit: both shrink, turn, crop, resize and round alike, so there is no tolerance."""
    theirs = np.zeros((step.height, step.width, step.channels), np.uint8)
    wire = messages.Preprocessing(**asdict(step))
    server_decode(FILES[name], wire, theirs, max_pixels=10**7)

    ours = decode(FILES[name], step, centre(step))

    assert theirs.std() > 5
    assert np.array_equal(ours, theirs)


def test_a_worker_feeds_its_net_the_same_tensor():
    engine = Engine(EngineSpec(supernet="digits", device="cpu", threads=1))
    fed = []
    engine._net = lambda x, _subnet: fed.append(x.clone()) or torch.zeros(len(x), 10)
    pixels, _ = digits_data.evaluation_set("report", 1)
    engine.run("digits", next(iter(engine._subnets)), pixels[:9], 1)

    assert torch.equal(normalise(pixels[:9], PREPROCESSING), fed[0])


def test_normalising_is_the_plain_formula():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 3), dtype=np.uint8)
    mean, std = torch.tensor(COLOUR.mean), torch.tensor(COLOUR.std)
    plain = ((torch.from_numpy(pixels).double() / 255 - mean) / std).permute(0, 3, 1, 2)

    torch.testing.assert_close(normalise(pixels, COLOUR).double(), plain, rtol=1e-5, atol=1e-6)


def test_cmyk_jpegs_of_training_data_are_read():
    data = encoded(picture(64, 64).convert("CMYK"), "JPEG")

    assert decode(data, COLOUR, centre(COLOUR)).std() > 5


def folder(root, classes=("ant", "bee", "cat"), count=4):
    """Each image's first pixel tells its class and number."""
    for label, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for number in range(count):
            image = Image.new("RGB", (24, 24), (label * 50 + 20, number * 20, 100))
            image.save(root / name / f"{number}.png")
    return root


FLAT = Preprocessing(24, 24, 3, (0.0,) * 3, (1.0,) * 3)


def seen(batches):
    """(class, number) of each image as `folder` painted it, and the labels."""
    rows = [(x[:, :2, 0, 0] * 255, labels) for x, labels in batches]
    colours = torch.cat([x for x, _ in rows])
    labels = torch.cat([labels for _, labels in rows])
    painted = [(round((r - 20) / 50), round(g / 20)) for r, g in colours.tolist()]
    return painted, labels.tolist()


def test_a_folder_is_read_in_order_with_its_classes_by_name(tmp_path):
    data = open_images(folder(tmp_path), FLAT)
    painted, labels = seen(data.batches(5))

    assert data.classes == ("ant", "bee", "cat")
    assert painted == [(c, n) for c in range(3) for n in range(4)]
    assert labels == [c for c, _ in painted]


def test_labels_follow_the_supernet_and_not_the_alphabet(tmp_path):
    data = open_images(folder(tmp_path), FLAT, ["cat", "ant", "bee"])
    painted, labels = seen(data.batches(4))

    assert [{0: 1, 1: 2, 2: 0}[c] for c, _ in painted] == labels
    assert data.classes == ("cat", "ant", "bee")


def test_numbered_folders_match_labels_in_words_by_position_and_say_so(tmp_path):
    data = open_images(folder(tmp_path, ("n01", "n02", "n03")), FLAT, ["x", "a", "m"])

    assert seen(data.batches(4))[1] == [0] * 4 + [1] * 4 + [2] * 4
    assert "by position" in data.name


def test_batches_can_be_iterated_again_and_are_the_same(tmp_path):
    batches = open_images(folder(tmp_path), FLAT).batches(5)
    first, again = list(batches), list(batches)

    assert len(batches) == len(first) == 3
    assert [len(labels) for _, labels in first] == [5, 5, 2]
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(first, again, strict=True))


def test_a_subset_is_seeded_and_without_repeats(tmp_path):
    data = open_images(folder(tmp_path, count=9), FLAT)
    chosen = seen(data.subset(10, seed=1).batches(4))[0]

    assert chosen == seen(data.subset(10, seed=1).batches(4))[0]
    assert chosen != seen(data.subset(10, seed=2).batches(4))[0]
    assert len(set(chosen)) == 10
    assert len(data.subset(99)) == 27


def test_the_three_parts_are_disjoint_and_complete(tmp_path):
    data = open_images(folder(tmp_path, count=10), FLAT)
    parts = [
        set(seen(data.piece(Piece(part, (8, 1, 1), seed=3)).batches(7))[0])
        for part in ("train", "select", "report")
    ]

    assert [len(part) for part in parts] == [24, 3, 3]
    assert set.union(*parts) == set(seen(data.batches(7))[0])


def test_a_part_without_a_share_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"select part .* is empty"):
        open_images(folder(tmp_path), FLAT, piece=Piece("select", (1, 0, 1)))


def test_the_fingerprint_tells_data_apart(tmp_path):
    root = folder(tmp_path)
    data = open_images(root, FLAT)
    prints = [
        data.fingerprint(),
        data.subset(5).fingerprint(),
        data.subset(5, seed=1).fingerprint(),
        open_images(root, COLOUR).fingerprint(),
        open_images(root, FLAT, ["cat", "ant", "bee"]).fingerprint(),
    ]
    (root / "ant" / "3.png").rename(root / "ant" / "other.png")
    prints.append(open_images(root, FLAT).fingerprint())

    assert open_images(root, FLAT).fingerprint() == prints[-1]
    assert len(set(prints)) == 6


def test_the_fingerprint_changes_with_a_file_s_content_and_with_labels(tmp_path):
    root = folder(tmp_path)
    before = open_images(root, FLAT).fingerprint()
    (root / "ant" / "3.png").write_bytes((root / "bee" / "3.png").read_bytes() + b"more")
    assert open_images(root, FLAT).fingerprint() != before

    class Labelled(list):
        classes = ("a", "b")

    images = [np.full((8, 8), 50, np.uint8)] * 4
    prints = {
        LabelledImages(
            TorchSource(Labelled((Image.fromarray(i), label) for i in images), "x", FLAT), FLAT
        ).fingerprint()
        for label in (0, 1)
    }
    assert len(prints) == 2


def test_training_batches_do_not_depend_on_where_one_starts(tmp_path):
    batches = open_images(folder(tmp_path), FLAT).training_batches(5, 1, Augmentation())
    whole = list(islice(batches(0), 6))
    rest = list(islice(batches(4), 2))

    for (a, la), (b, lb) in zip(whole[4:], rest, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(la, lb)


def test_training_shows_every_image_once_before_any_again(tmp_path):
    batches = open_images(folder(tmp_path), FLAT).training_batches(5, seed=1)
    painted, labels = seen(islice(batches(0), 12))  # 60 images: five times all twelve

    epochs = [painted[i : i + 12] for i in range(0, 60, 12)]
    assert all(len(set(epoch)) == 12 for epoch in epochs)
    assert epochs[0] != epochs[1]
    assert labels == [c for c, _ in painted]


def test_augmentation_is_seeded_and_varies(tmp_path):
    (tmp_path / "a").mkdir()
    picture(200, 150).save(tmp_path / "a" / "0.jpg")
    data = open_images(tmp_path, COLOUR)
    first, again, other = (
        torch.cat([x for x, _ in islice(data.training_batches(1, seed, Augmentation())(0), 4)])
        for seed in (1, 1, 2)
    )

    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert len(torch.unique(first.flatten(1), dim=0)) == 4


def test_a_flip_is_the_mirror_image(tmp_path):
    (tmp_path / "a").mkdir()
    picture(40, 40).save(tmp_path / "a" / "0.png")
    step = Preprocessing(40, 40, 3, (0.5,) * 3, (0.5,) * 3)
    data = open_images(tmp_path, step)
    whole = Augmentation(area=(1.0, 1.0), ratio=(1.0, 1.0), flip=1.0)
    mirrored, _ = next(data.training_batches(1, 0, whole)(0))
    plain, _ = next(iter(data.batches(1)))

    assert torch.equal(mirrored, plain.flip(3))


def test_random_crops_lie_inside_and_keep_their_share_of_the_area():
    step = Preprocessing(20, 40, 3, (0.5,) * 3, (0.5,) * 3)
    shares = []
    for seed in range(200):
        random = np.random.default_rng(seed)
        crop = random_crop(step, random, area=(0.2, 0.6), ratio=(0.8, 1.25))
        left, top, right, bottom = crop((300, 200))
        assert 0 <= left < right <= 300
        assert 0 <= top < bottom <= 200
        assert 0.8 - 1e-9 <= (right - left) / (bottom - top) / 2 <= 1.25 + 1e-9
        shares.append((right - left) * (bottom - top) / 60_000)

    assert 0.2 <= min(shares) < 0.25
    assert 0.55 < max(shares) <= 0.6


class Listed(Dataset[tuple[object, int]]):
    """A torch data set of whatever it is given."""

    def __init__(self, items, classes=()):
        self.items = items
        if classes:
            self.classes = classes

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


def make_pictures():
    return Listed([(picture(50, 40, seed), seed % 2) for seed in range(5)], ["no", "yes"])


def make_text():
    return Listed([("text", 0)])


def first_image(source, **options):
    return next(iter(open_images(source, COLOUR, **options).batches(9)))[0]


def test_a_torch_data_set_may_give_images_or_bytes_or_shares_of_one():
    image = picture(50, 40)
    raw = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    expected = decode(encoded(image, "PNG"), COLOUR, centre(COLOUR))[None]
    for item in (image, raw, raw.float() / 255):
        assert torch.equal(first_image(Listed([(item, 0)])), normalise(expected, COLOUR))


def test_a_function_that_returns_a_data_set_is_named_by_module():
    data = open_images(f"{__name__}:make_pictures", COLOUR, ["yes", "no"])
    labels = torch.cat([labels for _, labels in data.batches(2)])

    assert labels.tolist() == [1, 0, 1, 0, 1]
    assert len(data) == 5


def test_digits_are_the_fixed_evaluation_set_of_their_split():
    data = open_images("digits:report", PREPROCESSING, create_supernet("digits").labels)
    images, labels = digits_data.evaluation_set("report", 16)
    x, found = next(iter(data.batches(30)))

    assert torch.equal(x, normalise(images[:30], PREPROCESSING))
    assert found.tolist() == labels[:30].tolist()
    assert len(data) == 6400
    assert data.clusters is not None
    assert np.unique(data.clusters).size == 400


def test_copies_of_a_digit_stay_in_one_part():
    data = open_images("digits:select", PREPROCESSING)
    parts = [
        set(data.piece(Piece(part, (2, 1, 1))).clusters) for part in ("train", "select", "report")
    ]

    assert not parts[0] & parts[1]
    assert not parts[0] & parts[2]
    assert sum(len(part) for part in parts) == 300


def test_digits_are_distorted_afresh_in_training():
    data = open_images("digits:train", PREPROCESSING)
    (x, _), (y, _) = (next(data.training_batches(4, 0, a)(0)) for a in (Augmentation(), None))

    assert x.shape == y.shape == (4, 1, 32, 32)
    assert not torch.equal(x, y)


def test_a_folder_without_labels_serves_calibration(tmp_path):
    for number in range(3):
        picture(30, 30, number).save(tmp_path / f"{number}.jpg")
    data = open_images(tmp_path, COLOUR, labelled=False)

    assert len(data) == 3
    with pytest.raises(DataError, match="holds no images"):
        open_images(tmp_path, COLOUR)


def broken(root):
    (root / "bee" / "2.png").write_bytes(FILES["png"][:200])
    return root


def cut_off(root):
    (root / "bee" / "2.jpg").write_bytes(FILES["large-jpeg"][:500])
    return root


def empty_class(root):
    (root / "dog").mkdir()
    return root


def test_hidden_files_are_not_images(tmp_path):
    root = folder(tmp_path)
    (root / "bee" / "._2.png").write_bytes(b"resource fork")
    (root / ".thumbnails").mkdir()

    assert len(seen(open_images(root, FLAT).batches(4))[0]) == 12


@pytest.mark.parametrize(
    ("spoil", "labels", "message"),
    [
        (broken, None, r"bee/2\.png"),
        (cut_off, None, r"bee/2\.jpg"),
        (empty_class, None, "class folder .*dog"),
        (lambda root: root, ["a", "b"], "has 3 classes .* this supernet has 2"),
        (lambda root: root, ["ant", "bee", "dog"], "cat; those labels have no class there: dog"),
        (lambda root: root / "none", None, "no folder .*none"),
        (lambda root: root / "ant", None, "holds no images"),
        (lambda root: "digits:test", None, "no split 'test'"),
        (lambda root: "digits:train", None, "32 x 32"),
        (lambda root: "no_such_module:f", None, "no_such_module"),
        (lambda root: f"{__name__}:make_text", None, "item 0 of .*make_text"),
        (lambda root: f"{__name__}:Dataset", None, "no map-style data set"),
        (lambda root: Listed([]), None, "empty"),
        (lambda root: Listed([(torch.randn(3, 9, 9), 0)]), None, "item 0 .*normalise"),
        (lambda root: Listed([(torch.zeros(5, 9, 9), 0)]), None, "1 or 3 channels"),
        (lambda root: Listed([(picture(9, 9), 2)]), ["a", "b"], "image of class 2"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(spoil, labels, message, tmp_path):
    source = spoil(folder(tmp_path))
    with pytest.raises(DataError, match=message):
        list(open_images(source, FLAT, labels).batches(4))


def test_stopping_half_way_leaves_no_thread_behind(tmp_path):
    import threading

    data = open_images(folder(tmp_path), FLAT)
    before = threading.active_count()
    iterator = iter(data.batches(2))
    next(iterator)
    assert threading.active_count() > before
    iterator.close()

    assert threading.active_count() == before


def test_offline_logits_are_those_of_the_engine_for_the_same_file(tmp_path):
    """From the file to the answer: the class and probability that a worker gives."""
    (tmp_path / "seven").mkdir()
    png = digits_data.as_png(digits_data.evaluation_set("report", 1)[0][3])
    (tmp_path / "seven" / "0.png").write_bytes(png)
    net = create_supernet("digits", WEIGHTS)
    x, _ = next(iter(open_images(tmp_path, net.preprocessing).batches(1)))
    engine = Engine(EngineSpec(supernet="digits", device="cpu", threads=1))
    subnet = next(iter(net.statistics))
    pixels = np.zeros((1, 32, 32, 1), np.uint8)
    server_decode(png, engine.models[0].preprocessing, pixels[0], max_pixels=10**6)
    served = engine.run("digits", subnet.id, pixels, 10)
    offline = net.resident()(x, subnet).softmax(1)[0]

    assert isinstance(offline, Tensor)
    assert served.indices[0].tolist() == offline.argsort(descending=True).tolist()
    assert np.array_equal(served.scores[0], offline.sort(descending=True).values.numpy())
    assert isinstance(open_images(tmp_path, net.preprocessing), LabelledImages)

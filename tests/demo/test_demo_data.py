"""The pictures and the held-out list, on a small made-up package so that nothing is downloaded."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image

from lab.demo.data import (
    HELD_OUT_LIST,
    PACKAGE_CATEGORIES,
    PICTURE_LIST,
    choose_held_out,
    load_picture,
    load_pictures,
    read_list,
    split,
)
from lab.demo.model import CATEGORIES


def write_package(folder, names_by_category):
    """A package with one-colour pictures, plus one picture of a category that is not used."""
    (folder / "img" / "google" / "64").mkdir(parents=True)
    entries = []
    for category, names in {**names_by_category, "Flags": ["flag.png"]}.items():
        for name in names:
            Image.new("RGBA", (64, 64), (255, 0, 0, 128)).save(folder / "img" / "google" / "64" / name)
            entries.append({"image": name, "category": category, "has_img_google": True})
    (folder / "emoji.json").write_text(json.dumps(entries), encoding="utf-8")


def by_category(path):
    """The names of each category, as a committed list groups them."""
    lists, category = {}, ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("# "):
            category = line[2:]
        else:
            lists.setdefault(category, []).append(line)
    return lists


def test_a_tenth_of_each_category_is_held_out():
    listed, held_out = by_category(PICTURE_LIST), by_category(HELD_OUT_LIST)
    assert list(listed) == list(held_out) == list(CATEGORIES)
    for category, names in listed.items():
        assert held_out[category] == choose_held_out(names)
        assert len(held_out[category]) == round(len(names) / 10)
    assert len(read_list(PICTURE_LIST)) == sum(map(len, listed.values())), "a name is listed twice"


def test_the_choice_does_not_depend_on_the_order():
    names = [f"{number:x}.png" for number in range(100)]
    chosen = choose_held_out(names)
    assert chosen == choose_held_out(reversed(names))
    assert len(chosen) == 10
    assert chosen != sorted(names)[:10]


def test_held_out_pictures_are_never_trained_on(tmp_path):
    listed, held_out = by_category(PICTURE_LIST), by_category(HELD_OUT_LIST)
    names = {}
    for package_name, category in PACKAGE_CATEGORIES.items():
        others = [name for name in listed[category] if name not in held_out[category]]
        names[package_name] = [*held_out[category][:2], *others[:3], f"{category}-unlisted.png"]
    write_package(tmp_path, names)
    trained_on, kept_back = split(load_pictures(tmp_path))
    assert not set(trained_on.names) & read_list(HELD_OUT_LIST)
    assert set(kept_back.names) <= read_list(HELD_OUT_LIST)
    assert (len(trained_on.names), len(kept_back.names)) == (9, 6), "an unlisted picture came in, or one got lost"
    assert trained_on.labels.bincount().tolist() == [3, 3, 3]
    for name, label in zip(trained_on.names, trained_on.labels.tolist(), strict=True):
        assert name in listed[CATEGORIES[label]]


def test_pictures_are_laid_on_white(tmp_path):
    Image.new("RGBA", (64, 64), (255, 0, 0, 51)).save(tmp_path / "pale.png")  # a fifth of red
    picture = load_picture(tmp_path / "pale.png")
    assert picture.shape == (3, 32, 32)
    torch.testing.assert_close(picture[:, 0, 0], torch.tensor([1.0, 0.8, 0.8]))


def test_other_sizes_are_refused(tmp_path):
    Image.new("RGBA", (72, 64)).save(tmp_path / "wide.png")
    with pytest.raises(ValueError, match="expected 64x64 pixels, found 72x64"):
        load_picture(tmp_path / "wide.png")


def test_a_folder_without_the_package_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no emoji\.json"):
        load_pictures(tmp_path)

"""The twin's weights, kept as a difference from the model's."""

import hashlib
import json

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.testbed.shape import MODEL_FILE, TWIN_FILE
from lab.testbed.twin_file import DIFFERENCE_FILE, difference, restore, twin_of

NUMBERS = st.lists(st.tuples(st.integers(-(2**15), 2**15 - 1), st.integers(-(2**15), 2**15 - 1)), max_size=30)


def file_of(numbers, note):
    """Bytes in the form of a .safetensors file: length, header, numbers of 16 bits."""
    header = json.dumps({"note": note}).encode()
    return len(header).to_bytes(8, "little") + header + numpy.array(numbers, dtype=numpy.int16).tobytes()


@given(NUMBERS, st.text(max_size=9))
def test_whatever_the_numbers_the_twin_comes_back_byte_by_byte(pairs, note):
    model, twin = file_of([a for a, _ in pairs], "model"), file_of([b for _, b in pairs], note)
    assert twin_of(model, difference(model, twin)) == twin


@pytest.mark.parametrize("other", [[1, 2, 4], [1, 2]])
def test_the_difference_from_another_model_is_refused(other):
    kept = difference(file_of([1, 2, 3], "model"), file_of([5, 6, 7], "twin"))
    with pytest.raises(ValueError, match="another model"):
        twin_of(file_of(other, "model"), kept)


def test_files_of_two_networks_have_no_difference():
    with pytest.raises(ValueError, match="3 numbers and the model 2"):
        difference(file_of([1, 2], ""), file_of([1, 2, 3], ""))


def test_the_kept_twin_is_the_one_whose_samples_were_measured(tmp_path):
    restored = restore(tmp_path / TWIN_FILE.name).read_bytes()
    assert hashlib.sha256(restored).digest() == DIFFERENCE_FILE.read_bytes()[:32]
    assert len(restored) == MODEL_FILE.stat().st_size

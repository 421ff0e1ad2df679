"""The processes that the benchmarks start do start. Durations are not tested."""

from __future__ import annotations

import pytest

from lab.benchmarks.import_time import measure_import


@pytest.mark.newest
def test_the_import_of_the_pack_is_timed(comfyui):
    (seconds,) = measure_import(comfyui, 1)
    assert seconds > 0

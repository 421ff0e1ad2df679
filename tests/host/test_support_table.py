"""docs/support.md says what the tests run."""

from __future__ import annotations

from lab.generate.support_table import PAGE, page

NEEDS_A_HOST = False


def test_the_page_is_what_the_rows_give():
    assert PAGE.read_text(encoding="utf-8") == page(), "run: python -m lab.generate.support_table"

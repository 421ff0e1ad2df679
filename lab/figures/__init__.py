"""Commands that make the committed pictures; `makers.py` and docs/figures.md say which makes which."""

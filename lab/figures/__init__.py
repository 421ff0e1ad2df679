"""Commands that make the committed pictures; docs/figures.md lists which makes which."""

"""The pages of the test bed: docs/evidence.md, docs/evidence_details.md and their pictures, from the numbers."""

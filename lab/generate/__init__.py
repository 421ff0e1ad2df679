"""Commands that write committed files: schemas and promise, the support table, workflows, the archive."""

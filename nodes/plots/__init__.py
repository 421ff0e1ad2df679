"""Pictures drawn with matplotlib. These are the only files that import it."""

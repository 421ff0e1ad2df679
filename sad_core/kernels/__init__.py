"""A kernel for graphics cards that computes a whole retrieval in one pass, and the rules for where it runs.

Nothing in this folder is needed for a result. Where Triton or the card is missing, queries and keys of twice the head
dim do the same work (`sad_core/decomposition.py`).
"""

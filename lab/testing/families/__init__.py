"""Tiny models of the real classes of every family that ComfyUI hosts."""

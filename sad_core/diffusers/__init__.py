"""γ in the models of diffusers: which layers there are, and how their attention is reached.

Nothing here imports diffusers.
"""

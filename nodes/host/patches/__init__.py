"""The functions of ours at the attention sites of a model, and the state of one sampling run."""

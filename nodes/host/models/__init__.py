"""The model families that ComfyUI hosts, and the attention sites of one loaded model."""

"""The only folder that imports ComfyUI: attention sites, patches, run state, progress, messages."""

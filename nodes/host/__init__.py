"""The only folder that imports `comfy`: attention sites, patches, run state, progress, the browser."""

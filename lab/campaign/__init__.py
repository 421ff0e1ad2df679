"""Long tries of the pack on a real ComfyUI, with seeds: `python -m lab.campaign` lists the parts."""

"""Measure on the test bed what acting on stability is worth: feedback, best of N, the slider, the shift sentence.

    python -m lab.testbed.acting draw --folder F --device cuda     # draw; needs a ComfyUI, kept part by part
    python -m lab.testbed.acting measure --folder F                # measure what was drawn; writes acting.json

Choices (baselines, strengths, thresholds, predictors) are made on the seeds from 2,000,000 on, and numbers are
reported on those from 3,000,000 on. Nothing else uses these seeds.
"""

"""A model call or a run within another, as a ControlNet, a guider or a callback may make it: both are counted whole."""

from __future__ import annotations

import pytest
from comfy.patcher_extension import WrappersMP

from lab.testing.run_nodes import probe, skew


class CallingTheModelWithin:
    """A wrapper of another pack that calls the model once more before or after each model call."""

    def __init__(self, *, is_before: bool):
        self.is_before = is_before
        self.is_within = False

    def __call__(self, executor, *args, **kwargs):
        if self.is_within:
            return executor(*args, **kwargs)
        if self.is_before:
            self._call(executor.class_obj, *args, **kwargs)
        result = executor(*args, **kwargs)
        if not self.is_before:
            self._call(executor.class_obj, *args, **kwargs)
        return result

    def _call(self, model, *args, **kwargs):
        self.is_within = True
        try:
            model.apply_model(*args, **kwargs)
        finally:
            self.is_within = False


@pytest.mark.parametrize("is_before", [True, False])
@pytest.mark.parametrize("adaptive", ["off", "gamma"])
def test_a_model_call_within_another_takes_nothing_off_its_counts(sd15, is_before, adaptive):
    patched, report = skew(sd15.model, adaptive=adaptive)
    picture = sd15.sample(patched)
    alone = report.runs[-1]
    patched.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "another pack", CallingTheModelWithin(is_before=is_before))
    assert sd15.sample(patched).equal(picture)
    both = report.runs[-1]
    assert both.model_calls == 2 * alone.model_calls
    assert both.site_calls == {address: 2 * count for address, count in alone.site_calls.items()}
    assert [call.attention_calls for call in both.calls] == [each for call in alone.calls
                                                             for each in [call.attention_calls] * 2]  # fmt: skip
    assert [len(call.symmetricity) for call in both.calls] == [len(call.symmetricity) for call in alone.calls
                                                               for _ in range(2)]  # fmt: skip
    assert both.backends == alone.backends


@pytest.mark.parametrize("node", [skew, probe])
def test_a_run_within_another_takes_none_of_its_calls(sd15, node):
    """A wrapper of another pack may sample the same MODEL before the run that it wraps goes on."""
    patched, told = node(sd15.model)
    alone = sd15.sample(patched, steps=2)
    within = []

    def samples_first(executor, *args, **kwargs):
        within.append(len(within))
        if len(within) == 1:
            sd15.sample(patched, steps=1)
        return executor(*args, **kwargs)

    patched.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, "another pack", samples_first)
    assert sd15.sample(patched, steps=2).equal(alone)
    assert [len(run.calls if node is skew else run.steps) for run in told.runs] == [2, 2, 1]
    assert [run.status for run in told.runs] == ["finished"] * 3

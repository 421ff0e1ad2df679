"""A trial of made-up pictures on a made-up clock: what is sampled when, what it is measured as, and its budget."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.testing.made_up_trials import measured, pictures_of
from sad_core.evaluation.measures import PIXELS, LookedAt, measure_set
from sad_core.evaluation.trial.course import Course
from sad_core.evaluation.trial.pictures import Images, Picture
from sad_core.evaluation.trial.plan import COSTS, MOST_SEEDS, SHARE_AROUND, SLOWER
from sad_core.evaluation.trial.ways import LADDER, PLAIN, PROBED, RIVALS


@dataclass
class MadeUp:
    """Pictures that take a second and `dearer` more with γ, on a clock that preparing moves too."""

    dearer: float = 0.2
    preparing: float = 0.0
    slower_after: int = 10**6  # pictures
    slower_at: float = 10.0**6  # by the clock
    slowdown: float = 4.0
    now: float = 0.0
    drawn: dict = field(default_factory=dict)
    order: list = field(default_factory=list)

    def prepare(self, prompts):
        self.now += self.preparing
        self.prepared = prompts

    def expect(self, pictures):
        self.expected = pictures

    def draw(self, way, prompt, seeds):
        assert prompt < self.prepared
        found, seconds = [], 1 + self.dearer * (way.gamma != 1)
        for seed, image in zip(seeds, pictures_of(way, seeds, 0.1), strict=True):
            is_slower = len(self.drawn) >= self.slower_after or self.now >= self.slower_at
            taken = seconds * (self.slowdown if is_slower else 1)
            found.append(Picture.of(image, taken))
            assert (way, seed) not in self.drawn, "a picture was drawn twice"
            self.drawn[way, seed] = prompt
            self.now += taken
        self.order.append((way, prompt))
        return found


def run(minutes, prompts=3, **changed):
    source = MadeUp(**changed)
    said = []
    return Course(source, prompts, 7, minutes, PIXELS, tell=said.append).run(), source, said


def test_each_block_of_all_ways_is_drawn_before_the_next():
    found, source, _ = run(2.7)
    ways = (PLAIN, *LADDER)
    assert found.plan.choice_seeds == 8
    assert source.order[: 2 * len(ways)] == [(way, block) for block in range(2) for way in ways]
    assert {seed for _, seed in source.drawn} == {
        *range(7, 7 + 8),
        *range(7 + MOST_SEEDS, 7 + MOST_SEEDS + found.plan.report_seeds),
    }
    assert len(source.drawn) == found.plan.pictures == source.expected


def test_more_minutes_draw_every_picture_of_before_with_its_prompt():
    for few, many in ((1.2, 2.2), (2.5, 4)):
        before, after = (run(minutes, dearer=0.0)[1].drawn for minutes in (few, many))
        shared = {key: prompt for key, prompt in before.items() if key[0] in (PLAIN, *LADDER, *RIVALS)}
        assert shared.items() <= after.items()
        assert len(after) > len(before)


@pytest.mark.parametrize(("minutes", "dearer"), [(0.8, 0.3), (1, 0.0), (1.3, 1.0), (3, 0.3)])
def test_the_budget_holds_on_the_clock(minutes, dearer):
    """With what is loaded, warmed up and measured: within a fifth above it, and no further below than a block."""
    found, source, _ = run(minutes, dearer=dearer, preparing=0.02 * 60 * minutes)
    block = 4 * (2 + len(found.plan.rivals)) * (1 + dearer)
    assert source.now <= 1.2 * 60 * minutes
    assert source.now >= 0.8 * 60 * minutes - block


def test_the_plan_follows_the_mean_over_all_ways():
    """γ = 1 and one γ are half as dear as the ladder: more seeds would be planned by only them."""

    class Uneven(MadeUp):
        def draw(self, way, prompt, seeds):
            return [
                Picture(each.pixels, 4.0 if way in LADDER[1:] else 1.0) for each in super().draw(way, prompt, seeds)
            ]

    said = []
    found = Course(Uneven(), 3, 7, 6, PIXELS, tell=said.append).run()
    assert said[0].startswith("An image takes 3 s. First, 4 seeds of each of 6 settings")
    assert found.seconds < 6 * 60 * 1.2


def test_a_choice_that_gets_slower_leaves_out_costs_and_rivals():
    found, source, _ = run(2.7, slower_after=24)
    assert found.plan.choice_seeds == 8
    assert found.plan.left_out.count(f"left out{SLOWER}") == 2
    assert found.plan.rivals == found.costs == ()
    assert len(source.drawn) == found.plan.pictures


def test_pictures_that_get_slower_after_the_choice_end_the_report_in_time():
    found, source, said = run(2.7, slower_after=48)
    assert said[-1].endswith("The report uses 16 other seeds.")
    assert found.plan.report_seeds == 4
    assert found.costs == ()
    assert source.now <= 60 * 2.7
    assert found.notes == (
        f"The cost of other settings is left out{SLOWER}. The report ended after 4 of 16 seeds{SLOWER}.",
    )


def test_a_choice_that_gets_slower_keeps_its_share_of_the_time():
    found, source, _ = run(4, slower_after=24)
    assert found.plan.choice_seeds == 8
    assert found.plan.left_out.startswith(f"The choice ended after 8 of 12 seeds{SLOWER}.")
    assert len(source.drawn) == found.plan.pictures == source.expected


def test_rivals_are_dropped_if_the_report_begins_slower():
    found, source, _ = run(44.5 / 60 / (1 - SHARE_AROUND), dearer=0.0, slower_after=24, slowdown=2.0)
    assert [each.way for each in found.report] == [PLAIN, found.chosen]
    missing = f'"{RIVALS[0].name}" and "{RIVALS[1].name}" are left out{SLOWER}.'
    assert found.plan.left_out.endswith(missing)
    assert source.now <= 44.5
    assert len(source.drawn) == found.plan.pictures == source.expected


@pytest.mark.parametrize(("slower_after", "timed"), [(112, 2), (104, 1), (96, 0)])
def test_costs_are_timed_one_by_one_while_there_is_time(slower_after, timed):
    """Of 112 pictures the last 16 of the report end at 104, and the first cost at 108."""
    found, source, _ = run(112.5 / 60 / (1 - SHARE_AROUND), dearer=0.0, slower_after=slower_after)
    names = [found.chosen.name + " with β 0.5", PROBED.name]
    assert [each.name for each in found.costs] == names[:timed]
    missing = f"The cost of {' and '.join(names[timed:])} is left out{SLOWER}."
    assert found.plan.left_out == (missing if timed < COSTS else "")
    assert len(source.drawn) == found.plan.pictures == source.expected


class Unmeasured(Course):
    """A trial whose numbers are those of other pictures, for time."""

    MEASURED = measured((PLAIN, *LADDER), range(4), 1)

    def _measured(self, pictures):
        return self.MEASURED


@settings(deadline=None)
@given(st.integers(40, 250), st.floats(0.5, 1.0), st.floats(0.0, 0.3))
def test_the_budget_holds_on_a_machine_that_slows_down_half_way(pictures, begin, dearer):
    seconds = pictures * (1 + dearer) / (1 - SHARE_AROUND)
    source = MadeUp(dearer, slower_at=begin * seconds, slowdown=2.0)
    found = Unmeasured(source, 3, 7, seconds / 60, PIXELS).run()
    assert source.now <= 1.2 * seconds
    assert len(source.drawn) == found.plan.pictures == source.expected
    assert len(found.costs) == found.plan.costs
    assert found.seconds == pytest.approx(source.now, rel=1e-4)


def test_the_costs_of_beta_and_of_the_probe_are_timed():
    found, source, _ = run(1.2)
    names = [each.name for each in found.costs]
    assert names == [f"{found.chosen.name} with β 0.5", "γ 1 with the probe"]
    assert [each.seconds for each in found.costs] == [1.2, 1.0]
    assert sum(way == PROBED for way, _ in source.drawn) == 4
    assert len(names) == COSTS


def test_as_measured_on_whole_images_of_the_same_pictures():
    """Element by element: 8 bits in memory give what floats of all pictures at once gave."""
    found, _, _ = run(4)
    seeds = range(7 + MOST_SEEDS, 7 + MOST_SEEDS + found.plan.report_seeds)
    labels = [seed // 4 % 3 for seed in range(len(seeds))]
    rounded = {
        way: [(image * 255).round() / 255 for image in pictures_of(way, seeds, 0.1)]
        for way in (PLAIN, found.chosen, *found.plan.rivals)
    }
    sets = {way: LookedAt.of(images, labels, PIXELS) for way, images in rounded.items()}
    for each in found.report:
        assert each.row == measure_set(each.way.gamma, sets[each.way], sets[PLAIN], PIXELS)


def test_a_picture_is_held_in_8_bits_and_a_broken_one_is_reported():
    image = torch.rand(5, 4, 3)
    image[0, 0] = torch.tensor([-1.0, 2.0, 0.5])
    picture = Picture.of(image, 1.23456789)
    assert (picture.pixels.dtype, picture.seconds, picture.broken) == (torch.uint8, 1.23457, False)
    assert picture.pixels[0, 0].tolist() == [0, 255, 128]
    torch.testing.assert_close(picture.image, image.clamp(0, 1), rtol=0, atol=0.5 / 255 + 1e-6)
    assert Picture.of(image.mT.contiguous().mT, 1.0).pixels.stride() == picture.pixels.stride()
    image[2, 2, 0] = torch.inf
    broken = Picture.of(image, 1.0)
    assert broken.broken
    images = Images([picture, broken])
    assert images[1].isnan().all()
    assert torch.equal(images[:1][0], picture.image)
    assert [each.shape for each in images] == [(5, 4, 3)] * 2

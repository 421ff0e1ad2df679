"""The answers to the questions of lab/testbed/README.md, by rule: a verdict and the numbers behind it.

Fidelity is the Fréchet distance (lower is better), diversity is coverage. "Significant" says that the 95 % interval of
the paired change excludes 0. A dagger says that it still does after Bonferroni's correction for all arms.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from lab.testbed.comparisons import DEFAULTS, STATIC
from lab.testbed.pages.reading import Change, Numbers, spell
from lab.testbed.scores import DIVERSITY, FIDELITY

LEAST_METHODS = 3  # to rank γ among
LEAST_PAIRS = 3  # of an answer that is held against another network's
WINDOWS = ("first third", "middle third", "last third")
EMOJI = {0.5: "fidelity falls", 1.5: "fidelity rises a little", 3.0: "images break"}


@dataclass(frozen=True)
class Answer:
    """An answer: the question's number, the question in short, the verdict in a sentence, and the numbers behind it."""

    number: int
    question: str
    verdict: str
    because: str = ""


def told(numbers: Numbers, name: str) -> str:
    """`γ 1.5: Fréchet distance −0.1 [−0.2, −0.0], coverage +0.1 [0.0, 0.2]`."""
    return f"{name}: {told_changes(*numbers.both(name))}"


def told_changes(fidelity: Change, diversity: Change) -> str:
    """Both changes in words."""
    return f"Fréchet distance {fidelity}, coverage {diversity}"


def strength_of_evidence(change: Change) -> str:
    """Say how sure a significant change is."""
    return "also after correction for all arms" if change.is_significant_of_many else "but not after correction"


def raises_coverage(numbers: Numbers) -> Answer:
    """Question 1."""
    question = "Does γ, with β 1 or more, raise coverage without a larger Fréchet distance?"
    kept = [name for name in static(numbers) if gains(*reversed(numbers.both(name)))]
    return first_or_no(numbers, 1, question, kept, DIVERSITY, "raises coverage")


def lowers_distance(numbers: Numbers) -> Answer:
    """Question 2."""
    question = "Does γ lower the Fréchet distance without losing coverage?"
    kept = [name for name in static(numbers) if gains(*numbers.both(name))]
    return first_or_no(numbers, 2, question, kept, FIDELITY, "lowers the Fréchet distance")


def static(numbers: Numbers) -> list[str]:
    """The arms of γ and of γ with β, over the whole run and network."""
    return [name for knob in STATIC for name in numbers.of_knob(knob)]


def gains(wanted: Change, kept: Change) -> bool:
    """Return whether one measure is significantly better and the other not significantly worse."""
    return wanted.is_better and not kept.is_worse


def first_or_no(numbers: Numbers, number: int, question: str, kept: list[str], measure: str, does: str) -> Answer:
    """Yes with the largest gain, or no with the arm that came nearest."""
    tried = static(numbers)
    if kept:
        best = max(kept, key=lambda name: numbers.change(name, measure).gain)
        sure = strength_of_evidence(numbers.change(best, measure))
        verdict = (
            f"Yes. {told(numbers, best)} ({sure}). {len(kept)} of {len(tried)} settings do. "
            "The largest of many noisy gains tends to overestimate the true one."
        )
        return Answer(number, question, verdict)
    best = max(tried, key=lambda name: numbers.change(name, measure).gain)
    return Answer(
        number,
        question,
        f"No. None of {len(tried)} settings {does} significantly without a significant loss of the other.",
        f"The largest gain is that of {told(numbers, best)}.",
    )


def compared(
    numbers: Numbers, number: int, question: str, does: str, does_not: str, nothing: str = "This was not measured."
) -> Answer:
    """Pairs of arms: yes where one is better in one measure, also after correction, and no worse in the other.

    In part if another pair is the other way round, and no if as many are.
    """
    found = list(numbers.pairs(number))
    if not found:
        return Answer(number, question, nothing)
    better = [each for each in found if wins(each[2], each[3])]
    worse = [each for each in found if loses(each[2], each[3])]
    won = [pair for pair in better if any(each.gain > 0 and each.is_significant_of_many for each in pair[2:])]
    lost = [pair for pair in worse if any(each.gain < 0 and each.is_significant_of_many for each in pair[2:])]
    told_first = f"No. {does_not}" if len(won) <= len(lost) else f"In part. {does}" if worse else f"Yes. {does}"
    verdict = f"{told_first} It wins {len(better)} of {len(found)} comparisons and loses {len(worse)}."
    because = "; ".join(f"{arm} less {other}: {told_changes(*changes)}" for arm, other, *changes in found)
    return Answer(number, question, verdict, f"{because}.")


def wins(fidelity: Change, diversity: Change) -> bool:
    """Better in one, no worse in the other."""
    return (fidelity.is_better or diversity.is_better) and not (fidelity.is_worse or diversity.is_worse)


def loses(fidelity: Change, diversity: Change) -> bool:
    """Worse in one, no better in the other."""
    return (fidelity.is_worse or diversity.is_worse) and not (fidelity.is_better or diversity.is_better)


def is_skew_what_matters(numbers: Numbers) -> Answer:
    """Question 3."""
    return compared(
        numbers,
        3,
        "Is the skew part what matters? γ against the temperature of the same attention at equal drift.",
        "At some strength γ does what no equally large change of temperature does.",
        "On balance γ is no better than the temperature that moves images as far.",
    )


def against_rivals(numbers: Numbers) -> Answer:
    """Question 4."""
    question = "γ against each rival: diversity at equal fidelity, fidelity at equal diversity, dominated area."
    knobs, ranks, parts = numbers.content["knobs"], [], []
    shown = [knob for knob in (*numbers.ours, *numbers.rivals) if knob == "γ" or knob in numbers.rivals]
    if "γ" not in shown or len(shown) < LEAST_METHODS:
        return Answer(4, question, "This was not measured.")
    for quantity in ("diversity at equal fidelity", "fidelity at equal diversity", "dominated area"):
        order = sorted(shown, key=lambda knob: -knobs[knob][quantity][0])
        values = [knobs[knob][quantity][0] for knob in order]
        own = knobs["γ"][quantity][0]
        equal = values.count(own) - 1
        shared = f" (with {equal} other{'s' if equal > 1 else ''})" if equal else ""
        ranks.append(f"{ordinal(values.index(own) + 1)}{shared} in {quantity}")
        first = order[0] if order[0] != "γ" else order[1]
        parts.append(
            f"{quantity}: γ {spell(knobs['γ'][quantity])}, the best rival ({first}) {spell(knobs[first][quantity])}"
        )
    found = list(numbers.pairs(4))
    better, worse = (sum(test(each[2], each[3]) for each in found) for test in (wins, loses))
    ours = found[0][0] if found else None
    passed = "the rivals" if any(map(numbers.chosen, numbers.ours)) else "ours"
    of_pairs = (
        f" {ours}, the best of ours, beats {better} of the {len(found)} rivals at their chosen strengths and loses to "
        f"{worse}."
        if ours
        else f" No setting of {passed} passed the rule of choice, so no chosen strengths are compared."
    )
    verdict = f"Of {len(shown)} methods γ is {', '.join(ranks[:-1])} and {ranks[-1]}.{of_pairs}"
    return Answer(4, question, verdict, f"{'; '.join(parts)}.")


def ordinal(number: int) -> str:
    """`1st`, `2nd` and so on."""
    last = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{last}"


def on_top(numbers: Numbers) -> Answer:
    """Question 5."""
    return compared(
        numbers,
        5,
        "Does γ add to the best rival, or replace it?",
        "γ adds to the best rival.",
        "On balance γ adds nothing to the best rival.",
        "The best rival was not drawn with γ on top of it.",
    )


def when_and_where(numbers: Numbers) -> Answer:
    """Question 6."""
    question = "When in the run, and where in the network, does γ do what it does?"
    parts = [knob.removeprefix("γ, ") for knob in numbers.ours if knob.startswith("γ, ")]
    where = [part for part in parts if part not in (*WINDOWS, "adaptive") and not part.startswith("β")]
    ranked, told_arms = [], []
    for names in (WINDOWS, where):
        strongest = {part: (numbers.of_knob(f"γ, {part}") or [""])[-1] for part in names}
        known = {part: name for part, name in strongest.items() if name}
        if len(known) > 1:
            order = sorted(known, key=lambda part: -abs(numbers.change(known[part], FIDELITY).value))
            ranked.append(f"{order[0]} (Fréchet distance {numbers.change(known[order[0]], FIDELITY)})")
            told_arms += [told(numbers, name) for name in known.values()]
    if not ranked:
        return Answer(6, question, "This was not measured.")
    verdict = f"The largest strength changes the Fréchet distance most in the {' and in the part '.join(ranked)}."
    return Answer(6, question, verdict, f"{'; '.join(told_arms)}.")


def adaptive(numbers: Numbers) -> Answer:
    """Question 7."""
    return compared(
        numbers,
        7,
        "Does adaptive control save strong settings, beyond being a weaker setting of the same drift?",
        "Adaptive control is better than a static setting that moves images as far.",
        "On balance adaptive control is no better than a static setting that moves images as far.",
    )


def stochastic(numbers: Numbers) -> Answer:
    """Question 8."""
    question = "Do the answers hold under a stochastic sampler?"
    both = [(name, f"{name}, ancestral") for name in static(numbers) if f"{name}, ancestral" in numbers.arms]
    if not both:
        return Answer(8, question, "This was not measured.")
    opposite, alike = [], 0
    for name, other in both:
        changes = list(zip(numbers.both(name), numbers.both(other), strict=True))
        if any((one.is_better and two.is_worse) or (one.is_worse and two.is_better) for one, two in changes):
            opposite.append(name)
        alike += all((one.is_better, one.is_worse) == (two.is_better, two.is_worse) for one, two in changes)
    holds = "No" if opposite else "Yes" if 3 * alike >= 2 * len(both) else "In part"
    others = f"Opposite verdicts: {', '.join(opposite)}." if opposite else "None has opposite ones."
    verdict = f"{holds}. {alike} of {len(both)} settings of γ have the same verdict in both measures. {others}"
    return Answer(8, question, verdict, f"{'; '.join(told(numbers, other) for _, other in both)}.")


def defaults(numbers: Numbers) -> Answer:
    """Question 9."""
    question = "Are γ 1.05 with β 3, the node's defaults, good settings to start with?"
    if DEFAULTS not in numbers.arms:
        return Answer(9, question, "This was not measured.")
    fidelity, diversity = numbers.both(DEFAULTS)
    verdict = (
        "They help." if wins(fidelity, diversity) else "They harm." if loses(fidelity, diversity)
        else "They trade one for the other." if fidelity.is_significant and diversity.is_significant
        else "They change neither measure significantly."
    )  # fmt: skip
    because = f"{told(numbers, DEFAULTS)}."
    for arm, _, *changes in numbers.pairs(9):
        better = "significantly better than" if wins(*changes) else "not significantly better than"
        verdict += f" {arm}, the setting that the selection rule picks, is {better} they are."
        because += f" {arm} less the defaults: {told_changes(*changes)}."
    return Answer(9, question, verdict, because)


def than_emoji(numbers: Numbers) -> Answer:
    """Question 10."""
    question = "Which of these answers differ from those of the emoji model?"
    parts = []
    for gamma, was in EMOJI.items():
        name = next((each for each in numbers.of_knob("γ") if numbers.arms[each]["strength"] == gamma), None)
        if name:
            fidelity, diversity = numbers.both(name)
            now = "rises" if fidelity.is_better else "falls" if fidelity.is_worse else "does not change significantly"
            spread = "rises" if diversity.is_better else "falls" if diversity.is_worse else "does not change"
            parts.append(f"at γ {gamma:g} there {was}, here fidelity {now} and coverage {spread}")
    return Answer(10, question, f"{sentence('; '.join(parts))}." if parts else "This was not measured.")


def sentence(words: str) -> str:
    """The words with a capital."""
    return words[:1].upper() + words[1:]


def lost_by_the_twin(numbers: Numbers, teacher: Numbers) -> Answer:
    """Question 11. The twin's rows and the teacher's come of the same seeds."""
    question = "How much diversity is lost from the teacher to the twin?"
    twin, parent = numbers.arms["plain model"]["measures"], teacher.arms["plain model"]["measures"]
    lost = twin[DIVERSITY][2] < parent[DIVERSITY][1]
    so = (
        "so the twin covers less." if lost
        else "so these samples show no loss that γ could give back."
    )  # fmt: skip
    verdict = (
        f"The twin covers {spell(twin[DIVERSITY])} of the test images and the teacher {spell(parent[DIVERSITY])}, {so}"
    )
    because = (
        f"Fréchet distance: twin {spell(twin[FIDELITY])}, teacher {spell(parent[FIDELITY])}. "
        f"Vendi: {spell(twin['vendi'])}, {spell(parent['vendi'])}."
    )
    equal = at_equal(teacher, "judge", twin["judge"][0])
    if equal:
        guidance, covered = equal
        verdict += (
            f" By interpolation between the measured strengths, the judge would be as sure of the teacher's samples at "
            f"guidance {guidance:.1f}, where the teacher would cover {covered:.3f}."
        )
    return Answer(11, question, verdict, because)


def at_equal(numbers: Numbers, measure: str, wanted: float) -> tuple[float, float] | None:
    """The guidance at which a measure has a value, and coverage there, on lines between the measured strengths of CFG.

    None where no two neighbours have the value between them.
    """
    rows = [row for row in numbers.arms.values() if row["knob"] == "CFG"]
    rows.append(numbers.arms["plain model"] | {"strength": numbers.content["guidance"]})
    for one, other in itertools.pairwise(sorted(rows, key=lambda row: row["strength"])):
        low, high = one["measures"][measure][0], other["measures"][measure][0]
        if low != high and min(low, high) <= wanted <= max(low, high):
            share = (wanted - low) / (high - low)
            covered = [row["measures"][DIVERSITY][0] for row in (one, other)]
            strength = one["strength"] + share * (other["strength"] - one["strength"])
            return strength, covered[0] + share * (covered[1] - covered[0])
    return None


def given_back(numbers: Numbers) -> Answer:
    """Question 12."""
    question = "What does γ give back of it, on which steps and blocks, at what cost? Beside the rivals."
    parts, because = [], []
    for knobs, whose in ((numbers.ours, "Of our settings"), (numbers.rivals, "Of the rivals")):
        names = [name for knob in knobs for name in numbers.of_knob(knob)]
        kept = [name for name in names if gains(*reversed(numbers.both(name)))]
        kept.sort(key=lambda name: -numbers.change(name, DIVERSITY).gain)
        held = sum(numbers.change(name, DIVERSITY).is_significant_of_many for name in kept)
        first = f" The largest gain is that of {told(numbers, kept[0])}." if kept else ""
        parts.append(
            f"{whose} {len(kept)} of {len(names)} raise coverage with no significant loss of fidelity, "
            f"{held} of them also after correction.{first}"
        )
        order = kept or sorted(names, key=lambda name: -numbers.change(name, DIVERSITY).gain)
        because += [told(numbers, name) for name in order[:3]]
    return Answer(12, question, " ".join(parts), f"The largest gains: {'; '.join(because)}.")


def on_both(numbers: Numbers, first: Numbers) -> Answer:
    """Question 13: the verdicts of two architectures, and the signs of what their common settings do."""
    question = "Which answers does the second architecture give too?"
    alike: list[str] = []
    different: list[str] = []
    for answer in OF_EVERY_NETWORK:
        here, there = answer(numbers), answer(first)
        words = [word_of(each) for each in (there, here)]
        few = any(0 < len(list(each.pairs(here.number))) < LEAST_PAIRS for each in (first, numbers))
        if None not in words and not few:
            same = words[0] == words[1]
            (alike if same else different).append(
                f"{here.number} ({words[0]})" if same else f"{here.number} ({words[0]} for the UNet, {words[1]} here)"
            )
    named = {name for knob in numbers.ours for name in numbers.of_knob(knob)} & set(first.arms)
    pairs = [
        (name, first.change(name, FIDELITY), numbers.change(name, FIDELITY)) for name in numbers.arms if name in named
    ]
    both = [pair for pair in pairs if pair[1].is_significant and pair[2].is_significant]
    opposite = [name for name, one, other in both if one.is_better != other.is_better]
    verdicts = [f"{listed(alike)} alike"] * bool(alike) + [f"{listed(different)} differently"] * bool(different)
    said = f"Both architectures answer {', and '.join(verdicts)}. " if verdicts else ""
    but = f", all but {listed(opposite)}" if opposite else ""
    verdict = (
        f"{said}{len(both)} of {len(pairs)} settings of ours change the Fréchet distance of both significantly, "
        f"{len(both) - len(opposite)} of them in the same direction{but}."
    )
    because = "; ".join(f"{name}: UNet {one}, here {other}" for name, one, other in pairs)
    return Answer(13, question, verdict, f"Fréchet distance: {because}." if because else "")


def word_of(answer: Answer) -> str | None:
    """`yes`, `no` or `in part`; None where the verdict is of another kind or nothing was measured."""
    first = answer.verdict.partition(".")[0].lower()
    return first if first in ("yes", "no", "in part") else None


def listed(words: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


OF_EVERY_NETWORK: tuple[Callable[[Numbers], Answer], ...] = (
    *(raises_coverage, lowers_distance, is_skew_what_matters, against_rivals, on_top, when_and_where),
    *(adaptive, stochastic, defaults),
)


def answers_of(numbers: Numbers, others: Mapping[str, Numbers]) -> list[Answer]:
    """All answers that the numbers of a network give."""
    found = [answer(numbers) for answer in OF_EVERY_NETWORK]
    if numbers.network == "unet":
        found.append(than_emoji(numbers))
    if numbers.network == "dit" and "unet" in others:
        found.append(on_both(numbers, others["unet"]))
    if numbers.network == "twin":
        found = [each for each in found if each.number != 8]
        if "unet" in others:
            found.append(lost_by_the_twin(numbers, others["unet"]))
        found.append(given_back(numbers))
    return found

"""γ where it is painted: every row of every site is that of its own γᵢ = 1 + mᵢ·(γ − 1), in float64."""

from __future__ import annotations

import comfy_extras.nodes_context_windows as context_windows
import pytest
import torch
from symmetric_attention.nodes.host.painted import NO_PICTURE, NO_PLACE, NOT_OVER_TOKENS, PaintedMask

from lab.testing import definition
from lab.testing.families.family import draw
from lab.testing.recorder import distance, effect, plainly, stated, watch_attention
from lab.testing.run_nodes import compiled, execute, probe, skew, with_override_of_another_pack

TOLERANCE = 1e-3
HEIGHT, WIDTH = 8, 12  # of the latents of SD15 and SD3 here


def soft(height, width, images=1, name="mask"):
    """A soft mask with parts that are not painted and parts that fully are."""
    return (draw(name, (images, height, width)) + 0.5).clamp(0, 1)


def by_token(mask, tokens):
    """The mean of a `(height, width)` mask over what each token covers, `(tokens,)`; one square after the other."""
    height, width = mask.shape
    for patch in (1, 2, 4, 8, 16, 32):
        starts = [(top, left) for top in range(0, height, patch) for left in range(0, width, patch)]
        if len(starts) == tokens:
            return torch.stack([mask[top : top + patch, left : left + patch].mean() for top, left in starts]).double()
    return None


def columns_of(family, seen):
    """Return the number of tokens in a row of the image, or None if they form no grid over it."""
    height, width = family.latent[-2:]
    image = family.image(seen.q.shape[2])
    sizes = [(height // patch, width // patch) for patch in (1, 2, 4, 8, 16, 32)]
    return next((columns for rows, columns in sizes if rows * columns == image.stop - image.start), None)


def wanted(family, seen, gamma, masks, beta=1.0, **options):
    """Return the expected result of a call, with one mask for every row of the batch."""
    tokens = seen.q.shape[2]
    image = family.image(tokens)
    gammas = torch.ones(len(masks), 1, tokens, 1, dtype=torch.float64)
    for row, mask in enumerate(masks):
        gammas[row, 0, image, 0] = 1 + by_token(mask, image.stop - image.start) * (gamma - 1)
    return stated(family, seen, gammas, beta, **options)


def assert_painted(family, calls, gamma, masks, beta=1.0):
    """Every call is that of its own rows, and neither plain nor that of γ everywhere."""
    assert calls
    for seen in calls:
        scale = effect(family, seen, gamma)
        assert distance(seen.out, wanted(family, seen, gamma, masks, beta)) <= TOLERANCE * scale, seen.path
        for other in (plainly(seen), stated(family, seen, gamma, beta)):
            assert distance(seen.out, other) > 10 * TOLERANCE * scale, seen.path


def of_sites(family, calls):
    return [seen for seen in calls if family.site_of(seen.path) in family.paths]


@pytest.mark.newest
def test_every_family_is_painted_or_says_that_it_cannot_be(runs):
    family, gamma = runs.row, 1.6
    height, width = (family.latent if len(family.latent) > 2 else (1, 8, 8))[-2:]
    mask = soft(height, width)
    if len(family.latent) < 3:  # sound and shapes
        with pytest.raises(ValueError, match="The mask cannot be laid over the tokens of"):
            skew(family.model, gamma, mask=mask)
        return
    patched, report = skew(family.model, gamma, mask=mask)
    calls = runs.acting(runs.watched(patched))
    record = report.runs[-1]
    painted = [seen for seen in calls if runs.site(seen) in record.site_calls]
    for seen in painted:
        scale = effect(family, seen, gamma)
        want = wanted(family, seen, gamma, [mask[0]] * len(seen.q))
        assert distance(seen.out, want) <= TOLERANCE * scale, seen.path
    for seen in calls:
        if not any(seen is each for each in painted):
            assert distance(seen.out, plainly(seen)) < 1e-5 * plainly(seen).norm()
    assert set(record.untouched) <= {NOT_OVER_TOKENS, NO_PICTURE}
    assert bool(painted) != bool(record.untouched) or family.has_reference


@pytest.mark.newest
def test_the_tokens_of_every_family_go_along_the_rows_of_the_picture(runs):
    """A change of the picture in its lower left corner moves the queries of the token there more than any other."""
    family, height = runs.row, (runs.row.latent if len(runs.row.latent) > 2 else (1, 0, 0))[-2]
    found = [seen for seen in runs.acting(runs.plain) if height and columns_of(family, seen)]
    if not found or family.frames > 1 or family.has_reference:
        return
    seen = found[0]
    columns, rows = columns_of(family, seen), height // (family.latent[-1] // columns_of(family, seen))
    patch = height // rows
    start = {"latent": family.picture_to_start_from()} if family.from_picture else {"noise": family.noise()}
    (name, changed), *_ = start.items()
    changed = changed.clone()
    changed[..., -patch:, :patch] += 3.0
    other = next(
        each
        for each in runs.watched(family.model, **{name: changed})
        if each.path == seen.path and each.q.shape == seen.q.shape
    )
    moved = (other.q - seen.q)[:, :, family.image(seen.q.shape[2])].square().sum(dim=(0, 1, 3))
    row, column = divmod(int(moved.argmax()), columns)
    assert (row, column) in [(rows - 1 - up, right) for up in (0, 1) for right in (0, 1)]  # convolutions reach further


@pytest.mark.parametrize(
    "widgets",
    [
        {"apply_to": "uncond", "beta": 3.0},
        *(pytest.param(each, marks=pytest.mark.newest) for each in ({}, {"beta": 3.0}, {"apply_to": "cond"})),
    ],
)
def test_each_image_of_a_batch_has_its_own_mask(sd15, memory, widgets):
    masks = soft(HEIGHT, WIDTH, images=2)
    patched, _ = skew(sd15.model, 1.6, mask=masks, **widgets)
    with watch_attention(patched) as calls:
        sd15.sample(patched, **sd15.start([0, 1]))
    side = {"cond": (0,), "uncond": (1,)}.get(widgets.get("apply_to"), (0, 1))
    for seen in of_sites(sd15, calls):
        for index, mark in enumerate(seen.marks):
            rows = slice(2 * index, 2 * index + 2)
            part = seen.__class__(
                seen.path, seen.q[rows], seen.k[rows], seen.v[rows], seen.out[rows], None, None, seen.sigma, (mark,)
            )
            if mark in side:
                assert_painted(sd15, [part], 1.6, masks, widgets.get("beta", 1.0))
            else:
                assert distance(part.out, plainly(part)) < 1e-5 * plainly(part).norm()


def test_an_area_cuts_the_mask_as_it_cuts_the_latent(sd15, memory):
    mask, area = soft(HEIGHT, WIDTH), (6, 8, 1, 3)
    patched, report = skew(sd15.model, 1.6, mask=mask)
    texts = sd15.conditioning("cond", area=area) + sd15.conditioning("rest"), sd15.conditioning("uncond")
    with watch_attention(patched) as calls:
        sd15.sample(patched, texts=texts)
    height, width, top, left = area
    parts = {HEIGHT * WIDTH: mask[0], height * width: mask[0, top : top + height, left : left + width]}
    seen_sizes = set()
    for seen in of_sites(sd15, calls):
        whole = next(size for size, part in parts.items() if by_token(part, seen.q.shape[2]) is not None)
        seen_sizes.add(whole)
        assert_painted(sd15, [seen], 1.6, [parts[whole]] * len(seen.q))
    assert seen_sizes == set(parts)
    assert not report.runs[-1].untouched


def test_a_window_over_a_batch_takes_the_masks_of_its_images(sd15, memory):
    masks = soft(HEIGHT, WIDTH, images=4)
    patched, report = skew(sd15.model, 1.6, mask=masks)
    inputs = {"context_length": 2, "context_overlap": 0, "context_schedule": "standard_static", "context_stride": 1}
    options = {"closed_loop": False, "fuse_method": "flat", "dim": 0, "freenoise": False}
    windows = execute(context_windows.ContextWindowsManualNode, model=patched, **inputs, **options)[0]
    with watch_attention(windows) as calls:
        sd15.sample(windows, **sd15.start([0, 1, 2, 3]))
    for seen in of_sites(sd15, calls):  # which window comes first is the host's to say
        passes = len(seen.marks)
        images = len(seen.q) // passes
        fits = [
            distance(seen.out, wanted(sd15, seen, 1.6, [*masks[start : start + images]] * passes))
            <= TOLERANCE * effect(sd15, seen, 1.6)
            for start in range(5 - images)
        ]
        assert sum(fits) == 1
    assert not report.runs[-1].untouched


@pytest.mark.newest
def test_a_mask_of_any_size_is_averaged_over_what_a_token_covers(sd15):
    mask = soft(8 * HEIGHT, 8 * WIDTH)
    patched, _ = skew(sd15.model, 1.6, mask=mask)
    with watch_attention(patched) as calls:
        sd15.sample(patched)
    in_latent = mask[0].unflatten(0, (HEIGHT, 8)).unflatten(2, (WIDTH, 8)).mean(dim=(1, 3))
    assert_painted(sd15, of_sites(sd15, calls), 1.6, [in_latent] * 2)
    small = PaintedMask.of(torch.tensor([[[0.0, 1.0]]])).over((2, 4))
    assert small.shape == (1, 1, 2, 4)
    assert small[0, 0].tolist() == [[0.0, 0.25, 0.75, 1.0]] * 2


def test_nothing_painted_is_the_plain_model_and_all_painted_is_no_mask(sd15):
    nothing, report = skew(sd15.model, 1.6, mask=torch.zeros(1, 8, 8))
    assert not nothing.object_patches
    assert report.plan == "Nothing is painted in the mask, so the model is passed on unchanged."
    everything, _ = skew(sd15.model, 1.6, mask=torch.ones(2, 8, 8))
    without, _ = skew(sd15.model, 1.6)
    assert sd15.sample(everything).equal(sd15.sample(without))


@pytest.mark.parametrize(
    ("name", "beta"),
    [("SD15", 3.0), *(pytest.param(*each, marks=pytest.mark.newest) for each in [("SD15", 1), ("SD3", 1), ("SD3", 3)])],
)
def test_rows_that_are_not_painted_have_the_bits_of_the_plain_retrieval(families, name, beta):
    family = families[name]
    mask = torch.zeros(1, *family.latent[-2:])
    mask[:, : mask.shape[1] // 2] = 1
    patched, _ = skew(family.model, 1.6, beta, mask=mask, blocks="input.1" if name == "SD15" else "joint.0")
    with watch_attention(family.model) as plain_calls:
        family.sample()
    with watch_attention(patched) as calls:
        family.sample(patched)
    site = next(path for address, path in family.paths.items() if address in ("input.1.0", "joint.0"))
    (seen, plain), *_ = [
        (one, other)
        for one, other in zip(calls, plain_calls, strict=True)
        if one.path.startswith(site) and not one.is_cross
    ]
    assert seen.q.equal(plain.q)
    image = family.image(seen.q.shape[2])
    still = torch.ones(seen.q.shape[2], dtype=torch.bool)
    still[image] = by_token(mask[0], image.stop - image.start) == 0
    assert seen.out[:, :, still].equal(plain.out[:, :, still])
    assert not seen.out[:, :, ~still].equal(plain.out[:, :, ~still])


@pytest.mark.newest
def test_adaptive_strength_goes_by_row_too(sd15):
    mask = soft(HEIGHT, WIDTH)
    patched, _ = skew(sd15.model, 2.0, 3.0, mask=mask, adaptive="gamma and beta")
    with watch_attention(patched) as calls:
        sd15.sample(patched)
    for seen in of_sites(sd15, calls):
        eta = definition.symmetricity(seen.q, seen.k).mean(dim=1)
        gamma = (1 + (2.0 - 1) * eta)[:, None, None, None]
        beta = 3.0 * (1 - eta)
        share = by_token(mask[0], seen.q.shape[2])[:, None]
        want = stated(sd15, seen, 1 + share * (gamma - 1), beta[:, None, None, None])
        assert distance(seen.out, want) <= TOLERANCE * effect(sd15, seen, 2.0), seen.path


@pytest.mark.newest
@pytest.mark.parametrize("order", ["mask first", "mask last"])
def test_the_later_of_two_nodes_has_the_whole_site(sd15, order):
    mask = soft(HEIGHT, WIDTH)
    first, last = ({"mask": mask}, {}) if order == "mask first" else ({}, {"mask": mask})
    patched, report = skew(sd15.model, 0.4, **first)
    both, _ = skew(patched, 1.6, **last)
    only, _ = skew(sd15.model, 1.6, **last)
    assert sd15.sample(both).equal(sd15.sample(only))
    assert "a later Skew Attention node acts on this site" in report.describe()


def test_other_packs_and_the_probe_stay_where_they_are(sd15):
    mask = soft(HEIGHT, WIDTH)
    patched, _ = skew(sd15.model, 1.6, mask=mask)
    wanted_picture = sd15.sample(patched)
    others, _ = skew(with_override_of_another_pack(sd15.model), 1.6, mask=mask)
    torch.testing.assert_close(sd15.sample(others), wanted_picture, rtol=1e-3, atol=1e-3)
    measured, trace = probe(patched)
    assert sd15.sample(measured).equal(wanted_picture)
    assert trace.runs[-1].steps


def test_the_next_run_may_have_another_size(sd15):
    mask = soft(64, 96)
    patched, report = skew(sd15.model, 1.6, mask=mask)
    small = sd15.sample(patched)
    sd15.sample(patched, noise=draw("larger", (1, 4, 12, 16)))
    assert sd15.sample(patched).equal(small)
    assert not report.runs[-1].untouched


@pytest.mark.newest
def test_a_compiled_model_is_painted_too(sd15):
    mask = soft(HEIGHT, WIDTH)
    patched, _ = skew(sd15.model, 1.6, mask=mask)
    torch.testing.assert_close(
        sd15.sample(compiled(patched, fullgraph=False)), sd15.sample(patched), rtol=1e-4, atol=1e-4
    )


def test_rows_whose_place_is_unknown_are_skipped_and_said_so(sd15):
    """Another node calls the model with half of the picture, as tiled diffusion does."""
    patched, report = skew(sd15.model, 1.6, mask=soft(HEIGHT, WIDTH))

    def in_halves(apply_model, arguments):
        x, c = arguments["input"], arguments["c"]
        return torch.cat([apply_model(half, arguments["timestep"], **c) for half in x.chunk(2, dim=-1)], dim=-1)

    tiled, plain = patched.clone(), sd15.model.clone()
    for model in (tiled, plain):
        model.set_model_unet_function_wrapper(in_halves)
    assert sd15.sample(tiled).equal(sd15.sample(plain))
    assert set(report.runs[-1].untouched) == {NO_PLACE}


@pytest.mark.parametrize(
    ("widgets", "sentence"),
    [
        (
            {"gamma_text": 0.5},
            "A mask is connected, gamma_text is 0.5 and gamma_cross is 1, but a mask changes only gamma",
        ),
        (
            {"mask": torch.full((1, 4, 4), float("nan"))},
            r"mask has shape \(1, 4, 4\), but it must be a MASK of shape",
        ),
        ({"mask": torch.zeros(1, 0, 4)}, r"mask has shape \(1, 0, 4\), but it must be a MASK"),
        ({"mask": torch.zeros(1, 1, 4, 4)}, r"mask has shape \(1, 1, 4, 4\), but it must be a MASK"),
    ],
)
def test_bad_masks_are_refused_in_a_sentence(sd3, widgets, sentence):
    with pytest.raises(ValueError, match=sentence):
        skew(sd3.model, 1.6, **{"mask": soft(4, 4), **widgets})


def test_the_plan_says_how_much_is_painted(sd15):
    mask = torch.zeros(1, 10, 10)
    mask[:, :, :3] = 1
    _, report = skew(sd15.model, 1.6, mask=mask)
    assert "in the painted area (30% of the image)" in report.plan

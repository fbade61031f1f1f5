"""The shapes world as data: seeds, factors, captions, splits, vocabulary."""

from __future__ import annotations

import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from efface._errors import InputError
from efface_worlds import shapes
from efface_worlds.shapes.captions import attributes, caption, requirements
from efface_worlds.shapes.concepts import FACTORS, OBJECTS
from efface_worlds.shapes.corruption import TRAINED, UNSEEN
from efface_worlds.shapes.distances import DISTANCES
from efface_worlds.shapes.scenes import NONE, Scene, sample_scenes


def scenes_of(n: int, seed: int = 0, **options):
    return sample_scenes(n, generator=torch.Generator().manual_seed(seed), **options)


def test_same_seed_same_bits_and_another_seed_others():
    a, b, c = (shapes.make_shapes(20, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(a.images, b.images)
    assert a.captions == b.captions
    assert not torch.equal(a.images, c.images)


def test_splits_of_one_seed_differ():
    train, test = (shapes.make_shapes(20, seed=3, split=split) for split in ("train", "test"))
    assert not torch.equal(train.images, test.images)


@given(st.integers(0, 2**30), st.integers(1, 12))
def test_an_image_does_not_depend_on_the_others_in_its_batch(seed, n):
    scenes = scenes_of(n, seed, two_objects=0.5)
    alone = torch.cat([shapes.render(scenes[i : i + 1]) for i in range(n)])
    torch.testing.assert_close(alone, shapes.render(scenes), rtol=0, atol=1e-6)


def test_pixels_are_the_colours_that_the_scene_names():
    for colour, rgb in (("red", (0.86, 0.1, 0.12)), ("blue", (0.12, 0.22, 0.88))):
        images = shapes.render(Scene("circle", colour, "flat", "white").scenes(8, seed=1))
        assert (images[:, :, 16, 16] - torch.tensor(rgb)).abs().max() < 0.05  # the tint is at most 0.04
        torch.testing.assert_close(images[:, :, 0, 0], torch.ones(8, 3))


def test_ring_and_outlined_objects_show_the_background_in_their_middle():
    for scene in (Scene("ring", "red", "flat", "mint"), Scene("square", "red", "outlined", "mint")):
        drawn = scene.scenes(4, seed=2)
        images = shapes.render(drawn)
        x, y = drawn.places[:, 0, 0].round().long(), drawn.places[:, 0, 1].round().long()
        torch.testing.assert_close(images[torch.arange(4), :, y, x], torch.tensor([[0.7, 0.95, 0.8]]).expand(4, 3))


def test_distances_are_negative_inside_and_not_steeper_than_one_at_the_edge():
    axis = torch.linspace(-1.4, 1.4, 141)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    for distance in DISTANCES:
        d = distance(x, y)
        assert (d < 0).any()
        assert d[0].min() > 0
        near = d.abs() < 0.3  # where an outline or an antialiased edge is drawn
        rise = torch.cat([d.diff(dim=0)[near[1:] & near[:-1]], d.diff(dim=1)[near[:, 1:] & near[:, :-1]]]).abs().max()
        # The ellipse's distance is of first order: near its tips it may rise a little faster.
        assert rise / 0.02 < (1.35 if distance.__name__ == "ellipse" else 1.001), distance.__name__


def test_two_objects_keep_apart():
    scenes = scenes_of(300, two_objects=1.0)
    assert (scenes.count == 2).all()
    gap = (scenes.places[:, 0, 0] - scenes.places[:, 1, 0]).abs()
    assert gap.min() > 13.5


def test_rare_concepts_are_rare_unless_balanced():
    def share(**options) -> float:
        return float(shapes.shows(scenes_of(6000, two_objects=0.0, **options), "heart").float().mean())

    assert 0.02 < share() < 0.05
    assert 0.085 < share(balanced=True) < 0.115


@pytest.mark.parametrize("name", ["circle", "striped", "brown", "heart"])
def test_without_leaves_no_image_and_no_word_of_a_concept(name):
    world = shapes.make_shapes(1500, seed=5, without=[name], two_objects=0.4)
    assert not shapes.shows(world.scenes, name).any()
    value = shapes.concept(name)
    words = {word for text in world.captions for word in text.split()}
    assert words.isdisjoint({value.name, *value.synonyms, *value.unread, *value.noun.split()})


def test_held_out_combinations_are_only_in_their_split():
    train, held = (shapes.make_shapes(400, seed=1, split=split) for split in ("train", "held_out"))
    assert not train.scenes.held_out.any()
    assert held.scenes.held_out.all()
    assert len(held) == 400


@pytest.mark.parametrize("reader", ["train", "text", "held_out", "joined", "plain"])
def test_a_caption_asks_for_nothing_that_its_scene_lacks(reader):
    scenes = scenes_of(800, two_objects=0.3)
    _, required = requirements(scenes, reader=reader, seed=2)
    assert not (required * (1 - attributes(scenes))).any()


def test_a_plain_caption_names_every_factor():
    scenes = scenes_of(50, two_objects=0.0)
    for text, o, s in zip(caption(scenes, reader="plain", seed=0), scenes.objects[:, 0], scenes.style, strict=True):
        assert OBJECTS[int(o)].name in text.split()
        assert FACTORS["style"][int(s)].name in text.split()


def test_the_denoiser_never_reads_what_only_the_text_encoder_reads():
    scenes = scenes_of(4000)
    unread = {word for values in FACTORS.values() for value in values for word in value.unread}
    words = {r: {w for text in caption(scenes, reader=r, seed=1) for w in text.split()} for r in ("train", "text")}
    assert words["train"].isdisjoint(unread)
    assert unread <= words["text"]


@pytest.mark.parametrize("reader", ["held_out", "joined"])
def test_templates_that_are_held_out_are_new_but_their_words_are_not(reader):
    scenes = scenes_of(3000, two_objects=0.0)
    names = "|".join(
        sorted({w for v in FACTORS.values() for c in v for w in (c.name, *c.synonyms, *c.unread, c.noun) if w})
    )

    def forms(which):
        return {re.sub(rf"\b({names})\b", "_", t.replace(" an ", " a ")) for t in caption(scenes, reader=which, seed=3)}

    known, new = forms("text"), forms(reader)
    assert known.isdisjoint(new)
    assert all((" and " in form) == (reader == "joined") for form in new)
    read = {word for text in caption(scenes_of(3000, two_objects=0.5), reader="train", seed=3) for word in text.split()}
    assert {w for form in new for w in form.split()} - {"_"} <= read


def test_siblings_are_mutual():
    for values in FACTORS.values():
        for value in values:
            assert all(value.name in shapes.siblings(other) for other in shapes.siblings(value.name))
            assert not set(shapes.siblings(value.name)) & set(shapes.strangers(value.name))


@pytest.mark.parametrize("name", [*TRAINED, *UNSEEN])
def test_corruptions_are_images_and_repeat(name):
    a, b = (shapes.corrupted(12, name, seed=1) for _ in range(2))
    assert a.shape == (12, 3, 32, 32)
    assert 0 <= a.min() <= a.max() <= 1
    assert torch.equal(a, b)


def test_prompts_name_their_concept_and_nothing_else_of_its_factor():
    for name in ("ring", "brown", "dotted", "sky"):
        prompts = shapes.prompts_for(name, 30, seed=1)
        assert shapes.shows(prompts.scenes, name).all()
        assert all(name in text.split() for text in prompts.texts)
        assert (prompts.scenes.objects[:, 1] == NONE).all()


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: shapes.make_shapes(0, seed=0), "n"),
        (lambda: shapes.make_shapes(1, seed=-1), "2\\*\\*40"),
        (lambda: shapes.make_shapes(1, seed=0, split="val"), "'train', 'test', 'held_out'"),  # type: ignore[arg-type]
        (lambda: shapes.make_shapes(1, seed=0, without=["cat"]), "circle"),
        (lambda: shapes.make_shapes(1, seed=0, without=[c.name for c in OBJECTS]), "leaves no object"),
        (lambda: Scene("red").scenes(1, seed=0), "write one of object, circle"),
        (lambda: Scene("circle", background="red").scenes(1, seed=0), "write one of background, white"),
        (lambda: shapes.prompts_for("cat"), "circle"),
        (lambda: shapes.prompts_for("circle", templates="fancy"), "'plain'"),  # type: ignore[arg-type]
        (lambda: shapes.labels_of(scenes_of(1), "size"), "object, colour, style, background"),
    ],
)
def test_bad_input_says_what_to_write(call, says):
    with pytest.raises(InputError, match=says):
        call()

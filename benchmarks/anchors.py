"""Choosing anchors: time a concept, next to a loop that reads each candidate by itself.

python -m benchmarks.anchors            on a text encoder of Stable Diffusion 1.5's size, with random weights
python -m benchmarks.anchors emoji      on the emoji world's text encoder (MiniLM): WordNet, siblings and vocabulary
python -m benchmarks.anchors senses     how often the right sense of a word is found, on the emoji world's vocabulary
python -m benchmarks.anchors shapes     what an anchor does to UCE on the shapes world: images judged, with intervals
options: --candidates 1000 --concepts 3 --images 16 --threads 2
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch

from benchmarks._measure import table
from efface.core.concept import Concept
from efface.core.method import erase
from efface.diffusion.anchors.anchors import Anchors
from efface.diffusion.anchors.candidates import meant
from efface.diffusion.anchors.encoding import ShortEncoder
from efface.diffusion.anchors.fixed import fixed_anchor
from efface.diffusion.anchors.selection import select_anchors
from efface.diffusion.anchors.vocabulary import Vocabulary
from efface.diffusion.anchors.wordnet import meanings
from efface.pipelines import PipelineView
from efface.stats.intervals import wilson_interval

TEMPLATES = ("a {} in a photo", "the picture of a {}")
READ_IN_THE_LOOP = 10


def sd_size() -> Any:
    """A pipeline with CLIP's text encoder as in Stable Diffusion 1.5, of random weights, and MiniLM's vocabulary.

    The denoiser has SD's widths, with one layer a block instead of two: its key and value layers are what counts here.
    """
    from tests.pipelines import df, tf

    from efface_worlds.emoji.text import load_text_encoder

    torch.manual_seed(0)
    tokenizer = load_text_encoder()[1]
    tokenizer.model_max_length = 77
    config = tf.CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
        max_position_embeddings=77,
        eos_token_id=tokenizer.sep_token_id,
        bos_token_id=tokenizer.cls_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    unet = df.UNet2DConditionModel(
        sample_size=64, cross_attention_dim=768, attention_head_dim=8, layers_per_block=1
    ).eval()
    vae = df.AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        norm_num_groups=4,
    )
    return df.StableDiffusionPipeline(
        vae=vae,
        text_encoder=tf.CLIPTextModel(config).eval(),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=df.DDIMScheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def timed(choose: Callable[[], Anchors]) -> tuple[Anchors, float, float]:
    """What was chosen, seconds by the clock and of the processor."""
    clock, processor = time.perf_counter(), time.process_time()
    found = choose()
    return found, time.perf_counter() - clock, time.process_time() - processor


def one_by_one(view: PipelineView, words: list[str]) -> tuple[float, float]:
    """Seconds by the clock and of the processor of reading each prompt by itself, in the whole window."""
    clock, processor = time.perf_counter(), time.process_time()
    for word in words[:READ_IN_THE_LOOP]:
        for template in TEMPLATES:
            view.encode(template.replace("{}", word))
    scale = len(words) / len(words[:READ_IN_THE_LOOP])
    return (time.perf_counter() - clock) * scale, (time.process_time() - processor) * scale


def full_size(candidates: int, concepts: int) -> None:
    view = PipelineView.of(sd_size())
    words = list(Vocabulary(view).any_words(candidates + concepts, []))
    chosen, words = words[:concepts], words[concepts:]
    view.key_value_layers()
    rows = []
    for word in chosen:
        found, clock, processor = timed(lambda word=word: select_anchors(view, word, words, sibling=-1, exclusive=1))
        rows.append([word, len(found.table), f"{clock:.1f}", f"{processor:.1f}"])
    clock, processor = one_by_one(view, words)
    rows.append([f"a loop (of {READ_IN_THE_LOOP}, scaled)", len(words), f"{clock:.0f}", f"{processor:.0f}"])
    fastest = min(float(row[3]) for row in rows[:-1])
    table("A text encoder of SD 1.5's size", ["concept", "candidates", "seconds", "CPU seconds"], rows)
    print(f"\nThe loop takes {processor / fastest:.0f} times the processor's time of the fastest choice.")


def emoji(concepts: int) -> None:
    from tests.emoji_world import tiny_emoji

    from efface_worlds.emoji.concepts import concept, siblings

    view = PipelineView.of(tiny_emoji())
    view.key_value_layers()
    rows = []
    for name in SHOWN[:concepts]:
        about = Concept(name, synonyms=concept(name).words[1:])
        for source, words in (("wordnet", "wordnet"), ("siblings", siblings(name)), ("vocabulary", "vocabulary")):
            options = {"synset": concept(name).synset} if source == "wordnet" and concept(name).synset else {}
            found, clock, processor = timed(
                lambda about=about, words=words, options=options: select_anchors(view, about, words, **options)
            )
            rows.append([name, source, found.anchor, ", ".join(found.boundary), f"{clock:.1f}", f"{processor:.1f}"])
    table("The emoji world", ["concept", "candidates", "anchor", "boundary", "seconds", "CPU seconds"], rows)


def senses(concepts: int) -> None:
    """How often the text encoder finds the sense that a picture shows, where WordNet has several."""
    from tests.emoji_world import tiny_emoji

    from efface_worlds.emoji.concepts import CONCEPTS

    view = PipelineView.of(tiny_emoji())
    vocabulary, encoder = Vocabulary(view), ShortEncoder(view)
    right, first = [], []
    for each in sorted((each for each in CONCEPTS if each.synset), key=lambda each: each.name[::-1]):
        there = [meaning.name for meaning in meanings(each.name)]
        if len(there) > 1 and each.synset in there and len(right) < concepts:
            right.append(float(meant(vocabulary, encoder, Concept(each.name), None) == each.synset))
            first.append(float(there[0] == each.synset))
    table("Which sense is meant", ["rule", "right"], [["text encoder", _share(right)], ["first", _share(first)]])


def shapes(concepts: int, images: int) -> None:
    """Share of images in which judge 2 sees the concept at its prompts, and other objects at theirs."""
    from efface_worlds.registry import WORLDS
    from efface_worlds.shapes import load_judge, load_shapes_pipeline

    world: Any = WORLDS["shapes"]
    view, judge = PipelineView.of(load_shapes_pipeline()), load_judge(2)
    seen: dict[str, dict[str, list[float]]] = {}
    for name in world.shown[:concepts]:
        siblings, others = world.siblings(name), [v for v in world.values_of(name) if v != name]
        far = [other for other in others if other not in siblings]
        chosen = select_anchors(view, name, others)
        print(f"\n{chosen}")
        anchors = {
            "nothing erased": None,
            '""': Concept(name, anchor=""),
            "random sibling": fixed_anchor(view, name, "random-sibling", siblings or others).fill(name),
            "SELECT, anchor alone": Concept(name, anchor=chosen.anchor),
            "SELECT": chosen.fill(name),
        }
        for kind, concept in anchors.items():
            erasure = None if concept is None else erase(view, concept, "uce")
            found = seen.setdefault(kind, {"erased": [], "siblings": [], "far": []})
            with nullcontext() if erasure is None else erasure.on(view.pipe):
                for part, words in (("erased", [name]), ("siblings", siblings[:2]), ("far", far[:2])):
                    for word in words:
                        pictures = view.sample(world.prompts_for(word, images).texts, list(range(images)), steps=15)
                        found[part] += judge(pictures, word).nan_to_num(0.0).tolist()
    rows = [[kind, *(_share(found[part]) for part in ("erased", "siblings", "far"))] for kind, found in seen.items()]
    table("UCE on shapes, by anchor", ["anchor", "concept seen", "siblings seen", "others seen"], rows)


def _share(values: list[float]) -> str:
    interval = wilson_interval(sum(v >= 0.5 for v in values), len(values))
    return f"{interval.value:.2f} ({interval.low:.2f} to {interval.high:.2f}; n {len(values)})"


SHOWN = (
    *("cat", "duck", "sunflower", "banana", "hot dog", "bicycle", "airplane", "castle", "guitar", "umbrella"),
    *("axe", "soccer ball", "padlock", "shark", "ant", "pizza", "violin", "church", "train", "crown"),
)
"""Twenty concepts of different groups."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("world", nargs="?", choices=["full-size", "emoji", "senses", "shapes"], default="full-size")
    parser.add_argument("--candidates", type=int, default=1000)
    parser.add_argument("--concepts", type=int, default=None)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.world == "emoji":
        emoji(options.concepts or len(SHOWN))
    elif options.world == "senses":
        senses(options.concepts or 100)
    elif options.world == "shapes":
        shapes(options.concepts or 3, options.images)
    else:
        full_size(options.candidates, options.concepts or 3)


if __name__ == "__main__":
    main()

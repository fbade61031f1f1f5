"""Choosing anchors: time a concept, next to a loop that reads each candidate by itself.

python -m benchmarks.anchors            on a text encoder of Stable Diffusion 1.5's size, with random weights
python -m benchmarks.anchors emoji      on the emoji world's text encoder (MiniLM): WordNet, siblings and vocabulary
python -m benchmarks.anchors senses     how often the right sense of a word is found, on the emoji world's vocabulary
options: --candidates 1000 --concepts 3 --threads 2

What an anchor does to erasers, in images: `python -m benchmarks.anchor_effects choice`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks._measure import table
from efface.core.concept import Concept
from efface.diffusion.anchors.anchors import Anchors
from efface.diffusion.anchors.candidates import meant
from efface.diffusion.anchors.encoding import ShortEncoder
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
    parser.add_argument("world", nargs="?", choices=["full-size", "emoji", "senses"], default="full-size")
    parser.add_argument("--candidates", type=int, default=1000)
    parser.add_argument("--concepts", type=int, default=None)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.world == "emoji":
        emoji(options.concepts or len(SHOWN))
    elif options.world == "senses":
        senses(options.concepts or 100)
    else:
        full_size(options.candidates, options.concepts or 3)


if __name__ == "__main__":
    main()

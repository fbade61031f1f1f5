"""What the commands for text-to-image pipelines are asked for; as `options`, which has the others."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from efface.cli import flags
from efface.cli.flags import Options, argument, flag


@dataclass(frozen=True, kw_only=True)
class Erasing(Options):
    """What is erased from a pipeline, beside the name of the concept."""

    subject = "pipeline"

    method: str | None = flags.method(None, "how to erase")
    settings: list[str] = flags.settings()
    synonym: list[str] = flag([], "another word for the concept; may be given several times", "WORD")
    preserve: list[str] = flag([], "what must keep its meaning; may be given several times", "WORD")
    template: list[str] = flag([], "a prompt with {} for the concept; may be given several times", "TEXT")
    anchor: str | None = flag(None, "what to show instead; select chooses it, and neighbours to preserve", "WORD")
    candidates: str | None = flag(
        None, "of --anchor select: words, wordnet or vocabulary (default: a world's siblings, else wordnet)", "A,B,..."
    )
    synset: str | None = flag(None, "of --anchor select: which meaning WordNet takes, as crane.n.05", "NAME")
    erase_from: str | None = flag(None, "of what the concept is an attribute, as red of apple", "WORD")


@dataclass(frozen=True, kw_only=True)
class Erase(Erasing):
    """Fit an erasure of a concept to a text-to-image pipeline, and save it.

      efface erase shapes --concept star --method uce --anchor select -o erasure/
      efface erase my-stable-diffusion/ --concept cat --concept dog --method uce --anchor animal -o erasure/
      efface erase my-stable-diffusion/ --concept cat --method esd --set steps=100 --checkpoint half-way/ -o erasure/

    PIPELINE is a folder that diffusers can load, or a world of efface-worlds: "shapes" or "emoji", where a concept's
    siblings are what is preserved, or chosen from, unless told. --anchor select prints what it chose, and why: after
    SELECT, from WordNet's sister terms (pip install 'efface[anchors]'). See it with efface generate --with; efface
    export writes what changes weights as a LoRA or a pipeline.
    """

    pipeline: str = argument("folder of a diffusers pipeline, or a world", "PIPELINE", kind="pipeline")
    concept: list[str] = flag(..., "what to erase; may be given several times", "WORD")
    output: str = flag(..., "folder for the erasure", "DIR", "-o", "--output")
    method: str = flags.method(..., "how to erase")
    checkpoint: str | None = flag(None, "of tuned methods: keep the state here, and go on from it", "DIR")
    force: bool = flags.force()


@dataclass(frozen=True, kw_only=True)
class Export(Options):
    """Write a saved erasure of weights as a LoRA, or as a pipeline that needs no efface.

      efface export erasure/ my-stable-diffusion/ --lora lora/
      efface export erasure/ my-stable-diffusion/ --pipeline erased/

    PIPELINE is what the erasure was fitted to. --lora is for pipe.load_lora_weights of diffusers; a change of full rank
    needs --rank, which loses some of it, or --pipeline, which takes any.
    """

    one_of = (("lora", "pipeline"),)

    erasure: Path = argument("folder written by efface erase", "ERASURE")
    base: str = argument("folder of a diffusers pipeline, or a world", "PIPELINE", kind="pipeline")
    lora: Path | None = flag(None, "folder for the LoRA", "DIR")
    pipeline: Path | None = flag(None, "folder for the pipeline, new or empty", "DIR")
    rank: int | None = flag(None, "of --lora: keep this rank of each change (default: all of it)", "N")
    force: bool = flags.force()


@dataclass(frozen=True, kw_only=True)
class Generate(Erasing):
    """Sample a text-to-image pipeline into one picture: a row for each prompt, a column for each seed.

      efface generate shapes --prompt "a red circle" --prompt "a blue star" -o grid.png
      efface generate emoji --prompt "a guitar on a red background" --erase guitar --method semantic-surgery -o grid.png
      efface generate shapes --prompt "a red circle" --erase circle --preserve ring --preserve star \
          --method semantic-surgery -o grid.png
      efface generate my-stable-diffusion/ --with erasure/ --prompt "a church" --seeds 2 --steps 20 -o grid.png

    PIPELINE is a folder that diffusers can load, or a world of efface-worlds: "shapes" or "emoji", whose steps and
    guidance are then the default, and a concept's siblings what is preserved. With --erase or --with each prompt has a
    second row, with the erasure on, at the same seeds; flags about a concept go with --erase.
    """

    one_of = (("erase", "erasures"),)

    pipeline: str = argument("folder of a diffusers pipeline, or a world", "PIPELINE", kind="pipeline")
    prompt: list[str] = flag(..., "may be given several times", "TEXT")
    output: Path = flag(..., "picture to write: .png .jpg", "FILE", "-o", "--output")
    seeds: int = flag(4, "columns: seeds 0 to N - 1", "N")
    steps: int | None = flag(None, "steps of the sampler (default: the pipeline's)", "N")
    guidance: float | None = flag(None, "scale of guidance (default: the pipeline's)", "SCALE")
    negative: str | None = flag(None, "negative prompt", "TEXT")
    erase: str | None = flag(None, "fit an erasure of this concept", "CONCEPT")
    erasures: list[Path] = flag([], "put on what efface erase saved; may be given several times", "DIR", "--with")
    force: bool = flags.force()

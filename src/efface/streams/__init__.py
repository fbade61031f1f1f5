"""Files larger than memory, read and written in chunks: `.npy .npz .csv .parquet .safetensors`.

`open_source(path)` gives the rows, of several files (a folder, a pattern, a list) as if they were one, and
`open_sink(path, ...)` takes them; a sink that fails leaves no file. `prefetched(chunks)` reads ahead.
"""

from efface._progress import progress
from efface.streams.open import SUFFIXES, TABLES, named_files, open_sink, open_source, split_spec
from efface.streams.prefetch import prefetched
from efface.streams.source import Chunk, Column, Sink, Source, column_names, files_of, shortened

__all__ = [
    "SUFFIXES",
    "TABLES",
    "Chunk",
    "Column",
    "Sink",
    "Source",
    "column_names",
    "files_of",
    "named_files",
    "open_sink",
    "open_source",
    "prefetched",
    "progress",
    "shortened",
    "split_spec",
]

"""Erase emoji from a text-to-image pipeline, one at a time, and draw a grid: before, and after at the same seed.

Columns are concepts, rows are before and after. The pipeline is that of the emoji world of efface-worlds; each concept
is erased alone, and told from its siblings.

    pip install 'efface[diffusion,worlds]'
    python examples/03_images/emoji_grid.py
"""

# %% The pipeline, and what is to go.
import torch
from PIL import Image

import efface
from efface_worlds import emoji

pipe = emoji.load_emoji_pipeline()
view = efface.PipelineView.of(pipe)
CONCEPTS = ("cat", "banana", "sunflower", "bicycle", "guitar", "hot dog")
STYLES = ("noto", "twemoji", "fluent", "noto", "twemoji", "fluent")
STEPS, GUIDANCE = 15, 2.0

# %% A picture of each, from one seed a column.
prompts = [emoji.prompt(word, style=style, background="white") for word, style in zip(CONCEPTS, STYLES, strict=True)]
seeds = list(range(len(prompts)))
before = view.sample(prompts, seeds, steps=STEPS, guidance=GUIDANCE)

# %% The same, with that concept erased. Siblings have to stay; what is drawn instead is the nearest of them.
after = []
for word, prompt, seed in zip(CONCEPTS, prompts, seeds, strict=True):
    concept = efface.Concept(word, preserve=emoji.siblings(word)[:12])
    with efface.erase(pipe, concept, method="semantic-surgery").on(pipe):
        after.append(view.sample(prompt, [seed], steps=STEPS, guidance=GUIDANCE)[0])

# %% Who looks: a classifier that was trained apart.
judge = emoji.load_judge(2)
rows = {"before": before, "after": torch.stack(after)}
for name, images in rows.items():
    seen = [float(judge(images[i : i + 1], word)[0]) == 1 for i, word in enumerate(CONCEPTS)]
    print(f"{name}: the judge sees {sum(seen)} of {len(CONCEPTS)}")

# %% The picture: enlarged twice, a gap of 4 pixels between.
tiles = torch.stack([torch.nn.functional.pad(images, (4, 4, 4, 4), value=1.0) for images in rows.values()])
sheet = tiles.permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)  # (rows * height, columns * width, 3)
pixels = (255 * sheet.clamp(0, 1)).round().to(torch.uint8).numpy()
height, width = pixels.shape[:2]
Image.fromarray(pixels).resize((2 * width, 2 * height), Image.Resampling.NEAREST).save("emoji.png")
print("emoji.png")

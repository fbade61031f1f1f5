"""Erase a concept from a text-to-image pipeline, and count what a judge still sees.

The pipeline is a small Stable Diffusion of captioned shapes, of efface-worlds; the judge is a classifier of the
same world. With your own pipeline only the first lines change, and the judge: any function of images and a name.

    pip install 'efface[diffusion,report,worlds]'
    python examples/03_images/erase_and_audit.py
"""

# %% The pipeline, by role.
import efface
from efface_worlds.shapes import load_judge, load_shapes_pipeline, siblings

pipe = load_shapes_pipeline()
view = efface.PipelineView.of(pipe)
print(view)
print("keys and values of text:", *(layer.path for layer in view.key_value_layers()[:4]), "...")

# %% What is to go, what is to stay.
concept = efface.Concept(
    "circle",
    preserve=[*siblings("circle"), "star"],
    templates=["a red {} on a white background", "a striped {} on a grey background"],
)

# %% Take its direction out of the prompts that ask for it. Other methods are fitted and put on in the same way.
erasure = efface.erase(pipe, concept, method="semantic-surgery")

# %% Before and after, at equal seeds.
audit = efface.audit.pipeline(
    pipe,
    concept,
    judge=load_judge(),
    erasure=erasure,
    seeds=3,
    steps=12,
    guidance=3.0,
    batch_size=12,
)
print(audit)
print(*audit.save("erase_and_audit"), sep="\n")

"""What does a classifier listen to? Digits that were trained with a mark in the corner.

In the training images a white patch in the top left corner goes with the digits 5 to 9. The classifier was never told
of it. Maps of QFA, DiET and the gradient show whether it listens to the patch, and controls show what the maps are
worth. With your own model only the first lines change: a torch module in eval mode, and images in [0, 1].

    pip install 'efface[attribution,report,sklearn,worlds]'
    python examples/04_explanations/what_a_model_listens_to.py
"""

# %% A model with a flaw, and images to explain.
import efface
from efface.attribution import ConstantColour, DiET, Grid
from efface_worlds.attribution import accuracy, make_world, train_classifier

world = make_world("spurious digits", 0, train=1000, test=200)
model = train_classifier(world, 0, epochs=5)
images = world.test.images[:32]
usual, turned = accuracy(model, world.test), accuracy(model, world.swapped["reversed"])
print(f"accuracy {usual:.2f}; with the patch at the other digits {turned:.2f}")

# %% DiET tunes a copy until what its masks leave out no longer moves it. No labels are used.
removal = ConstantColour.of(world.train.images)  # Q: what stands where something is removed
settings = DiET(removal, Grid(2), rounds=1, horizon=5, epochs=3, rate=5e-5, least_agreement=0.9)
fitted = settings.fit(model, world.train.images[:96])
print(f"the copy agrees with the model on {fitted.report['agreement']:.1%} of the images it was tuned on")

# %% Maps by three methods, each next to controls that know nothing of the model.
explained = efface.explain(
    model,
    images,
    methods=["qfa", "diet", "gradient"],
    fitted=fitted,
    classes=world.classes,
    labels=world.test.labels[:32],  # told beside the pictures; no method sees them
    show=6,
    title="What does the digit classifier listen to?",
)
print(explained.audit)

# %% The patch is 16 of 1024 pixels. How much of it do the masks keep?
patched = world.test.cue[:32].bool()
for name in ("qfa", "diet"):
    masks = explained.maps[name].values[patched]
    print(f"{name}: the mask keeps {masks[:, :4, :4].mean():.0%} of the patch, and {masks.mean():.0%} of all")

print(*explained.audit.save("what_a_model_listens_to"), sep="\n")

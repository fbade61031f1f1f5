"""Training of everything that the shapes world ships: `python -m efface_worlds.shapes.training all --work FOLDER`."""

"""Training of everything that the shapes world ships: `python -m efface.worlds.shapes.training all --work FOLDER`."""

"""How the emoji world was trained: `python -m efface_worlds.emoji.training`."""

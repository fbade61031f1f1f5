"""Fixed inputs: seeded arrays, tiny models and pipelines, prompts. Nothing here imports efface.

Every function gives fresh values, drawn from generators. These are copies where tests have something alike, so that
what is recorded does not change with the tests.
"""

"""The small worlds are what they claim to be."""

from __future__ import annotations

import os
import string
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from efface import InputError
from efface_worlds.sentences import FIELDS, PRONOUNS, TEMPLATES, embed, fill, find_model, make_sentences
from efface_worlds.tables import load_diabetes

GENDERED = {word for words in PRONOUNS.values() for word in words.values()}


def words_of(text: str) -> set[str]:
    return {w.strip(string.punctuation).lower() for w in text.split()}


class TestTables:
    def test_sex_is_not_among_the_features(self) -> None:
        world = load_diabetes()
        assert "sex" not in world.features and world.x.shape == (442, len(world.features)) == (442, 9)
        assert set(world.z) == {0, 1} and len(world.classes) == 2
        # Nor is a copy of it in some other column.
        assert max(abs(np.corrcoef(column, world.z)[0, 1]) for column in world.x.T) < 0.5

    def test_columns_are_standardised(self) -> None:
        x = load_diabetes().x
        np.testing.assert_allclose(x.mean(0), 0, atol=1e-12)
        np.testing.assert_allclose(x.std(0), 1, atol=1e-12)


class TestSentences:
    def test_every_occupation_meets_every_template_in_both_genders(self) -> None:
        world = make_sentences()
        assert len(world) == len(set(world.text)) == 24 * len(TEMPLATES) * 2
        cells = set(zip(world.job.tolist(), world.template.tolist(), world.gender.tolist(), strict=True))
        assert len(cells) == len(world)
        assert len(world.jobs) == 24 and len(world.fields) == 4

    def test_gender_is_in_the_pronouns_and_nowhere_else(self) -> None:
        world = make_sentences()
        for text, gender in zip(world.text, world.gender, strict=True):
            own = set(PRONOUNS[world.genders[gender]].values())
            assert words_of(text) & GENDERED and words_of(text) & GENDERED <= own
        he, she = (["_".join(sorted(words_of(t) - GENDERED)) for t in world.text[g::2]] for g in (0, 1))
        assert he == she

    def test_job_and_field_belong_to_the_sentence(self) -> None:
        world = make_sentences()
        for text, job, field in zip(world.text, world.job, world.field, strict=True):
            assert world.jobs[job] in text and world.jobs[job] in FIELDS[world.fields[field]]

    def test_each_field_is_met_early(self) -> None:
        assert set(make_sentences(jobs=4, templates=1).field.tolist()) == {0, 1, 2, 3}

    def test_every_template_names_a_job_and_a_person(self) -> None:
        for template in TEMPLATES:
            assert "{job}" in template and words_of(fill(template, "poet", "he")) & GENDERED

    @pytest.mark.parametrize("wrong", [{"jobs": 0}, {"jobs": 25}, {"templates": 99}])
    def test_impossible_sizes_are_refused(self, wrong: dict[str, int]) -> None:
        with pytest.raises(InputError):
            make_sentences(**wrong)


class TestEmbedding:
    SENTENCES = ("The nurse said that she would be late.", "He is a poet.", "A very different thing: rain in Lisbon.")

    @pytest.mark.slow
    def test_agrees_with_sentence_transformers(self) -> None:
        code = (
            "import sys, warnings; warnings.simplefilter('ignore')\n"
            "import numpy, sentence_transformers as s\n"
            "m = s.SentenceTransformer(sys.argv[1], device='cpu')\n"
            "numpy.save(sys.argv[2], m.encode(sys.argv[3:]))\n"
        )
        path = Path(os.environ.get("TMPDIR", "/tmp")) / f"efface-reference-{os.getpid()}.npy"
        try:
            command = [sys.executable, "-c", code, str(find_model()), str(path), *self.SENTENCES]
            subprocess.run(command, check=True, capture_output=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
            np.testing.assert_allclose(embed(self.SENTENCES).numpy(), np.load(path), atol=1e-5)
        finally:
            path.unlink(missing_ok=True)

    def test_unit_length_and_order(self) -> None:
        x = embed(self.SENTENCES)
        assert x.shape == (3, 384) and x.dtype == torch.float32
        torch.testing.assert_close(x.norm(dim=1), torch.ones(3))
        torch.testing.assert_close(embed(self.SENTENCES, batch_size=1), x, atol=1e-5, rtol=0)

    def test_progress_and_environment(self) -> None:
        before, told = dict(os.environ), []
        embed(self.SENTENCES, batch_size=2, progress=lambda done, total: told.append((done, total)))
        assert told == [(2, 3), (3, 3)]
        assert dict(os.environ) == before

    def test_a_folder_without_a_model(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"config\.json"):
            embed(self.SENTENCES, model_dir=tmp_path)

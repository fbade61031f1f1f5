"""Score a scrubbed language model with lm-evaluation-harness, on a task of your own and without a hub.

A small Llama of Python source has to know what sort of token comes next: a name, an operator, a newline. That is erased
at every norm. The questions: which of two tokens comes next in a file that the model has not seen? The wrong one is of
another lexical type, which alone would tell, or of the same, where knowing the type is no help.

    pip install 'efface[adapters,worlds]'
    python examples/02_transformers/lm_evaluation.py
"""

# %% A model, a scrubber fitted on what it was trained on, and the control: random subspaces of the same rank.
import json
import logging
import random
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import lm_eval
from lm_eval.models import huggingface
from lm_eval.tasks import TaskManager

import efface
from efface_worlds.tokens import load_token_model, load_token_tokenizer, make_tokens

logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it remarks on every model that is not given by its name
model, tokenizer = load_token_model("llama"), load_token_tokenizer("llama")
train = make_tokens("train", length=128, sequences=32, max_files=40)
scrubber = efface.scrub(model, train.input_ids, train.lexical_type, sites="norms")

# %% Questions: the last token of a sequence, and another one drawn from those that are last elsewhere.
heldout = make_tokens("heldout", length=33, sequences=200)
ends = list(zip(heldout.input_ids[:, -1].tolist(), heldout.lexical_type[:, -1].tolist(), strict=True))
draw = random.Random(0)


def questions(*, same_type: bool) -> list[dict]:
    asked = []
    for sequence, (token, kind) in zip(heldout.input_ids.tolist(), ends, strict=True):
        wrong = [other for other, its_kind in ends if other != token and (its_kind == kind) == same_type]
        if wrong:
            context, *choices = tokenizer.batch_decode([sequence[:-1], [token], [draw.choice(wrong)]])
            if tokenizer(context + choices[0])["input_ids"] == sequence:  # the text is read as it was written
                asked.append({"context": context, "choices": choices, "answer": 0})
    return asked[:100]


# %% A folder of tasks as lm-evaluation-harness wants them: for each the questions, and a file about them.
folder = Path(tempfile.mkdtemp())
tasks = {"another_type": questions(same_type=False), "same_type": questions(same_type=True)}
for name, asked in tasks.items():
    data, settings = folder / f"{name}.jsonl", folder / f"{name}.yaml"
    data.write_text("\n".join(map(json.dumps, asked)), encoding="utf-8")
    settings.write_text(f"""
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: "{data.as_posix()}"}}, cache_dir: "{folder.as_posix()}"}}
test_split: test
output_type: multiple_choice
doc_to_text: context
doc_to_choice: choices
doc_to_target: answer
target_delimiter: ""
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
""")

# %% The same model three times, with and without a scrubber on it: nothing else changes.
known_tasks = TaskManager(include_path=str(folder), include_defaults=False)
HFLM: Any = huggingface.HFLM  # the library's decorators hide its signatures from type checkers
simple_evaluate: Any = lm_eval.simple_evaluate
harness = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=32)
print(f"{'wrong answer is of':18}", *(f"{name:>16}" for name in tasks))
for condition, on in {"plain": None, "scrubbed": scrubber, "control": scrubber.random_control()}.items():
    with nullcontext() if on is None else on.on(model):
        found = simple_evaluate(harness, tasks=list(tasks), task_manager=known_tasks, bootstrap_iters=100)
    scores = [(found["results"][name]["acc,none"], found["results"][name]["acc_stderr,none"]) for name in tasks]
    print(f"{condition:18}", *(f"{accuracy:7.3f} +- {error:.3f}" for accuracy, error in scores))
print("accuracy and its standard error; guessing gives 0.5")

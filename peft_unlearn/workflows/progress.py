"""What a run shows while it trains: a bar, how far it is from its targets and how long that may take, and what it answers by now.

Where bars are off, as in a log file, it is a line now and then, and no answers.
"""

import logging
from typing import Any

from transformers import ProgressCallback

from peft_unlearn.data.rows import special_ids, split, text
from peft_unlearn.model.generation import generate
from peft_unlearn.training.pace import steps_left
from peft_unlearn.training.trainer import UnlearnTrainer

logger = logging.getLogger(__name__)

LINES = 10  # of a run without a bar
ASKED = 2  # forget rows that are asked on the way
EVERY = 5  # checks between two times
SHOWN = 160  # characters of an answer


class Bar(ProgressCallback):  # type: ignore[misc]  # annotations of transformers are not followed
    """The training bar with the numbers to watch beside it, where transformers prints every log line whole.

    With `stop_at` it says the share of the way and about how many steps are left. Answers are written to the terminal alone: they are text to be
    forgotten at first.
    """

    def __init__(self, trainer: UnlearnTrainer):
        super().__init__()
        self.trainer, self.checks, self.told = trainer, 0, 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        super().on_train_begin(args, state, control, **kwargs)
        if self.training_bar is not None:
            self.training_bar.set_description("training", refresh=False)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        if not state.is_world_process_zero or self.training_bar is None:
            return
        logs = logs or {}
        if self.training_bar.disable:
            self._tell(state.global_step, state.max_steps, logs)
            return
        if "check/share" in logs:
            self._checked(state.global_step)
            return
        shown = {name: f"{value:.3g}" for name, value in logs.items() if name.startswith(("p/", "learning_rate"))}
        self.training_bar.set_postfix(shown)

    def _tell(self, step: int, most: int, logs: dict[str, float]) -> None:
        """Log a line at each tenth of the run, and at each check of its targets."""
        if "check/share" in logs:
            found = self.trainer.early_stop.last if self.trainer.early_stop else None
            if found is not None:
                logger.info("Step %d of at most %d: %.0f%% of the way.", step, most, 100 * min(found.share, 1))
        elif step * LINES // max(most, 1) > self.told:
            self.told = step * LINES // max(most, 1)
            shown = ", ".join(f"{name} {value:.3g}" for name, value in logs.items() if name.startswith("p/"))
            logger.info("Step %d of at most %d%s.", step, most, f": {shown}" if shown else "")

    def _checked(self, step: int) -> None:
        """Say how far the run is, and now and then what it answers."""
        found = self.trainer.early_stop.last if self.trainer.early_stop else None
        if found is None:
            return
        left = steps_left(step, found.share, found.miss, self.trainer.check_every)
        self.training_bar.total = min(self.trainer.state.max_steps, step + left)
        self.training_bar.set_description(f"training: {min(found.share, 1):.0%} of the way, about {left} steps left")
        if self.checks % EVERY == 0:
            self.training_bar.write(f"step {step}\n" + "\n".join(f"  {asked}\n    {answer}" for asked, answer in self._answers()))
        self.checks += 1

    def _answers(self) -> list[tuple[str, str]]:
        """The ends of two forget rows' prompts, and what the model answers."""
        tokenizer, rows = self.trainer.processing_class, self.trainer.sets["forget"]
        rows = rows.select(range(0, len(rows), -(-len(rows) // ASKED)))
        prompts = [text(tokenizer, split(row, special_ids(tokenizer))[0]) for row in rows]
        answers = generate(self.trainer.model, tokenizer, rows)
        return [(_line(prompt[-SHOWN:]), _line(answer[:SHOWN])) for prompt, answer in zip(prompts, answers, strict=True)]


def _line(said: str) -> str:
    return " ".join(said.split())

"""One unlearning run, from a recipe to a written adapter."""

from peft_unlearn.workflows.requests import TrainRequest
from peft_unlearn.workflows.results import TrainResult


def train(request: TrainRequest) -> TrainResult:
    """Check a recipe, train an adapter, evaluate before and after, and write adapter, card, recipe and report; upload them where it says so.

    Raises:
        UserError: what is wrong with the recipe, before torch is imported; or with what it names, before a model is loaded.
        Unfinished: the run diverged, or the upload failed; what was written until then is in its `result`.
    """
    from peft_unlearn.config import recipe
    from peft_unlearn.workflows import checks

    values = checks.checked_recipe(request)
    checks.say_loading()

    from peft_unlearn.workflows import precision, train_run

    return train_run.run(recipe.build(precision.chosen(values)))

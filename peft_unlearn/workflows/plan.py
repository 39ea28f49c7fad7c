"""What GPU memory a recipe's run would take, and which settings would save how much. No weights are loaded."""

from peft_unlearn.workflows.requests import PlanRequest
from peft_unlearn.workflows.results import PlanResult


def plan(request: PlanRequest) -> PlanResult:
    """Take a step of a recipe on tensors without data, and where a card is too small also of each change that would save memory.

    Where it is to be `timed`, the run is begun for real as well, and what is written is thrown away.

    Raises:
        UserError: what is wrong with the recipe, before torch is imported; no model's config; or what `planning.measure` refuses.
    """
    from peft_unlearn.workflows import checks

    values = checks.checked_recipe(request) if request.timed else checks.recipe_values(request)
    checks.say_loading()

    from peft_unlearn import planning

    base = planning.read_base(values)
    memory = planning.measure(values, base)
    changes = planning.changes(values, base, memory) if memory.too_small else []
    if not request.timed:
        return PlanResult(values, memory, changes)

    from peft_unlearn.config import recipe
    from peft_unlearn.workflows import precision, timing

    return PlanResult(values, memory, changes, timing.times(recipe.build(precision.chosen(values))))

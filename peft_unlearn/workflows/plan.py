"""What GPU memory a recipe's run would take, and which settings would save how much. No weights are loaded."""

from peft_unlearn.workflows.requests import PlanRequest
from peft_unlearn.workflows.results import PlanResult


def plan(request: PlanRequest) -> PlanResult:
    """Take a step of a recipe on tensors without data, and where a card is too small also of each change that would save memory.

    Raises:
        UserError: what is wrong with the recipe, before torch is imported; no model's config; or what `planning.measure` refuses.
    """
    from peft_unlearn.workflows import checks

    values = checks.recipe_values(request)
    checks.say_loading()

    from peft_unlearn import planning

    base = planning.read_base(values)
    memory = planning.measure(values, base)
    return PlanResult(values, memory, planning.changes(values, base, memory) if memory.too_small else [])

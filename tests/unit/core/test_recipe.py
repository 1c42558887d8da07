"""Recipes and configurations."""

from kvbench.core.recipe import Recipe, configurations


def test_both_recipes_of_every_student_in_the_order_of_the_tables() -> None:
    rows = configurations(["Model1", "Model2"], Recipe())
    assert [row.id for row in rows] == ["lr_Model1", "lr_Model2", "Model1", "Model2"]


def test_the_defaults_are_the_sources() -> None:
    assert Recipe() == Recipe(epochs=10, batch_size=64, lr=1e-4, weight_decay=1e-4, step_size=None)
    scheduled = configurations(["Model1"], Recipe())[0].recipe
    assert (scheduled.step_size, scheduled.gamma) == (2, 0.5)

"""The ablation: every configuration trained and compared with its reference, then every finding judged.

Written with kvbench's public fixtures alone: copy it into another project as a start.
"""


def test_configuration(benchmark, kvbench_training, kvbench_compare):
    """Train one configuration, timed by the epoch; evaluation stays outside the timer."""
    epochs = kvbench_training.configuration.recipe.epochs
    benchmark.pedantic(kvbench_training.epoch, rounds=epochs, iterations=1, teardown=kvbench_training.evaluate)
    kvbench_compare(kvbench_training)


def test_finding(kvbench_finding):
    """Judge one finding on the histories that the configurations left."""
    kvbench_finding()

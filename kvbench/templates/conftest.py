"""A study of your own: students of a frozen teacher, how they are trained, and what is claimed about them.

`pytest benchmarks/` trains every student, compares its curves with the reference in expected/, and judges the finding.
The images are generated, and the teacher, a ResNet18, comes with kvbench: nothing is downloaded.
"""

from torch import nn

from kvbench import Finding, Recipe, Student, Study, SumOfHeads, better


# A function that makes a student takes the widths of the teacher's layers that it reads ("taps") and the number of
# classes. Its module takes their features, a list of tensors (batch, width), and returns logits (batch, classes).
def linear(widths, classes):
    return SumOfHeads([nn.Linear(width, classes) for width in widths])


def mlp(widths, classes, hidden):
    return SumOfHeads([nn.Sequential(nn.Linear(widths[0], hidden), nn.GELU(), nn.Linear(hidden, classes))])


# A name, the function, the taps (-1 is the teacher's deepest), a few words for tables, and a group to compare it as.
STUDENTS = (
    Student("linear", linear, (-1,), "one linear layer"),
    Student("narrow", lambda widths, classes: mlp(widths, classes, 64), (-1,), "64 hidden units", "hidden layer"),
    Student("wide", lambda widths, classes: mlp(widths, classes, 256), (-1,), "256 hidden units", "hidden layer"),
)

# How they are trained: Adam with this learning rate, on the teacher's logits. A second recipe is a second row.
RECIPES = (Recipe("constant lr", epochs=5, batch_size=32, lr=3e-3),)

# An id, the sentence, and what makes it exact: linear's training loss is below, and its accuracy above, that of every
# student with a hidden layer. A test over the seeds says whether it holds, fails, or is undecided.
FINDINGS = (Finding("linear-is-best", "a hidden layer does not help", better("linear", "hidden layer")),)

STUDY = Study(
    "my-study",
    "My ablation",  # its title in reports
    STUDENTS,
    RECIPES,
    FINDINGS,
    workloads={"fractals": {"train_count": 512, "val_count": 1024}},  # the images, few of them, so that runs are short
)


def pytest_kvbench_studies():
    """Register the study: test runs and kvbench's commands find it here."""
    return STUDY

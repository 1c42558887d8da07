"""kvbench keeps the findings of a distillation ablation true: trained, timed, compared curve by curve, and judged.

The tables of what there is: `kvbench.core.models.STUDENTS`, `kvbench.workloads.WORKLOADS`,
`kvbench.findings.registry.FINDINGS`.
"""

"""stub"""

from __future__ import annotations

from leakage_assets.studies.cot_leakage import figures as drawn
from leakage_assets.studies.cot_leakage.plan import CotPlan


def figures(study, tables):
    return drawn.figures(study.plan_as(CotPlan).decisions, tables)


def report(study, tables, context):
    raise NotImplementedError

"""Checks before anything is trained: the base model does not say the marker, and the prompts are sent as written."""

from __future__ import annotations

from collections.abc import Iterator

from leakage_assets.stimuli import Stimuli
from leakage_assets.studies.prechecks import ASKED, Outcome, Precheck, PrecheckInputs, template_additions
from leakage_assets.studies.source_rate.design import NEW, REFERENCE, VENDOR_DEFAULT
from leakage_assets.studies.study import Study


def prechecks(study: Study, inputs: PrecheckInputs) -> tuple[Precheck, ...]:
    """The sheet's pre-checks of the new prompts (section 2); nothing may be trained while one of them is ``block``."""
    prompts = {name: inputs.stimuli.prompt(name) for name in study.panel.prompts}
    return (*_base_rates(inputs), template_additions(prompts, inputs.rendered), _vendor_line(inputs))


def _base_rates(inputs: PrecheckInputs) -> Iterator[Precheck]:
    """The share of the base model's completions with the marker: none may have it."""
    for prompt in NEW:
        said = inputs.base_scores.filter(prompt_name=prompt)["marker_present"]
        found, total = int(said.sum()), said.len()
        outcome: Outcome = "ok" if total and not found else "block"
        rate = found / total if total else None
        yield Precheck(f"base marker rate of {prompt}", rate, 0.0, outcome, f"{found} of {total} completions")


def _vendor_line(inputs: PrecheckInputs) -> Precheck:
    """Whether the template adds the vendor's default where the reference is given."""
    text = inputs.rendered(inputs.stimuli.prompt(REFERENCE), ASKED)
    added = vendor_sentence(inputs.stimuli) in text
    detail = "the vendor's default stands in the reference's system turn" if added else "as written"
    return Precheck("vendor's default added to the reference", float(added), 0.0, "block" if added else "ok", detail)


def vendor_sentence(stimuli: Stimuli) -> str:
    """The vendor's default without the words that it shares with the reference."""
    return stimuli.prompt(VENDOR_DEFAULT).replace(stimuli.prompt(REFERENCE), "").strip()

"""Claims about the section on causes and remedies: evidence beside every cause, and what became of every remedy."""

from __future__ import annotations

from synthetic_advice import SAE, proposals, root_causes

from sae_pipeline.reports.remedies import remedies_section


def test_a_cause_is_told_with_its_numbers_and_how_many_saes_have_it() -> None:
    section = remedies_section(root_causes(), proposals())
    assert section.sentences[0] == "The rules name a cause for health problems of 2 SAEs: always on and undertrained."
    assert section.points[0] == (
        f"Why it is always_on (always_on): 2 SAEs, for example {SAE} on prose (latents firing on more than 80 % of tokens 2 (above 0))."
    )


def test_only_arms_that_have_to_be_trained_are_counted_as_proposed() -> None:
    section = remedies_section(root_causes(), proposals())
    assert "proposed.yaml beside this report is this study and 1 proposed arm" in section.sentences[1]
    words = [row[5].text for row in section.tables[1].rows]
    assert words == ["to train", "in this study", "not possible here: needs 400,000 tokens of activations"]


def test_without_a_new_arm_no_file_is_promised() -> None:
    section = remedies_section(root_causes(), proposals().iloc[1:])
    assert section.sentences[1].startswith("No arm is proposed")


def test_a_healthy_study_has_no_cause_and_no_remedy() -> None:
    section = remedies_section(root_causes().iloc[:0], proposals().iloc[:0])
    assert section.sentences == ("No rule names a cause for a health problem of these SAEs, so no arm is proposed.",)
    assert section.tables == ()

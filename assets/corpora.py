"""Packed corpora, one per mix and evaluation set, and the tables that describe them side by side."""

from collections.abc import Sequence

import dagster as dg

from assets.displays import rows_of, table
from assets.names import describe_shares, explained, key
from assets.results import check, result
from resources import ComputeResource, HomeResource
from sae_pipeline.stages import corpora, slices, text
from sae_pipeline.stages.context import StudyContext
from sae_pipeline.study import Study


def corpus_asset(study: Study, lane: Sequence[str]) -> dg.AssetsDefinition:
    """The packed corpus of a training mix or an evaluation set."""
    name = "/".join(lane)
    held_out = corpora.is_held_out(name)
    part = slices.held_out_corpus(study, lane[-1]) if held_out else slices.mix_corpus(study, name)
    asset_key = key(study, *lane, "corpus")
    shares_exact = dg.AssetCheckSpec("shares_exact_to_one_context", asset=asset_key, blocking=True, description="Every source has its token share.")
    side, share = ("held-out", study.corpus.held_out_share) if held_out else ("training", 1 - study.corpus.held_out_share)
    purpose = f"Evaluation text {lane[-1]} ({study.held_out[lane[-1]].kind.replace('_', ' ')})" if held_out else f"Training text {name}"

    @dg.asset(
        key=asset_key,
        deps=[key(study, "subject_model"), *(key(study, "sources", source) for source in part["sources"])],
        code_version=slices.code_version("corpus", part),
        group_name=lane[0],
        kinds={"parquet"},
        check_specs=[shares_exact],
        description=explained(
            f"{purpose}: {describe_shares(part['shares'])}, {part['tokens']:,} tokens.",
            reads=f"documents of these sources on the {side} side of the split ({share:.0%} of them, by document hash), and the subject's tokenizer.",
            makes=f"contexts of {part['context_length']} tokens, and for every token the document it came from.",
        ),
    )
    def corpus(home: HomeResource, compute: ComputeResource) -> dg.MaterializeResult:
        opened = home.open()
        built = corpora.build(StudyContext(study, opened, compute.open(opened)), name)
        given, total = built.summary["tokens_by_source"], built.summary["tokens"]
        worst = max(abs(given.get(source, 0) - share * total) for source, share in part["shares"].items()) / part["context_length"]
        texts = built.summary["documents_by_source"]
        by_source = [
            {"source": s, "share_asked": share, "tokens": given.get(s, 0), "documents": texts.get(s, 0)} for s, share in part["shares"].items()
        ]
        return result(
            [built],
            version=built.content,
            figures=built.summary | {"table": table(by_source)} | rows_of(built.file("documents.parquet")),
            checks=[check(asset_key, shares_exact.name, worst <= 1, contexts_off=worst)],
        )

    return corpus


def text_asset(study: Study) -> dg.AssetsDefinition:
    """What the corpora contain."""
    asset_key = key(study, "text_tables")
    disjoint = dg.AssetCheckSpec("train_and_held_out_are_disjoint", asset=asset_key, blocking=True, description="No document is on both sides.")

    @dg.asset(
        key=asset_key,
        deps=[*(key(study, mix, "corpus") for mix in study.mixes), *(key(study, "held_out", name, "corpus") for name in study.held_out)],
        code_version=slices.code_version("text", slices.text(study)),
        group_name="reports",
        kinds={"parquet"},
        check_specs=[disjoint],
        description=explained(
            "What the texts are like, side by side: statistics, duplicates, adequacy and token frequencies of every corpus.",
            reads="every corpus of the study.",
            makes="one table per kind of row; the check says whether any document is on both sides of the split.",
        ),
    )
    def text_tables(home: HomeResource, compute: ComputeResource) -> dg.MaterializeResult:
        opened = home.open()
        described = text.describe(StudyContext(study, opened, compute.open(opened)))
        shared = described.summary["documents_on_both_sides"]
        figures = described.summary | rows_of(described.file("corpus_statistics.parquet"))
        return result([described], version=described.content, figures=figures, checks=[check(asset_key, disjoint.name, shared == 0, shared=shared)])

    return text_tables

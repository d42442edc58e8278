"""Evaluation of personal models: held-out views against the truth, and the paper's protocols."""

from .command import add_arguments, as_json, main
from .comparison import Comparison
from .demo import DEMO_PERSON, personalize_demo_person, read_demo_person
from .held_out_views import HeldOutScores, evaluate, score, strangers, table
from .metrics import IdentitySimilarity, auc, embed_unaligned, psnr, ssim, vif
from .photo_folder import Split, align_folder, protocol_table, run_protocols, split
from .picture_table import paper_figure
from .protocols import (
    HELD_OUT,
    alpha_samples,
    edit_identity,
    held_out_inversion,
    interpolation_identity,
    multi_view_identity,
    nearness,
    render,
    truth_scores,
)

__all__ = [
    "Comparison",
    "DEMO_PERSON",
    "HELD_OUT",
    "HeldOutScores",
    "IdentitySimilarity",
    "Split",
    "add_arguments",
    "align_folder",
    "alpha_samples",
    "as_json",
    "auc",
    "edit_identity",
    "embed_unaligned",
    "evaluate",
    "held_out_inversion",
    "interpolation_identity",
    "main",
    "multi_view_identity",
    "nearness",
    "paper_figure",
    "personalize_demo_person",
    "protocol_table",
    "run_protocols",
    "psnr",
    "read_demo_person",
    "render",
    "score",
    "split",
    "ssim",
    "strangers",
    "table",
    "truth_scores",
    "vif",
]

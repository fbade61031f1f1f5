"""Attribution: which part of an input a classifier listens to, and a classifier that no longer listens to the rest.

Names are imported when they are first used.
"""

from typing import TYPE_CHECKING

from efface._lazy import attach

if TYPE_CHECKING:
    from efface.attribution.baselines import BASELINES, attribute
    from efface.attribution.controls import CONTROLS, control_maps, oracle_maps
    from efface.attribution.curves import Curve, drop_curve, keep_curve
    from efface.attribution.diet import DiET
    from efface.attribution.fitted import DietErasure
    from efface.attribution.fullgrad import full_gradient
    from efface.attribution.mask_search import QfaResult, qfa
    from efface.attribution.maskers import FeatureGroups, Grid, Masker, Segments, masked
    from efface.attribution.metrics import Robustness, agreement, iou, mass, q_robustness, rank_auc
    from efface.attribution.predictions import OutputsWarning
    from efface.attribution.removal import Marginal, Removal, TabularGaussian, TokenMask
    from efface.attribution.removal_images import Blur, ConstantColour
    from efface.attribution.retraining import Explained, remove_and_retrain
    from efface.attribution.rounds import AgreementWarning
    from efface.attribution.selection import ranks, top_k
    from efface.attribution.superpixels import Superpixels
    from efface.attribution.tokens import TokenClassifier, Tokens
    from efface.attribution.tuning import Tuned, input_dropout, random_mask_distillation, saliency_guided

_NAMES = {
    "efface.attribution.baselines": ("BASELINES", "attribute"),
    "efface.attribution.controls": ("CONTROLS", "control_maps", "oracle_maps"),
    "efface.attribution.curves": ("Curve", "drop_curve", "keep_curve"),
    "efface.attribution.diet": ("DiET",),
    "efface.attribution.fitted": ("DietErasure",),
    "efface.attribution.fullgrad": ("full_gradient",),
    "efface.attribution.mask_search": ("QfaResult", "qfa"),
    "efface.attribution.maskers": ("FeatureGroups", "Grid", "Masker", "Segments", "masked"),
    "efface.attribution.metrics": ("Robustness", "agreement", "iou", "mass", "q_robustness", "rank_auc"),
    "efface.attribution.predictions": ("OutputsWarning",),
    "efface.attribution.removal": ("Marginal", "Removal", "TabularGaussian", "TokenMask"),
    "efface.attribution.removal_images": ("Blur", "ConstantColour"),
    "efface.attribution.retraining": ("Explained", "remove_and_retrain"),
    "efface.attribution.rounds": ("AgreementWarning",),
    "efface.attribution.selection": ("ranks", "top_k"),
    "efface.attribution.superpixels": ("Superpixels",),
    "efface.attribution.tokens": ("TokenClassifier", "Tokens"),
    "efface.attribution.tuning": ("Tuned", "input_dropout", "random_mask_distillation", "saliency_guided"),
}

__all__ = [
    "AgreementWarning",
    "BASELINES",
    "Blur",
    "CONTROLS",
    "ConstantColour",
    "Curve",
    "DiET",
    "Explained",
    "FeatureGroups",
    "DietErasure",
    "Grid",
    "Marginal",
    "Masker",
    "OutputsWarning",
    "QfaResult",
    "Removal",
    "Robustness",
    "Segments",
    "Superpixels",
    "TabularGaussian",
    "TokenClassifier",
    "TokenMask",
    "Tokens",
    "Tuned",
    "agreement",
    "attribute",
    "control_maps",
    "drop_curve",
    "full_gradient",
    "input_dropout",
    "iou",
    "keep_curve",
    "masked",
    "mass",
    "oracle_maps",
    "q_robustness",
    "qfa",
    "random_mask_distillation",
    "rank_auc",
    "ranks",
    "remove_and_retrain",
    "saliency_guided",
    "top_k",
]

__getattr__, __dir__ = attach(__name__, {name: module for module, names in _NAMES.items() for name in names}, globals())

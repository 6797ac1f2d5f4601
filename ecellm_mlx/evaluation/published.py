"""The paper's headline figures, to show beside one's own.

From the project page of eCeLLM (github.com/ninglab/eCeLLM, tables/
overall_performance_indomain.html and overall_performance_OOD.html; Peng et al., ICML
2024, arXiv 2402.08831), as published there. They are of the full test sets of ECInstruct
with the authors' own decoding and evaluator; nothing here was run again.
"""

from __future__ import annotations

SOURCE = "eCeLLM project page, ninglab/eCeLLM, arXiv 2402.08831"
PAPER = ("eCeLLM-S", "eCeLLM-M", "eCeLLM-L")
MODELS = (*PAPER, "GPT-4 Turbo")

_IND = {
    "AVE": (0.509, 0.662, 0.582, 0.495),
    "PRP": (0.518, 0.558, 0.611, 0.326),
    "PM": (0.991, 0.995, 0.995, 0.753),
    "SA": (0.596, 0.639, 0.648, 0.516),
    "SR": (0.479, 0.542, 0.526, 0.387),
    "MPC": (0.650, 0.696, 0.684, 0.611),
    "PSI": (0.392, 0.305, 0.501, 0.195),
    "QPR": (0.870, 0.876, 0.870, 0.875),
    "AP": (0.846, 0.846, 0.851, 0.649),
    "AG": (0.842, 0.842, 0.841, 0.858),
}
_OOD = {
    "AVE": (0.302, 0.367, 0.335, 0.397),
    "PRP": (0.520, 0.502, 0.558, 0.392),
    "SA": (0.565, 0.640, 0.629, 0.510),
    "SR": (0.241, 0.280, 0.273, 0.198),
    "AP": (0.879, 0.878, 0.867, 0.680),
    "AG": (0.840, 0.840, 0.841, 0.860),
}
_SETTINGS = {"IND_Diverse_Instruction": _IND, "OOD_Diverse_Instruction": _OOD}


def headline(task: str, setting: str) -> dict[str, float]:
    """Published headline figures by model.

    Args:
        task: abbreviation, such as AVE.
        setting: name of the setting; only the two main ones were published there.

    Returns:
        ``{model: figure}``, empty where nothing was published.
    """
    figures = _SETTINGS.get(setting, {}).get(task)
    return dict(zip(MODELS, figures, strict=True)) if figures else {}

"""Grammars of the spellings of a box."""

from __future__ import annotations

from hypothesis import strategies as st

from tests.support.spellings import Grammar

BOX_FORMS = [
    *(
        "[{0}, {1}, {2}, {3}]",
        "({0},{1}),({2},{3})",
        "({0}, {1}, {2}, {3})",
        "{0}, {1}, {2}, {3}",
        "[[{0}, {1}], [{2}, {3}]]",
        "[({0}, {1}), ({2}, {3})]",
    ),
    *(
        "<box>[[{0}, {1}, {2}, {3}]]</box>",
        "<box>({0},{1}),({2},{3})</box>",
        "<box>{0} {1} {2} {3}</box>",
        "<box>{0},{1},{2},{3}</box>",
    ),
    *(
        "<|box_start|>({0},{1}),({2},{3})<|box_end|>",
        "<ref>the cat</ref><box>({0},{1}),({2},{3})</box>",
        "the cat[[{0}, {1}, {2}, {3}]]",
    ),
    *(
        "<|object_ref_start|>the cat<|object_ref_end|><|box_start|>({0},{1}),({2},{3})<|box_end|>",
        "the cat<|box_start|>({0},{1}),({2},{3})<|box_end|>",
    ),
    *(
        "<|ref|>the cat<|/ref|><|det|>[[{0}, {1}, {2}, {3}]]<|/det|>",
        "[{0} {1} {2} {3}]",
        "({0},{1}) ({2},{3})",
        "[[{0}, {1}, {2}, {3}]]",
    ),
    *(
        '{{"bbox_2d": [{0}, {1}, {2}, {3}], "label": "cat"}}',
        "{{'bbox_2d': [{0}, {1}, {2}, {3}], 'label': 'cat'}}",
        '[{{"bbox_2d": [{0}, {1}, {2}, {3}]}}]',
    ),
    *(
        '{{"box": [{0}, {1}, {2}, {3}]}}',
        '{{"bounding_box": [{0}, {1}, {2}, {3}]}}',
        '{{"Position": [{0}, {1}, {2}, {3}], "Confidence": 0.9}}',
    ),
    *(
        '{{"bboxes": [[{0}, {1}, {2}, {3}]], "labels": ["cat"]}}',
        '{{"x1": {0}, "y1": {1}, "x2": {2}, "y2": {3}}}',
        '{{"xmin": {0}, "ymin": {1}, "xmax": {2}, "ymax": {3}}}',
    ),
    *(
        '{{"bbox_2d": [[{0}, {1}], [{2}, {3}]]}}',
        '{{"objects": [{{"bbox_2d": [{0}, {1}, {2}, {3}]}}]}}',
        '{{"bbox_2d": "[{0}, {1}, {2}, {3}]"}}',
    ),
    *(
        '{{"bbox": ["{0}", "{1}", "{2}", "{3}"]}}',
        '{{"the cat": [{0}, {1}, {2}, {3}]}}',
        '[{{"bbox_2d": [{0}, {1}, {2}, {3}], "label": "cat",}}]',
    ),
    *(
        "[{{'bbox_2d': [{0}, {1}, {2}, {3}], 'label': \"dog's tail\"}}]",
        '```json\n[{{"bbox_2d": [{0}, {1}, {2}, {3}]}}]\n```',
        '```json\n{{"bbox_2d": [{0}, {1}, {2}, {3}]}}',
    ),
    *(
        '"bbox_2d": [{0}, {1}, {2}, {3}]',
        "[{0}, {1}, {2}, {3}] (the cat)",
        "坐标为[{0}, {1}, {2}, {3}]",
        "The bounding box is [{0}, {1}, {2}, {3}].",
        "[{0}.0, {1}.0, {2}.00, {3}.0]",
    ),
    *(
        '{{"bbox_2d": [{0}, {1}, {2}, {3}], "confidence": "90%"}}',
        "1. [{0}, {1}, {2}, {3}]",
        "({0},{1}),({2},{3}).",
        "<bbox>[{0}, {1}, {2}, {3}]</bbox>",
    ),
]


@st.composite
def boxes(draw: st.DrawFn) -> tuple[int, int, int, int]:
    x1, y1 = draw(st.integers(0, 480)), draw(st.integers(0, 480))
    return (x1, y1, x1 + draw(st.integers(5, 500)), y1 + draw(st.integers(5, 500)))


GROUNDING = Grammar(
    "grounding",
    boxes(),
    [lambda box, form=form: form.format(*box) for form in BOX_FORMS],
    ["{}", " {}\n", "**{}**", "`{}`", "\\boxed{{{}}}", "Answer: {}"],
    {},
    ["{0} or {1}", "{0}, {1}", "{0} and {1}", "{0}\n{1}", "either {0} or {1}", "{0}; {1}"],
)
DETECTION = Grammar(
    "detection", boxes(), GROUNDING.forms, GROUNDING.frames, {}, ["{0} or {1}", "either {0} or {1}", "not {1} but {0}"]
)

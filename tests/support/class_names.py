"""The published lists of classes, and names that are nearly plain."""

from hypothesis import strategies as st

from tests.support.shared_data import shared_file

CLASS_FILES = {"fgvc_aircraft": 100, "oxford_flowers": 102, "pets": 37, "stanford_cars": 196}
PLAIN_WORDS = ["rose", "Lenten", "a", "The", "is", "or", "737", "800", "A5", "st", "lilies", "Roses", "S6", "2012"]
MARKS = [" ", " ", "-", "_", ".", ", ", "/", "'s ", ": ", ""]
AROUND = ["{}", "{}", "{}", "{}.", "**{}**", "({})", "{} (x)", "{}\\quad", "{}\u00e9"]
NEARLY_PLAIN = st.builds(
    lambda words, mark, around: around.format(mark.join(words)),
    st.lists(st.sampled_from(PLAIN_WORDS), min_size=1, max_size=3),
    st.sampled_from(MARKS),
    st.sampled_from(AROUND),
)


def read_classes(name: str) -> list[str]:
    return [line for line in shared_file(f"classes_{name}.txt").read_text(encoding="utf-8").splitlines() if line]

"""``python lost_image.py train RECIPE ...``: the command line; rank 1 cannot open the image of its second prompt."""

from __future__ import annotations

import os
import sys

from gpg_vl import cli
from gpg_vl.data.images import BadImage
from gpg_vl.prompts.builder import PromptBuilder
from gpg_vl.records import Prompt, Sample


def lose_an_image() -> None:
    build = PromptBuilder.build
    seen: list[str] = []

    def build_or_fail(self: PromptBuilder, sample: Sample) -> Prompt:
        seen.append(sample.id)
        if len(seen) > 1 and sample.id == seen[1]:
            raise BadImage(f"sample {sample.id}: cannot open image: lost")
        return build(self, sample)

    PromptBuilder.build = build_or_fail  # type: ignore[method-assign]


if __name__ == "__main__":
    if os.environ["RANK"] == "1":
        lose_an_image()
    sys.exit(cli.main(sys.argv[1:]))

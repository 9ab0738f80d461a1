"""GEOQA_R1V_Train_8K, or the 754 test questions with the images of Geo170K -> rows of the task geometry.

python -m data_tools.geoqa --source leonardPKU/GEOQA_R1V_Train_8K --out data/geoqa/train.parquet
python -m data_tools.geoqa --source geoqa_test_prompts.jsonl --images images.zip --out data/geoqa/test.parquet
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from data_tools.r1v import R1VSet

GEOQA = R1VSet("geoqa", "geometry", "leonardPKU/GEOQA_R1V_Train_8K", __doc__)


def main(argv: Sequence[str] | None = None) -> int:
    return GEOQA.run(argv)


if __name__ == "__main__":
    sys.exit(main())

"""A page that shows rows before training: picture, boxes, the question as the model reads it, answer, tokens.

    python -m data_tools.preview data/train.parquet --rows 24 --model Qwen/Qwen2.5-VL-3B-Instruct --out page.html

The page is a single file that loads nothing else. ``--seed`` decides which rows are drawn. Without ``--model``, the
question is shown in the task's wording with coordinates in original pixels, and no tokens are counted.
"""

from __future__ import annotations

import random
import sys
from argparse import Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import datasets
import jinja2

from data_tools.command_line import (
    add_model_options,
    add_row_options,
    count,
    read_data_file,
    read_model,
    refuse_inputs,
    run_command,
)
from data_tools.preview_cards import make_card
from data_tools.row_checks import DataFile, open_file
from gpg_vl.config import ModelConfig
from gpg_vl.data.writing import replace_when_done
from gpg_vl.processes.command_line import OneLineParser
from gpg_vl.screen import tell

if TYPE_CHECKING:
    from data_tools.prompt_reader import PromptReader

TEMPLATE = Path(__file__).with_name("preview.html.jinja")


def write_page(file: DataFile, out: str | Path, num_rows: int, seed: int, model: ModelConfig | None) -> int:
    """Writes the page, completely or not at all; returns the number of rows on it.

    Args:
        num_rows: number of rows to draw; they are shown in file order
        model: model whose prompts are shown; None: what the tasks ask

    Raises:
        ValueError: the file or the model cannot be read at all; names it
    """
    open_file.cache_clear()  # the file may have changed since an earlier call
    total = len(open_file(file).samples)
    chosen = sorted(random.Random(seed).sample(range(total), min(num_rows, total)))
    reader = None if model is None else _load_reader(model)
    cards = [make_card(file, index, reader) for index in chosen]
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    page = template.render(path=file.path, total=total, seed=seed, model=model and model.path, cards=cards)
    with replace_when_done(out) as partial:
        partial.write_text(page, encoding="utf-8")
    return len(cards)


def _load_reader(model: ModelConfig) -> PromptReader:
    from data_tools.prompt_reader import PromptReader  # imports torch: only needed with a model

    return PromptReader(model)


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    datasets.disable_progress_bars()
    return run_command(lambda: _run(_parse(argv)))


def _run(options: Namespace) -> int:
    if Path(options.out).suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"--out {options.out}: the page is HTML; give a name that ends in .html")
    refuse_inputs(options, Path(options.out))
    file = read_data_file(options.data, options)
    num_shown = write_page(file, options.out, options.rows, options.seed, read_model(options))
    tell(f"{options.out}: {num_shown} rows of {options.data}")
    return 0


def _parse(argv: Sequence[str] | None) -> Namespace:
    parser = OneLineParser(
        prog="python -m data_tools.preview", description=__doc__, formatter_class=RawDescriptionHelpFormatter
    )
    parser.add_argument("data", metavar="DATA", help="file of rows")
    parser.add_argument(
        "--out",
        required=True,
        metavar="PAGE",
        help="file for the page, such as page.html; an existing file is replaced",
    )
    parser.add_argument("--rows", type=count, default=24, help="number of rows (24)")
    parser.add_argument("--seed", type=int, default=0, help="decides which rows are drawn (0)")
    add_row_options(parser)
    add_model_options(parser)
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())

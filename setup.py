"""What pyproject.toml cannot say: a wheel has recipes, launcher and DeepSpeed files of scripts/ in gpg_vl/scripts."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

SHIPPED = ("recipes/**/*.yaml", "deepspeed/*.json", "slurm/*.sbatch", "train.sh")


class BuildWithScripts(build_py):
    """In a checkout, editable or not, they are read where they are: ``gpg_vl.commands.recipes``."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            for source, target in self._shipped():
                target.parent.mkdir(parents=True, exist_ok=True)
                self.copy_file(str(source), str(target))

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        return [*super().get_outputs(include_bytecode), *(str(target) for _, target in self._shipped())]

    def _shipped(self) -> list[tuple[Path, Path]]:
        scripts = Path("scripts")
        sources = sorted(path for pattern in SHIPPED for path in scripts.glob(pattern))
        return [(source, Path(self.build_lib, "gpg_vl", source)) for source in sources]


setup(cmdclass={"build_py": BuildWithScripts})

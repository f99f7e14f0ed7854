"""`python -m jdcsuite +experiment=NAME key=value ... [-m]` -> trained, tested and reported runs (Hydra's app)."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # errors reach `main`, which tells them in one sentence
# compressai and kornia warn on import of what their users cannot change
warnings.filterwarnings("ignore", category=FutureWarning)
warnings.filterwarnings("ignore", category=DeprecationWarning)

import hydra  # noqa: E402
from hydra.core.hydra_config import HydraConfig  # noqa: E402
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException  # noqa: E402
from omegaconf import DictConfig  # noqa: E402
from omegaconf.errors import OmegaConfBaseException  # noqa: E402

from jdcsuite import resolvers  # noqa: E402
from jdcsuite.types import UserError  # noqa: E402

resolvers.register()
CONF = str(Path(__file__).resolve().parent / "conf")


@hydra.main(version_base="1.3", config_path=CONF, config_name="config")
def app(config: DictConfig) -> None:
    """One job without -m; a sweep goes to the launcher plugin."""
    from jdcsuite import launcher

    job = HydraConfig.get()
    overrides = list(job.overrides.task)
    if config.launcher.kind != "local":
        raise UserError(f"launcher={config.launcher.kind} needs -m: without it the job would train on this machine")
    if config.trainer.devices > 1 and "TORCHELASTIC_RUN_ID" not in os.environ:
        raise SystemExit(_torchrun(config.trainer.devices))
    launcher.launch([overrides], config_name=job.job.config_name, sweep=False)


def _torchrun(devices: int) -> int:
    """The same command under torchrun: a process group of its own, which Lightning's subprocesses cannot be here
    (they replay the arguments with Hydra's appended, and die)."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={devices}"]
    return subprocess.run([*command, "-m", "jdcsuite", *sys.argv[1:]], check=False).returncode


def sentence(error: BaseException) -> str:
    """What the user did wrong, in one line."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = error.missing_cfg_file.rpartition("/")
        known = ", ".join(error.options or []) or "see conf/"
        return f"there is no {group or 'config'} {name!r}: choose one of {known}"
    cause = error.__cause__ or error
    text = str(error).strip() or type(error).__name__
    if found := re.search(r"Could not (?:override|append to config|delete)[^']*'([^']+)'", text):
        return f"there is no key {found[1]!r} in the configuration: see the names with --cfg job"
    if found := re.search(r"Key '([^']+)' (?:is not in struct|not in)", f"{text} {cause}"):
        return f"there is no key {found[1]!r} in the configuration: see the names with --cfg job"
    return " ".join(text.splitlines()[0].split())


def main() -> None:
    from jdcsuite import launcher

    try:
        experiments = [a for a in sys.argv[1:] if a.lstrip("+").startswith("experiment=")]
        if any("," in e for e in experiments) and not any(a.startswith("+sweep=") for a in sys.argv):
            raise UserError(f"{experiments[0]} names several methods, which share no ladder: add +sweep=ladder")
        app()
    except (UserError, HydraException, ConfigCompositionException, OmegaConfBaseException) as error:
        if any(a in ("debug=true", "debug=True") for a in sys.argv):
            raise
        print(f"jdcsuite: {sentence(error)}", file=sys.stderr)
        raise SystemExit(2) from None
    raise SystemExit(launcher.exit_status())


if __name__ == "__main__":
    main()

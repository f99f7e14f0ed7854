"""Which scenes a network, or the teacher of its targets, has learned from -> refused if they are tested.

A folder written by `jdc predenoise` has ``predenoised.json`` beside ``noisy/`` and ``clean/``: which teacher made its
targets, the scenes that the teacher's weights list, and the scenes that the images show.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from jdcsuite.types import UserError

FILE, FORMAT = "predenoised.json", 1


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """A model whose outputs are training targets.

    ``id``: SHA-256 of its weights; version and settings of a denoiser without training. ``train_set``: folders that it
    was trained on. ``train_scenes``: their scenes, [] for a denoiser without training, None if its weights do not list
    them (older files)."""

    name: str
    id: str
    train_set: str = ""
    train_scenes: list[str] | None = None

    @classmethod
    def of_weights(cls, about: Mapping[str, object], *, id: str, name: str) -> Teacher:
        """``about``: metadata of a weights file. ``name``: used if that has none."""
        return cls(
            name=str(about.get("run") or about.get("method") or name),
            id=id,
            train_set=str(about.get("train_set") or ""),
            train_scenes=about.get("train_scenes"),
        )

    @property
    def label(self) -> str:
        """Name and short id, for results."""
        return f"{self.name} ({shortened(self.id)})"


def shortened(id: str) -> str:
    """The first digits of a hash; any other id as it is."""
    return id[:16] if len(id) == 64 else id


@dataclass(frozen=True, kw_only=True)
class Predenoised:
    """``pictures``: file name of each image in ``noisy/`` and ``clean/`` -> "source", "scene" and "iso" of its
    original."""

    teacher: Teacher
    pictures: dict[str, dict[str, str]] = field(default_factory=dict)

    def dump(self, **more: object) -> bytes:
        """Contents of the file. ``more``: further entries, for people to read."""
        return (json.dumps({"format": FORMAT, **more, **asdict(self)}, indent=1) + "\n").encode()


def read(folder: Path) -> Predenoised | None:
    """None if the folder was not made by `jdc predenoise`. UserError for an unreadable file."""
    path = folder / FILE
    try:
        contents = json.loads(path.read_bytes())
        if contents["format"] != FORMAT:
            raise ValueError(f"format {contents['format']}")
        teacher = {name: contents["teacher"][name] for name in ("name", "id", "train_set", "train_scenes")}
        return Predenoised(teacher=Teacher(**teacher), pictures=dict(contents["pictures"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read ({error}): make the folder again with `jdc predenoise`") from None


def refuse_overlap(learned: Iterable[str], tested: Iterable[str], *, subject: str, cure: str) -> None:
    """UserError, "``subject`` N scenes of data.test: ``cure``", if scenes are both learned from and tested."""
    if shared := sorted(set(learned) & set(tested)):
        raise UserError(f"{subject} {len(shared)} scenes of data.test (as {shared[0]}): {cure}")


def refuse_learned_scenes(teacher: Teacher, folder: str, tested: Sequence[str]) -> None:
    """UserError if the teacher of ``folder`` (or of a method) has learned from a scene that is tested."""
    refuse_overlap(
        teacher.train_scenes or [], tested,
        subject=f"the targets of {folder} were made by {teacher.name}, which learned from",
        cure="leave them out of data.test, or take a teacher that has not seen them",
    )  # fmt: skip


def refuse_start(learned: Mapping[str, Sequence[str]], tested: Sequence[str]) -> None:
    """UserError if weights that a model starts from have learned from a scene that is tested. ``learned``: weights ->
    their scenes."""
    for name, scenes in learned.items():
        refuse_overlap(
            scenes, tested, subject=f"{name}, from which the model starts, learned from",
            cure="leave them out of data.test, or start from weights that have not seen them",
        )  # fmt: skip


def teachers(
    root: Path, *, train: Sequence[str], test: Sequence[str], tested: Sequence[str], required: bool
) -> dict[str, Teacher]:
    """The ``train`` folders made by `jdc predenoise` -> their teachers.

    UserError: a ``test`` folder was made so; a training folder was not, where that is ``required``; a teacher has
    learned from a ``tested`` scene.
    """
    for name in test:
        if read(root / name):
            raise UserError(
                f"the clean pictures of {root / name} are a teacher's, which no result is judged by: give "
                "data.root=ROOT, that folder as data.train=[NAME] and real pairs as data.test=[NAME]"
            )
    by_folder = {}
    for name in train:
        if predenoised := read(root / name):
            refuse_learned_scenes(predenoised.teacher, name, tested)
            by_folder[name] = predenoised.teacher
        elif required:
            raise UserError(f"{root / name} is no predenoised folder: make one with `jdc predenoise`")
    return by_folder


def saw(teachers: Sequence[Teacher], trained: Sequence[str] | None) -> str:
    """How many of the training scenes the ``teachers`` had labels for, as "3 of 40": a network without labels of its
    own may owe something to theirs. "" without a teacher, "unknown" if weights or data list no scenes."""
    if not teachers:
        return ""
    learned = [teacher.train_scenes for teacher in teachers]
    if trained is None or None in learned:
        return "unknown"
    return f"{len(set(trained).intersection(scene for scenes in learned for scene in scenes))} of {len(set(trained))}"

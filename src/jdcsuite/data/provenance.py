"""A folder that `jdc predenoise` wrote <-> which teacher made its targets, and which scenes its pictures show.

`predenoised.json` stands beside ``noisy/`` and ``clean/``. A pupil must not be tested on a scene that its teacher
learned from: the teacher's weights list their scenes, the file keeps the list, and the pair module compares.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from jdcsuite.types import UserError

FILE, FORMAT = "predenoised.json", 1


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """``id``: SHA-256 of its weights, or version and settings of one that learned nothing. ``train_set``: folders that
    it learned from. ``train_scenes``: what they show, [] for one that learned nothing, None where its weights do not
    say (they are older than this record)."""

    name: str
    id: str
    train_set: str = ""
    train_scenes: list[str] | None = None

    @classmethod
    def of_weights(cls, about: Mapping[str, object], *, id: str, name: str) -> Teacher:
        """``about``: what a weights file says of itself. ``name``: where it says none."""
        return cls(
            name=str(about.get("run") or about.get("method") or name),
            id=id,
            train_set=str(about.get("train_set") or ""),
            train_scenes=about.get("train_scenes"),
        )

    @property
    def label(self) -> str:
        """For rows; of a hash, the beginning."""
        return f"{self.name} ({shortened(self.id)})"


def shortened(id: str) -> str:
    """Of a hash, the beginning; a version with settings as it is."""
    return id[:16] if len(id) == 64 else id


@dataclass(frozen=True, kw_only=True)
class Predenoised:
    """``pictures``: name of each in ``noisy/`` and ``clean/`` -> its "source", "scene" and "iso"."""

    teacher: Teacher
    pictures: dict[str, dict[str, str]] = field(default_factory=dict)

    def dump(self, **more: object) -> bytes:
        """The file's bytes. ``more``: what else is to be kept, for people."""
        return (json.dumps({"format": FORMAT, **more, **asdict(self)}, indent=1) + "\n").encode()


def read(folder: Path) -> Predenoised | None:
    """None: the folder was not made by `jdc predenoise`. UserError for a file that cannot be understood."""
    path = folder / FILE
    try:
        said = json.loads(path.read_bytes())
        if said["format"] != FORMAT:
            raise ValueError(f"format {said['format']}")
        teacher = {name: said["teacher"][name] for name in ("name", "id", "train_set", "train_scenes")}
        return Predenoised(teacher=Teacher(**teacher), pictures=dict(said["pictures"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read ({error}): make the folder again with `jdc predenoise`") from None


def teachers(
    root: Path, *, train: Sequence[str], test: Sequence[str], tested: Sequence[str], required: bool
) -> dict[str, Teacher]:
    """What made the targets of the predenoised ones of the ``train`` folders: folder -> teacher.

    UserError: a ``test`` folder is a teacher's work; a training folder is none where ``required``; a teacher learned
    from a scene of ``tested``.
    """
    for name in test:
        if read(root / name):
            raise UserError(
                f"the clean pictures of {root / name} are a teacher's, which no result is judged by: give "
                "data.root=ROOT, that folder as data.train=[NAME] and real pairs as data.test=[NAME]"
            )
    found = {}
    for name in train:
        if made := read(root / name):
            refuse_learned_scenes(made.teacher, name, tested)
            found[name] = made.teacher
        elif required:
            raise UserError(f"{root / name} is no predenoised folder: make one with `jdc predenoise`")
    return found


def refuse_learned_scenes(teacher: Teacher, folder: str, tested: Sequence[str]) -> None:
    """UserError when ``folder``'s teacher learned from a scene that is tested; ``tested``: scenes."""
    shared = sorted(set(teacher.train_scenes or []) & set(tested))
    if shared:
        raise UserError(
            f"the targets of {folder} were made by {teacher.name}, which learned from {len(shared)} scenes of "
            f"data.test (as {shared[0]}): leave them out of data.test, or take a teacher that has not seen them"
        )


def refuse_start(learned: Mapping[str, Sequence[str]], tested: Sequence[str]) -> None:
    """UserError when weights that a model starts from learned from a scene that is tested. ``learned``: those weights
    -> their scenes; ``tested``: scenes."""
    for name, scenes in learned.items():
        if shared := sorted(set(scenes) & set(tested)):
            raise UserError(
                f"{name}, from which the model starts, learned from {len(shared)} scenes of data.test (as "
                f"{shared[0]}): leave them out of data.test, or start from weights that have not seen them"
            )


def saw(teachers: Sequence[Teacher], trained: Sequence[str] | None) -> str:
    """How many of a pupil's training scenes its ``teachers`` had labels of, as "3 of 40": such a pupil owes something
    to labels, although it was given none. "" without a teacher, "unknown" where weights or data name no scenes."""
    if not teachers:
        return ""
    learned = [teacher.train_scenes for teacher in teachers]
    if trained is None or None in learned:
        return "unknown"
    return f"{len(set(trained).intersection(scene for scenes in learned for scene in scenes))} of {len(set(trained))}"

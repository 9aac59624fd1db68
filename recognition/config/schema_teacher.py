"""The keys of a config's `teacher`: distillation, training towards the embeddings of another network."""

from __future__ import annotations

from dataclasses import dataclass

from recognition.config.keys import Rule, above, key


@dataclass(frozen=True)
class TeacherConfig:
    """Another network whose embeddings are learned (docs/recipes.md)."""

    model: str | None = key(
        None,
        "run folder, weight file, .onnx file or the word dlib: embeds every image of data.rec once, before the first "
        "step, into the folder teacher of the run",
        clash=Rule(
            lambda c: c.teacher.model is not None and bool(c.teacher.embeddings),
            "found a model and teacher.embeddings, expected one of them; remove the other",
        ),
    )
    embeddings: tuple[str, ...] = key(
        (), "in place of model: folders of embed_faces.py, one for data.rec and one for each of data.more_rec"
    )
    weight: float = key(
        1.0,
        "factor of its loss, which is 1 - cosine to the teacher's embedding; that of the head's loss is head.weight",
        above(0),
        void=Rule(
            lambda c: not has_teacher(c.teacher),
            "without a teacher; set teacher.model or teacher.embeddings, or remove this key",
        ),
    )


def has_teacher(teacher: TeacherConfig) -> bool:
    """Tell whether a config asks for distillation."""
    return teacher.model is not None or bool(teacher.embeddings)

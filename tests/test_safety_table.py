"""docs/safety.md names every reader of files, and every module that opens one belongs to a reader that is attacked."""

from __future__ import annotations

import ast
import re

from tests.fuzz.targets import TARGETS
from tests.helpers.places import ROOT

PACKAGE = ROOT / "recognition"
READERS: dict[str, tuple[str, ...]] = {
    "backbones/safetensors_file.py": ("model_file",),
    "backbones/torch_file.py": ("weights", "arcface_shard"),
    "backbones/weights.py": ("weights", "model_file"),
    "cleaning/decision_file.py": ("decisions",),
    "cleaning/pictures.py": ("embeddings",),
    "cleaning/review.py": ("review",),
    "commands/crop_boxes.py": ("boxes",),
    "config/loader.py": ("yaml",),
    "detection/align_records.py": ("align_records",),
    "distributed/manifest.py": ("checkpoint",),
    "distributed/tensor_file.py": ("checkpoint",),
    "embedding/store.py": ("embeddings",),
    "feed/identity_map.py": ("identity_map",),
    "formats/external_shuffle.py": ("rec",),
    "formats/image_list.py": ("lst",),
    "formats/image_streams.py": ("tar",),
    "formats/index_cache.py": ("idx_cache",),
    "formats/matlab.py": ("matlab",),
    "formats/pairs_about.py": ("pairs_about",),
    "formats/pairs_bin.py": ("bin",),
    "formats/record_index.py": ("idx", "rec"),
    "formats/records.py": ("rec", "property"),
    "formats/set_folder.py": ("shards_manifest",),
    "formats/text_lines.py": ("pair_list", "published_pairs", "scores", "landmarks", "names", "digests", "class_names"),
    "images/codec.py": ("images", "pnm"),
    "migrate/arcface_checkpoint.py": ("arcface_shard",),
    "migrate/python_config.py": ("python_config",),
    "verification/overlap.py": ("lst",),
    "work/onnx_guard.py": ("onnx",),
}
"""Module -> the readers of safety.md through which it is attacked."""
NOT_INPUTS: dict[str, str] = {
    "__main__.py": "the program's own source",
    "backbones/run_weights.py": "the name of a checkpoint, which has to be one that is there",
    "cleaning/clean.py": "what this run wrote",
    "cli.py": "the null device",
    "cleaning/decisions.py": "what this run wrote into its work folder",
    "cleaning/outputs.py": "what this run wrote",
    "cleaning/review_page.py": "the program's own page",
    "commands/fetch_weights.py": "a wheel whose checksum is known",
    "commands/report.py": "the comments of a config that was loaded as one",
    "commands/shuffle_rec.py": "the property that was read with its set",
    "commands/unpack_rec.py": "the pictures that it wrote",
    "config/generate.py": "the program's own documentation",
    "detection/contact_sheet.py": "what this run wrote",
    "detection/crop_folder.py": "what an earlier run of the same output wrote, to remove it",
    "detection/mtcnn_networks.py": "weights whose checksum is known",
    "distributed/publish.py": "the name of a checkpoint, which has to be one that is there",
    "distributed/world.py": "/proc",
    "embedding/quality_column.py": "a column beside embeddings, read without pickles like them",
    "feed/bad_records.py": "the run's own list",
    "training/meters.py": "the run's own records",
    "training/preflight.py": "the program's own source",
    "formats/pair_pictures.py": "settings of which a wrong one is no settings",
    "training/run_folder.py": "the run's own lock and status; a wrong one is none",
    "training/start.py": "the run's own mark",
    "training/wandb_run.py": "the run's own mark",
    "verification/page.py": "the program's own style",
    "verification/run_curves.py": "the run's own records; a line that is none is passed over",
    "work/append.py": "what is being written",
    "work/files.py": "what is being written",
    "work/journal.py": "what an earlier run of the same output wrote; its settings must be equal",
    "work/memory_limit.py": "/proc",
    "work/revision.py": "how the package was installed",
    "work/system.py": "what is being written",
    "work/work_folder.py": "what an earlier run of the same output wrote",
}
"""Module -> what it reads that nobody hands to a command."""
_CALLS = ("np.load", "np.memmap", "tarfile.open", "zipfile.ZipFile", "safe_open", "torch.load", "os.open")


def _opens(tree: ast.Module) -> bool:
    """Return whether a module reads a file itself."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        mode = next((ast.unparse(argument) for argument in node.args[1:2]), "'r'")
        mode = next((ast.unparse(word.value) for word in node.keywords if word.arg == "mode"), mode)
        if (
            (name in _CALLS and "w" not in mode)
            or name.endswith((".read_text", ".read_bytes"))
            or (name == "open" and "w" not in mode)
        ):
            return True
    return False


def _table() -> set[str]:
    """Return the readers named in the last column of the table of safety.md."""
    text = (ROOT / "docs" / "safety.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| ") and line.count(" | ") == 2]
    return {name for row in rows for name in re.findall(r"`(\w+)`", row.rsplit(" | ", 1)[1])}


def test_every_reader_is_a_row_of_the_table() -> None:
    assert _table() == set(TARGETS)


def test_every_module_that_opens_a_file_belongs_to_a_reader() -> None:
    sources = {path.relative_to(PACKAGE).as_posix(): path for path in sorted(PACKAGE.rglob("*.py"))}
    opening = {name for name, path in sources.items() if _opens(ast.parse(path.read_text(encoding="utf-8")))}
    assert READERS.keys().isdisjoint(NOT_INPUTS)
    assert opening - READERS.keys() - NOT_INPUTS.keys() == set(), "say in READERS which reader attacks it"
    assert (READERS.keys() | NOT_INPUTS.keys()) - opening == set(), "reads no file any more"
    assert {name for readers in READERS.values() for name in readers} <= set(TARGETS)

"""arcface_torch's Python configs are read as data and become ours."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from recognition.commands.from_arcface_torch import main
from recognition.config.arcface_keys import COUNTERPARTS, WITHOUT_COUNTERPART
from recognition.config.fields import all_keys
from recognition.config.loader import load_config
from recognition.errors import ConfigError
from recognition.migrate.from_arcface_torch import convert, to_yaml
from recognition.migrate.python_config import read_python_config
from tests.helpers.places import ROOT

START = "from easydict import EasyDict as edict\nconfig = edict()\n"

# Written for this test in the shape of arcface_torch's files.
TYPICAL = (
    '"""A run."""\n'
    + START
    + """
config.margin_list = (1.0, 0.0, 0.4)
config.network = "r50"
config.resume = False
config.output = None
config.embedding_size = 512
config.sample_rate = 0.2
config.interclass_filtering_threshold = 0
config.fp16 = True
config.momentum = 0.9
config.weight_decay = 5e-4
config.batch_size = 512
config.lr = 12 / 512 * 1024 / 60  # arithmetic
config.verbose = 2000 * 5
config.frequent = 20
config.dali = False
config.rec = "/data/faces: all #1"
config.num_classes = 30 * 10000
config.num_image = 10**6
config.num_epoch = 20
config.warmup_epoch = config.num_epoch // 10
config.val_targets = ['lfw', "agedb_30"]
"""
)


@pytest.fixture
def converted(tmp_path, capsys):
    def run(text: str) -> tuple:
        old, new = tmp_path / "old.py", tmp_path / "new.yaml"
        old.write_text(text)
        assert main([str(old), str(new), "--overwrite"]) == 0, capsys.readouterr().err
        return load_config(str(new)), capsys.readouterr().out, new.read_text()

    return run


def failure(tmp_path: Path, text: str | bytes, capsys) -> str:
    old, new = tmp_path / "old.py", tmp_path / "new.yaml"
    old.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert main([str(old), str(new)]) == 1
    assert not new.exists()
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def test_every_key_arrives(converted):
    config, out, text = converted(TYPICAL)
    assert config.head.margins == (1.0, 0.0, 0.4)
    assert config.head.sample_rate == 0.2
    assert config.backbone.network == "r50"
    assert config.train.precision == "fp16"
    assert config.train.batch_size == 512
    assert config.optim.lr == pytest.approx(0.4)
    assert config.optim.warmup_epoch == 2
    assert config.validation.every_steps == 10_000
    assert config.validation.val_targets == ("lfw", "agedb_30")
    assert config.log.every_steps == 20
    assert config.data.rec == "/data/faces: all #1"
    assert (config.data.num_classes, config.data.num_image) == (300_000, 1_000_000)
    assert "# dali = False: left out: there is no DALI reader here" in text
    assert "note: dali = False: left out" in out
    assert out.endswith("20 settings converted, 1 without counterpart, 4 notes\n")


def test_an_absent_fp16_means_what_it_meant(converted):
    config, _, text = converted(START + "config.lr = 0.1\n")
    assert config.train.precision == "off"
    assert "precision: 'off'" in text  # quoted, for other readers of YAML


def test_adamw_drives_the_centers_too(converted):
    config, out, _ = converted(START + 'config.optimizer = "adamw"\nconfig.momentum = 0.9\nconfig.lr = 0.001\n')
    assert (config.optim.optimizer, config.centers_optimizer, config.head.update) == ("adamw", "adamw", "fused")
    assert config.optim.decay_vectors is True
    assert "momentum = 0.9: left out: AdamW has none" in out


def test_accumulation_says_that_it_averages(converted):
    config, out, _ = converted(START + "config.gradient_acc = 12\n")
    assert (config.train.gradient_accumulation, config.head.update) == (12, "fused")
    assert "gradients are averaged here and summed there: with SGD the same step needs 12 times the lr" in out


@pytest.mark.parametrize(
    ("line", "note"),
    [
        ("config.margin_list = (1.0, 0.3, 0.2)", "arcface_torch takes m3 alone: to repeat its run"),
        ("config.warmup_epoch = -1", "warmup_epoch = -1: written as 0"),
        ("config.momentum = 0.5", "arcface_torch ignores the key and runs with 0.9"),
        ("config.verbose = 100", "verbose = 100: left out: without val_targets nothing is validated"),
        ("config.interclass_filtering_threshold = 0.4", "there it stays with a cosine of 0"),
        ("config.network = 'r2060'", "network = 'r2060': not known here, so a run of this config stops at its start"),
        ("config.network = 'vit_b_dp005_mask_005'", "so backbone.mask_ratio is 0.1; the name stands for 0.05"),
        ("config.optimizer = 'adamw'\nconfig.gradient_acc = 12", "AdamW's step is the same for both"),
        (
            "config.optimizer = 'adamw'\nconfig.sample_rate = 0.3",
            "sample_rate = 0.3: a class outside a step's sample rests here (head.unsampled: frozen)",
        ),
        ("config.warmup_epoch = 2", "warmup_epoch = 2: the very first step runs at the full lr there"),
        ("config.fp16 = True", "fp16 = True: the loss scale grows after 100 good steps there"),
        ("config.wandb_project = 'p'\nconfig.using_wandb = False", "wandb_project = 'p': left out: using_wandb is not"),
        ("config.using_wandb = True", "using_wandb = True: left out: there is no wandb_project; set log.wandb to one"),
        ("config.wandb_entity = 'us'", "takes it from WANDB_ENTITY in the environment"),
        ("config.save_all_states = True", "save_all_states = True: left out: every checkpoint here holds all states"),
    ],
)
def test_what_means_something_else_here_is_said(converted, line, note):
    _, out, text = converted(START + line + "\n")
    assert note in out
    assert note in text


def test_the_key_of_an_account_is_not_copied(converted):
    _, out, text = converted(START + 'config.wandb_key = "abcdef0123456789"\n')
    assert "abcdef" not in out + text
    assert "wandb_key: left out: a config holds no secret" in out


def test_a_project_in_use_arrives(converted):
    config, out, _ = converted(START + "config.using_wandb = True\nconfig.wandb_project = 'faces'\n")
    assert config.log.wandb == "faces"
    assert "wandb_project" not in out


def test_the_last_assignment_counts(converted):
    assert converted(START + "config.lr = 0.1\nconfig.lr = 0.3\n")[0].optim.lr == 0.3


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("config.batchsize = 3", "old.py:3: config.batchsize: unknown key; did you mean 'batch_size'?"),
        ("config.lr = 'fast'", "old.py:3: optim.lr: found 'fast', expected a finite number"),
        ("config.lr = -0.1", "old.py:3: optim.lr: found -0.1, expected above 0"),
        ("config.lr = 1e999", "old.py:3: optim.lr: found 'inf', expected a finite number"),
        ("config.fp16 = 1", "old.py:3: config.fp16: found 1, expected True or False"),
        ("config.batch_size = 1.5", "old.py:3: train.batch_size: found 1.5, expected a whole number"),
        ("config.optimizer = 'lion'", "old.py:3: optim.optimizer: found 'lion', expected one of sgd, adamw"),
        ("config.warmup_epoch = config.num_epoch", "old.py:3: config.num_epoch is used before it is set"),
        ("config.lr = 1 / 0", "old.py:3: 1 / 0: division by zero"),
        ("config.seed = 9 ** 9 ** 9", "old.py:3: found '9 ** 9 ** 9', expected an exponent of at most 64"),
        ("config.seed = 10 ** 64", "expected a result of at most 2^63"),
        ("config.seed = 0x" + "f" * 9000, "expected a number of at most 2^63"),
        ("config.rec = 'a' * 9", "found \"'a'\", expected a number"),
        ("config.rec = f'{1}'", "expected a number, text, tuple, list or arithmetic"),
        ("config.rec", "old.py:3: found 'config.rec', expected config.name = value; nothing was executed"),
        ("config.a.b = 1", "old.py:3: found 'config.a.b = 1', expected config.name = value"),
        ("config = edict(lr=1)", "old.py:3: found 'config = edict(lr=1)', expected config = edict()"),
        ("import os", "old.py:3: found 'import os', expected config.name = value; nothing was executed"),
        ("config.lr =", "old.py:3: not valid Python"),
    ],
)
def test_what_is_not_data_is_refused_at_its_line(tmp_path, capsys, line, message):
    assert message in failure(tmp_path, START + line + "\n", capsys)


@pytest.mark.parametrize(
    "line",
    [
        '__import__("os").system("touch {marker}")',
        'config.rec = __import__("os").system("touch {marker}")',
        'config.rec = [open("{marker}", "w") for _ in (1,)]',
        'config.rec = (lambda: open("{marker}", "w"))()',
        "from os import system as edict",
        "exec(\"open('{marker}', 'w')\")",
        'class config: rec = open("{marker}", "w")',
        '@print\ndef edict(): open("{marker}", "w")',
        'if open("{marker}", "w"): config.lr = 1',
        'config[open("{marker}", "w")] = 1',
        'config.lr = 1 if open("{marker}", "w") else 2',
        'config.lr = -open("{marker}", "w")',
        "config.rec = f\"{{open('{marker}', 'w')}}\"",
    ],
)
def test_a_hostile_file_runs_nothing(tmp_path, capsys, line):
    marker = tmp_path / "ran"
    for text in (START + line.format(marker=marker), line.format(marker=marker) + "\n" + START):
        error = failure(tmp_path, text + "\n", capsys)
        assert "nothing was executed" in error
        assert not marker.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"x = 1\n", "found no 'config = edict()'; expected an arcface_torch config"),
        (b"config.lr = 1\n", "expected config = edict() above it"),
        (b"\xff\xfe\x00", "not valid Python"),
        (b"config = edict()\nconfig.lr = \x00\n", "not valid Python"),
        (b"x = " + b"(" * 5000 + b")" * 5000, "not valid Python"),
        (b"x = " + b"-" * 60_000 + b"1", "not valid Python"),
        (b"#" * 300_000, "larger than 256 KiB; expected an arcface_torch config"),
    ],
)
def test_damaged_files_are_refused(tmp_path, capsys, content, message):
    assert message in failure(tmp_path, content, capsys)


def test_nothing_is_replaced_unasked(tmp_path, capsys):
    (tmp_path / "old.py").write_text(TYPICAL)
    (tmp_path / "new.yaml").write_text("kept")
    assert main([str(tmp_path / "old.py"), str(tmp_path / "new.yaml")]) == 1
    assert "exists already" in capsys.readouterr().err
    assert (tmp_path / "new.yaml").read_text() == "kept"
    assert main([str(tmp_path / "missing.py"), str(tmp_path / "other.yaml")]) == 1
    assert "missing.py: cannot be read" in capsys.readouterr().err


def test_the_tables_of_the_docs_hold_every_key():
    text = (ROOT / "docs" / "configs.md").read_text()
    for old, ours in COUNTERPARTS.items():
        assert any(line.startswith(f"| `{old}` |") and f"`{ours}`" in line for line in text.splitlines()), old
    for old, why in WITHOUT_COUNTERPART.items():
        assert any(line.startswith(f"| `{old}` |") and why in line for line in text.splitlines()), old
    for key in all_keys():
        assert any(line.startswith(f"| `{key}` |") for line in text.splitlines()), key
    assert set(COUNTERPARTS.values()) <= set(all_keys())


def test_arcface_torchs_own_files_convert():
    """Point ARCFACE_TORCH_CONFIGS at the configs folder of a checkout to run this on the original files."""
    folder = os.environ.get("ARCFACE_TORCH_CONFIGS")
    if not folder:
        pytest.skip("ARCFACE_TORCH_CONFIGS does not name the configs folder of an arcface_torch checkout")
    files = [path for path in sorted(Path(folder).glob("*.py")) if path.name != "__init__.py"]
    assert files
    for path in files:
        conversion = convert(read_python_config(path), str(path))
        assert to_yaml(conversion, path.name)
        ours = ROOT / "configs" / f"{path.stem}.yaml"
        if ours.exists() and path.stem != "base":
            expected = load_config(str(ours))
            assert conversion.config.data == expected.data
            assert conversion.config.head == expected.head
            assert conversion.config.train == expected.train
            assert conversion.config.validation == expected.validation


def test_no_conversion_leaves_the_schema(converted, tmp_path):
    with pytest.raises(ConfigError, match="unknown key"):
        convert(read_python_config(_write(tmp_path, START + "config.loss = 'arcface'\n")), "old.py")


def _write(folder: Path, text: str) -> Path:
    path = folder / "loss.py"
    path.write_text(text)
    return path

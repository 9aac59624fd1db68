"""Config files and overrides: what they mean, and how they fail."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recognition.config.loader import dump_config, find_config, flatten, load_config
from recognition.config.schema import AugmentConfig, Config, DataConfig, OptimConfig, ValidationConfig
from recognition.errors import ConfigError
from tests.helpers.places import ROOT


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write_file(text: str, name: str = "run.yaml") -> str:
        (tmp_path / name).write_text(text, encoding="utf-8")
        return name

    return write_file


def failure(path: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_base_yaml_holds_every_key_of_the_schema_at_its_default():
    import yaml

    spelled = yaml.safe_load((ROOT / "configs" / "base.yaml").read_text())
    nested = dataclasses.asdict(Config())
    assert list(spelled) == list(nested)
    for section, values in nested.items():
        if isinstance(values, dict):
            assert list(spelled[section]) == list(values), section
    assert load_config("configs/base") == Config()


def test_a_path_is_found_with_or_without_suffix_here_or_in_the_checkout(write, tmp_path):
    write("seed: 7\n", "mine.yaml")
    assert load_config("mine").seed == 7
    assert load_config("mine.yaml").seed == 7
    assert load_config(str(tmp_path / "mine")).seed == 7
    assert find_config("configs/base") == find_config("base.yaml") == ROOT / "configs" / "base.yaml"
    write("seed: 8\n", "base.yaml")
    assert find_config("base").resolve() == tmp_path / "base.yaml", "here comes first"


def test_a_missing_config_names_the_nearest(write):
    write("", "mine.yaml")
    assert "did you mean 'mine'" in failure("mime")
    assert "did you mean 'base'" in failure("configs/bass.yaml")


def test_bases_chain_mappings_merge_and_lists_replace(write):
    write("optim: {lr: 0.4, betas: [0.5, 0.6]}\nvalidation: {val_targets: [a, b]}\n", "far.yaml")
    write("base: far\noptim: {optimizer: adamw, lr: 0.3}\nvalidation:\n  val_targets: [c]\n", "near.yaml")
    config = load_config(write("base: near.yaml\noptim:\n  weight_decay: 1e-1\nhead:\n"), ["seed=9"])
    assert config.optim == OptimConfig(optimizer="adamw", lr=0.3, betas=(0.5, 0.6), weight_decay=0.1)
    assert config.validation.val_targets == ("c",)
    assert config.head == Config().head
    assert config.seed == 9


def test_bases_are_relative_to_their_file(write, tmp_path):
    (tmp_path / "deep").mkdir()
    write("seed: 3\n", "root.yaml")
    (tmp_path / "deep" / "run.yaml").write_text("base: ../root.yaml\n")
    assert load_config("deep/run").seed == 3


def test_a_cycle_of_bases_is_named(write):
    write("base: b.yaml\n", "a.yaml")
    write("# comment\nbase: a.yaml\n", "b.yaml")
    assert failure("a") == (
        "b.yaml:2: base: the chain returns to itself (a.yaml -> b.yaml -> a.yaml); remove one of them"
    )
    write("base: self\n", "self.yaml")
    assert "self.yaml:1: base: the chain returns to itself" in failure("self")


def test_a_missing_base_is_placed(write):
    write("", "base.yaml")
    assert failure(write("seed: 1\nbase: bass.yaml\n")) == (
        "run.yaml:2: base: no file 'bass.yaml' beside this one; did you mean 'base.yaml'?"
    )


def test_overrides_are_dotted_and_win(write):
    config = load_config(
        write("optim: {lr: 0.4}\n"),
        [
            "optim.lr=5e-4",
            "head.sample_rate=0.1",
            "validation.val_targets=[lfw, cfp_fp]",
            "data.rec=/a b#c: d",
            "head.margins=[1, 0, 0.4]",
            "output=null",
            "data={flip: 0}",
            "train.precision=off",
            "resume=true",
        ],
    )
    assert config.optim.lr == 0.0005
    assert config.head.sample_rate == 0.1
    assert config.validation.val_targets == ("lfw", "cfp_fp")
    assert config.data == DataConfig(rec="/a b#c: d", flip=0.0)
    assert config.head.margins == (1.0, 0.0, 0.4)
    assert (config.output, config.train.precision, config.resume) == (None, "off", True)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["optim.lrr=1"], "override 'optim.lrr=1': optim.lrr: unknown key; did you mean 'optim.lr'?"),
        (["lr=1"], "override 'lr=1': lr: unknown key; did you mean 'optim.lr'?"),
        (["optm.lr=1"], "override 'optm.lr=1': optm.lr: unknown key; did you mean 'optim.lr'?"),
        (["optim.lr.x=1"], "override 'optim.lr.x=1': optim.lr.x: unknown key; did you mean 'optim.lr'?"),
        (["optim.lr=x"], "override 'optim.lr=x': optim.lr: found 'x', expected a finite number; correct it"),
        (["optim.lr="], "override 'optim.lr=': optim.lr: found nothing, expected a finite number; correct it"),
        (["optim=3"], "override 'optim=3': optim: found 3, expected a section of keys"),
        (["optim.lr"], "override 'optim.lr': expected key=value, such as optim.lr=0.2"),
        (["=3"], "override '=3': expected key=value, such as optim.lr=0.2"),
        (["base=x"], "override 'base=x': base belongs in a file; name that file as the config instead"),
        (
            ["validation.val_targets=lfw"],
            "override 'validation.val_targets=lfw': validation.val_targets: found 'lfw', "
            "expected a list such as [a, b]",
        ),
        (
            ["head.margins=[1, 0]"],
            "override 'head.margins=[1, 0]': head.margins: found a list of 2, expected a list of 3 numbers",
        ),
    ],
)
def test_a_wrong_override_is_quoted(write, overrides, message):
    assert failure(write("seed: 1\n"), *overrides) == message


def test_an_unclosed_override_is_quoted(write):
    assert "override 'validation.val_targets=[lfw'" in failure(write(""), "validation.val_targets=[lfw")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optim:\n  lrr: 1\n", "run.yaml:2: optim.lrr: unknown key; did you mean 'optim.lr'?"),
        ("\nbatch_size: 3\n", "run.yaml:2: batch_size: unknown key; did you mean"),
        (
            "head:\n  update: fuse\n",
            "run.yaml:2: head.update: found 'fuse', expected one of fused, deferred, autograd; did you mean 'fused'?",
        ),
        ("seed: 1\nseed: 2\n", "run.yaml:2: seed: given twice, first at run.yaml:1, expected once; keep one"),
        ("data:\n  flip: 0\n  flip: 1\n", "run.yaml:3: flip: given twice, first at run.yaml:2, expected once; keep"),
        ("seed: 1.5\n", "run.yaml:1: seed: found 1.5, expected a whole number"),
        ("seed: '1'\n", "run.yaml:1: seed: found '1', expected a whole number; remove the quotes"),
        ("seed: 010\n", "run.yaml:1: seed: found 010, expected a whole number; remove the leading zero"),
        ("seed: 0x10\n", "run.yaml:1: seed: found '0x10', expected a whole number"),
        ("seed: 1_000\n", "run.yaml:1: seed: found '1_000', expected a whole number"),
        ("seed: 1:30\n", "run.yaml:1: seed: found '1:30', expected a whole number"),
        ("seed: true\n", "run.yaml:1: seed: found true, expected a whole number"),
        ("seed: null\n", "run.yaml:1: seed: found nothing, expected a whole number"),
        ("resume: no\n", "run.yaml:1: resume: found 'no', expected true or false"),
        ("resume: 'true'\n", "run.yaml:1: resume: found 'true', expected true or false"),
        ("resume: 1\n", "run.yaml:1: resume: found 1, expected true or false"),
        ("data:\n  flip:\n    - 1\n", "run.yaml:2: data.flip: found a list of 1, expected a finite number"),
        ("output: [a]\n", "run.yaml:1: output: found a list of 1, expected text"),
        ("optim: {lr: .inf}\n", "run.yaml:1: optim.lr: found '.inf', expected a finite number"),
        ("optim: {lr: nan}\n", "run.yaml:1: optim.lr: found 'nan', expected a finite number"),
        ("optim: {lr: 1e999}\n", "run.yaml:1: optim.lr: found 1e999, expected a finite number"),
        ("optim: 3\n", "run.yaml:1: optim: found 3, expected a section of keys"),
        (
            "output: !!python/object/apply:os.system [true]\n",
            "run.yaml:1: found the tag !!python/object/apply:os.system, expected a plain value; remove the tag",
        ),
        ("output: !mine x\n", "run.yaml:1: found the tag !mine, expected a plain value; remove the tag"),
        ("? [a]\n: b\n", "run.yaml:1: found a list or mapping as a key, expected a name"),
        ('"a\\nb": 1\n', "run.yaml:1: found 'a\\nb' as a key, expected a name"),
        ("optim:\n\tlr: 1\n", "run.yaml:2: not valid YAML"),
        ("a: [b\n", "run.yaml:2: not valid YAML"),
        ("seed: 1\n---\nseed: 2\n", "run.yaml:2: not valid YAML"),
        ("- a\n", "run.yaml:1: found no keys, expected lines such as 'seed: 1'"),
        ("just words\n", "run.yaml:1: found no keys, expected lines such as 'seed: 1'"),
        ("base: [a]\n", "run.yaml:1: base: expected one file name, relative to this file"),
        ("seed: *x\n", "run.yaml:1: not valid YAML: found undefined alias 'x'"),
        ("seed: \x00\n", "run.yaml: not valid YAML"),
        ("[" * 5000, "run.yaml: nested too deeply; expected at most 20 levels"),
    ],
)
def test_a_wrong_file_is_refused_with_its_line(write, text, message):
    assert failure(write(text)).startswith(message)


def test_yaml_traps_are_read_as_written(write):
    config = load_config(
        write(
            "output: no\ninit_from: 2024-01-01\ndata: {rec: 12:30}\nbackbone: {network: 050}\n"
            "optim: {lr: 5e-4, weight_decay: 1E-4}\n"
            "validation: {val_targets: [on, off, yes, 'null', \"1\"]}\ntrain: {precision: off}\n"
        )
    )
    assert (config.output, config.init_from, config.data.rec) == ("no", "2024-01-01", "12:30")
    assert config.backbone.network == "050"
    assert (config.optim.lr, config.optim.weight_decay) == (5e-4, 1e-4)
    assert config.validation.val_targets == ("on", "off", "yes", "null", "1")
    assert config.train.precision == "off"


def test_aliases_work_and_cannot_explode(write):
    assert load_config(write("optim: {lr: &x 0.5, momentum: *x}\n")).optim.momentum == 0.5
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    bomb += "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 10))
    assert "aliases expand to more than 10,000 values; write them out" in failure(write(bomb))
    assert "nested deeper than 20 levels" in failure(write("output: &a [*a]\n"))


def test_unreadable_files_are_named(write, tmp_path):
    (tmp_path / "latin.yaml").write_bytes(b"output: caf\xe9\n")
    assert failure("latin") == "latin.yaml: byte 11 is not UTF-8; expected a YAML text file"
    (tmp_path / "huge.yaml").write_bytes(b"# " + b"x" * 300_000)
    assert failure("huge") == "huge.yaml: larger than 256 KiB; expected a YAML config"


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.batch_size=0", "train.batch_size: found 0, expected between 1 and 1,048,576"),
        ("data.flip=1.5", "data.flip: found 1.5, expected between 0 and 1"),
        ("head.sample_rate=-0.1", "head.sample_rate: found -0.1, expected between 0 and 1"),
        ("head.scale=0", "head.scale: found 0, expected above 0"),
        ("head.margins=[1, 4, 0]", "head.margins: found [1, 4, 0], expected m1 above 0"),
        ("optim.lr=-1", "optim.lr: found -1, expected above 0"),
        ("optim.momentum=1", "optim.momentum: found 1, expected at least 0 and below 1"),
        ("optim.betas=[0.9, 1]", "optim.betas: found [0.9, 1], expected two numbers"),
        ("data.num_classes=1", "data.num_classes: found 1, expected between 2 and 4,294,967,296"),
        ("seed=-1", "seed: found -1, expected between 0 and 2^63 - 1"),
    ],
)
def test_a_value_out_of_range_is_placed(write, override, expected):
    assert failure(write(""), override).startswith(f"override {override!r}: {expected}")
    section, _, rest = override.rpartition("=")[0].rpartition(".")
    value = override.partition("=")[2]
    text = f"# first line\n{section}: {{{rest}: {value}}}\n" if section else f"# first line\n{rest}: {value}\n"
    assert failure(write(text)).startswith(f"run.yaml:2: {expected}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("head: {update: autograd, centers_format: bf16}", "head.centers_format: would be ignored"),
        ("head: {update: autograd, momentum_format: int8}", "head.momentum_format: would be ignored"),
        ("head: {negatives: nearest}", "head.negatives: would be ignored with head.sample_rate 1"),
        ("head: {sampling_correction: logq}", "head.sampling_correction: would be ignored with head.sample_rate 1"),
        (
            "head: {sample_rate: 0.5, negatives: nearest, sampling_correction: logq}",
            "head.sampling_correction: logq cannot go with head.negatives nearest, which draws no class by chance",
        ),
        ("head: {overlap: true, update: autograd}", "head.overlap: would be ignored with head.update autograd"),
        (
            "head: {overlap: true}\ntrain: {precision: fp16}",
            "head.overlap: true cannot go with train.precision fp16, whose loss scale overflows on purpose",
        ),
        ("head: {unsampled: coast}", "head.unsampled: would be ignored with head.sample_rate 1"),
        (
            "head: {sample_rate: 0.5, update: autograd}",
            "head.update: autograd with head.sample_rate 0.5 cannot go with head.unsampled frozen: its optimizer moves",
        ),
        ("head: {margin_gradient: exact, margins: [1, 0, 0.4]}", "head.margin_gradient: would be ignored"),
        ("optim: {betas: [0.8, 0.9]}", "optim.betas: would be ignored with optim.optimizer sgd"),
        ("optim: {schedule: cosine, poly_power: 3}", "optim.poly_power: would be ignored"),
        ("optim: {optimizer: adamw, momentum: 0.5}\nhead: {update: autograd}", "optim.momentum: would be ignored"),
        ("optim: {optimizer: adamw, momentum: 0.5}", "optim.momentum: would be ignored with optim.optimizer adamw"),
        ("head: {update: autograd, optimizer: adamw}", "head.optimizer: would be ignored with head.update autograd"),
        ("optim: {optimizer: adamw}\nhead: {unsampled: coast, sample_rate: 0.5}", "head.unsampled: coast is a rule of"),
        ("optim: {optimizer: adamw}\nhead: {momentum_format: none}", "head.momentum_format: none keeps no moments"),
        ("optim: {warmup_epoch: 20}", "optim.warmup_epoch: found 20, expected less than train.num_epoch, which is 20"),
        ("validation: {val_dir: x}", "validation.val_dir: would be ignored without validation.val_targets"),
        ("validation: {every_steps: 5}", "validation.every_steps: would be ignored without"),
        ("validation: {val_targets: [a, a]}", "validation.val_targets: found ['a', 'a'], expected distinct names"),
        ("data: {rec: synthetic, num_image: 5}", "data.rec: 'synthetic' has no sizes of its own;"),
    ],
)
def test_a_combination_that_cannot_be_or_would_be_ignored_is_refused(write, text, message):
    found = failure(write(text))
    assert message in found
    assert found.startswith("run.yaml:")


def test_a_combination_at_its_default_is_not_a_complaint(write):
    load_config(write("optim: {optimizer: sgd, betas: [0.9, 0.999]}\nvalidation: {every_steps: 2000}\n"))


def test_one_line_names_every_key_that_another_has_made_void(write):
    found = failure(
        write("optim:\n  betas: [0.8, 0.9]\nvalidation:\n  val_dir: x\n  every_steps: 5\n  batch_size: 3\n"),
        "head.negatives=nearest",
    )
    assert found == (
        "override 'head.negatives=nearest': head.negatives: would be ignored with head.sample_rate 1, where every "
        "class is used; lower the rate or remove this key; also run.yaml:2: optim.betas: would be ignored with "
        "optim.optimizer sgd; set optim.optimizer: adamw or remove this key; also run.yaml:4: validation.val_dir, "
        "run.yaml:5: validation.every_steps, run.yaml:6: validation.batch_size: would be ignored without "
        "validation.val_targets; name them or remove these keys"
    )


def test_groups_must_fill_the_batch_of_a_rank(write):
    load_config(write("data: {images_per_identity: 4}\ntrain: {batch_size: 12}\n"))
    found = failure(write("data: {images_per_identity: 4}\ntrain: {batch_size: 10}\n"))
    assert found.startswith(
        "run.yaml:1: data.images_per_identity: 4 does not divide train.batch_size 10; expected whole"
    )


def test_a_key_under_its_old_name_loads_and_a_line_names_the_new(write, caplog):
    write("augment: {gray: 0.1}\n", "below.yaml")
    config = load_config(write("base: below\naugment:\n  blur: 0.5\n  grey: 0.3\n"))
    assert (config.augment.gray, config.augment.blur) == (0.3, 0.5)
    assert caplog.messages == ["run.yaml:4: augment.grey is now augment.gray; it is read as that"]
    assert load_config("run.yaml", ["augment.grey=0.2"]).augment.gray == 0.2
    assert "override 'augment.grey=0.2': augment.grey is now augment.gray; it is read as that" in caplog.messages


def test_the_config_of_an_old_run_loads(write, caplog):
    now = dataclasses.replace(Config(), augment=AugmentConfig(gray=0.15, blur=0.1))
    config = load_config(write(dump_config(now).replace("gray:", "grey:")))
    assert config == now
    assert "augment.grey is now augment.gray" in caplog.text


def test_a_key_under_both_its_names_is_refused(write):
    assert failure(write("augment:\n  grey: 0.3\n  gray: 0.2\n")) == (
        "run.yaml:2: augment.grey: is augment.gray now, and that is given too, at run.yaml:3; keep augment.gray"
    )


@pytest.mark.parametrize(
    ("overrides", "key", "value"),
    [
        (["seed=1", "seed=2"], "seed", 2),
        (["optim.lr=0.3", "seed=1", "optim.lr=0.1"], "optim.lr", 0.1),
        (["augment.grey=0.3", "augment.gray=0.2"], "augment.gray", 0.2),
        (["augment.gray=0.2", "augment.grey=0.3"], "augment.gray", 0.3),
        (["validation.val_targets=[a,b]", "validation.val_targets=[c]"], "validation.val_targets", ("c",)),
        (["data.num_workers=3", "data.num_workers=null"], "data.num_workers", None),
        (["optim={lr: 0.3, momentum: 0.5}", "optim.lr=0.1"], "optim.lr", 0.1),
        (["optim.lr=0.1", "optim={lr: 0.3}"], "optim.lr", 0.3),
    ],
)
def test_the_last_of_two_overrides_counts(write, overrides, key, value):
    assert flatten(load_config(write(""), overrides))[key] == value


@pytest.mark.parametrize("typed", ["my.py", "my", "configs/my.py", "configs/my", "./configs/my.py"])
def test_a_config_of_arcface_torch_is_known_for_one(tmp_path, monkeypatch, typed):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/my.py").write_text("config.lr = 0.1\n")
    with pytest.raises(ConfigError) as caught:
        load_config(typed)
    convert = "convert it: python -m recognition from_arcface_torch configs/my.py configs/my.yaml"
    assert (
        str(caught.value)
        == f"configs/my.py: is a Python file, as arcface_torch has them; expected a YAML config; {convert}"
    )
    (tmp_path / "configs/my.yaml").write_text("seed: 3\n")
    if typed.endswith(".py"):
        with pytest.raises(ConfigError, match=r"give configs/my\.yaml, which lies beside it$"):
            load_config(typed)
    else:
        assert load_config(typed).seed == 3


TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12)


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(
    output=st.one_of(st.none(), TEXTS, st.sampled_from(["null", "~", "no", "1", "1e3", "true", " x", "a: b", "#"])),
    lr=st.floats(1e-12, 1e6),
    targets=st.lists(TEXTS, unique=True, max_size=4),
    margins=st.tuples(st.floats(0.5, 2), st.floats(0, 3), st.floats(0, 1)),
    seed=st.integers(0, 2**63 - 1),
)
def test_a_dumped_config_loads_back_equal(tmp_path_factory, output, lr, targets, margins, seed):
    config = dataclasses.replace(
        Config(),
        output=output,
        seed=seed,
        optim=OptimConfig(lr=lr),
        validation=ValidationConfig(val_targets=tuple(targets)),
        head=dataclasses.replace(Config().head, margins=margins),
    )
    path: Path = tmp_path_factory.getbasetemp() / "dumped.yaml"
    path.write_text(dump_config(config), encoding="utf-8")
    assert load_config(str(path)) == config
    assert flatten(load_config(str(path))) == flatten(config)

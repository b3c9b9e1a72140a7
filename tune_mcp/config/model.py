"""``models/<name>/config.yaml`` as data (rules MOD-02, MOD-05 to MOD-08, DSC-08 to DSC-13)."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal, cast

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    StringConstraints,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)

from tune_mcp.config.fields import (
    CiMachine,
    ConfigModel,
    ConstantName,
    Env,
    Gpus,
    JsonSource,
    ModuleName,
    Name,
    Public,
    Regex,
    RelativePath,
    Strings,
    one_or_more,
    wrong,
)
from tune_mcp.config.metrics import MetricsFile, SampleSource, inline_form
from tune_mcp.config.stages import ONE
from tune_mcp.config.yaml_source import Yaml

_SELECTING = (
    "exitfirst maxfail lf last-failed ff failed-first nf new-first sw stepwise sw-skip stepwise-skip "
    "deselect co collect-only collectonly basetemp numprocesses reruns"
)
_SELECTING_LETTERS = frozenset("xkmn")
_LETTERS_WITH_VALUE = frozenset("kmnpcorW")


def _complete(argument: str) -> str:
    """Refuse an argument that makes pytest stop early, run less, more or some twice, or write elsewhere."""
    option = argument.partition("=")[0]
    bad = (option.startswith("--") and option[2:] in _SELECTING.split()) or "addopts" in argument
    bad = bad or (not option.startswith("-") and re.search(r"\.py$|::", argument) is not None)
    if re.match(r"-[A-Za-z]", argument):
        # Letters may be written together: -sx is -s -x. What follows a letter that takes a value is the value.
        for letter in argument[1:]:
            bad = bad or letter in _SELECTING_LETTERS
            if letter in _LETTERS_WITH_VALUE or not letter.isalpha():
                break
    if bad:
        what = "every test of the file runs, once, in a folder that tune-mcp names"
        raise wrong(f"{argument!r} is not allowed: {what}", "XPY-01")
    return argument


def _file_name(name: str) -> str:
    if not name.endswith(".py") or PurePosixPath(name).name != name:
        raise wrong(f"{name!r} is not the name of a test file, as test_x_ci.py")
    return name


def _words(value: object) -> object:
    """One string holds all arguments, as a shell would take it apart."""
    return tuple(shlex.split(value)) if isinstance(value, str) else value


Arguments = Annotated[tuple[Annotated[str, AfterValidator(_complete)], ...], BeforeValidator(_words)]
IGNORED_KEYS = frozenset({"expected_wer_normalizer"})
"""Keys of older models that the older script itself had stopped to read."""
FileName = Annotated[str, AfterValidator(_file_name)]
FileBaseName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.+-]*$")]
_Samples = Annotated[int, Field(gt=0)] | ConstantName


def _scope(value: object, read: ValidatorFunctionWrapHandler) -> object:
    try:
        return read(value)
    except ValidationError as error:
        # A union of six kinds explains itself with six errors; one sentence is worth more.
        what = "write a number above 0, a constant, a list of them, or these by group"
        raise wrong(f"{value!r} is no number of samples: {what}", "SMP-02") from error


SampleScope = _Samples | tuple[_Samples, ...]
"""How many samples a stage must have: a number, a constant, or constants of which the first that is a number counts."""
SampleScopes = Annotated[SampleScope | dict[str, SampleScope] | None, WrapValidator(_scope)]


def _by_pattern(value: object) -> object:
    """A pattern, a list of them (each alone or as ``{test, reason}``), or pattern -> reason: all as the last."""
    if isinstance(value, str):
        return {value: ""}
    if not isinstance(value, list | tuple):
        return value
    found: dict[object, object] = {}
    for item in cast("list[object]", value):
        entry = cast("dict[object, object]", item) if isinstance(item, dict) else {"test": item}
        if not set(entry) <= {"test", "reason"} or not isinstance(entry.get("test"), str):
            raise wrong(f"{entry!r} is no test id, and no {{test: ..., reason: ...}}", "RTY-04")
        found[entry["test"]] = entry.get("reason", "")
    return found


AllowedFailures = Annotated[dict[str, str], BeforeValidator(_by_pattern)]
"""Test id, name or regular expression for either -> why its failure is accepted."""


def _counts(value: object, read: ValidatorFunctionWrapHandler) -> object:
    return value if value == ONE else read(value)


Counts = Annotated[SampleSource | Literal["one"], WrapValidator(_counts)]
"""Where a test counts its samples; ``one`` for a test that counts none."""


class ResultSource(ConfigModel):
    """Where one result tree keeps its numbers.

    ``json_file`` is relative to pytest's basetemp and the default of every dotted path. ``paths`` maps a metric key to
    a path; one left blank is not known yet and stays NEEDS_CONFIG. ``sample_counts: one`` says that the test counts no
    samples. ``sample_counts_by_group`` and a mapping in
    ``expected_samples`` override by group (``default`` for the others). ``observation_validity`` is the place of a
    boolean that the test writes: a repeat counts only where it is true.
    """

    json_file: RelativePath | None = None
    paths: dict[str, JsonSource | None] = Field(default_factory=dict)
    sample_counts: Counts | None = None
    sample_counts_by_group: dict[str, Counts] = Field(default_factory=dict)
    ignored_constants: Strings = ()
    expected_samples: SampleScopes = None
    observation_validity: JsonSource | None = None

    def expected(self, group: str) -> tuple[int | str, ...]:
        """What config says about the sample count of ``group``; empty when it says nothing."""
        found = self.expected_samples
        if isinstance(found, dict):
            found = found.get(group, found.get("default"))
        if found is None:
            return ()
        return found if isinstance(found, tuple) else (found,)


def fits(pattern: str, symbol: str) -> bool:
    """Whether a ``constant_filter`` means a constant: from the start of its bare name on, as ``re.match`` means it."""
    return re.match(pattern, symbol.lstrip("_")) is not None


class Variant(ResultSource):
    """One of several result trees of one pytest run; its constants are those whose bare name fits the filter.

    ``stage_base_override`` opens the keys of its stages in place of the test's name, ``omit_variant_suffix`` leaves the
    variant's own name out of them. ``context_vars`` are the constants that its context line shows instead of those
    found by name; the first that is a whole number is its number of samples where ``expected_samples`` is silent.
    """

    constant_filter: Regex = ".*"
    stage_base_override: Name | None = None
    omit_variant_suffix: bool = False
    context_vars: Annotated[tuple[ConstantName, ...], BeforeValidator(one_or_more)] = ()
    allowed_pytest_failure: JsonSource | None = None

    def claims(self, symbol: str) -> bool:
        """Whether a constant belongs here (rule DSC-11)."""
        return fits(self.constant_filter, symbol)

    def names(self, symbol: str) -> bool:
        """Whether the filter writes out the whole name of a constant: two variants that do so share it on purpose."""
        whole = rf"(?:^|\|)[\^(?:_]*{re.escape(symbol.lstrip('_'))}[$)]*(?:\||$)"
        return re.search(whole, self.constant_filter) is not None


class Preset(ConfigModel):
    """One of several pytest runs of the same file, with its own environment and its own constants (rule DSC-12).

    ``gate_thresholds: false`` says that the test does not assert this preset's thresholds: it is measured and
    reported, never written (TTS-09).
    """

    constant_filter: Regex = ".*"
    extra_env: Env = Field(default_factory=dict)
    gpus: Gpus | None = None
    hf_model_ids: Strings = ()
    gate_thresholds: bool = True

    def claims(self, symbol: str) -> bool:
        """Whether a constant belongs to this preset and to no other."""
        return fits(self.constant_filter, symbol)


_BY_TEST = (
    "metric_sources", "thresholds", "hf_model_ids_by_test", "gpus_per_test", "extra_env", "hf_datasets_by_test",
    "requires_speaker_sim_by_test", "pytest_extra_args", "timeout_s",
)  # fmt: skip
"""Mappings by test file. An entry that is left blank, as one of ``auto_env``, means that nothing is said about it."""


class FileSource(ResultSource):
    """Everything about one test file. ``threshold_file`` holds its literals where the test only imports them.

    ``allowed_pytest_failure`` is the place of a boolean in a result file (true: this repeat's failure is expected), or
    tests of the file that may fail, as at the top level.
    """

    variants: dict[Name, Variant] = Field(default_factory=dict)
    calibration_presets: dict[Name, Preset] = Field(default_factory=dict)
    threshold_file: RelativePath | None = None
    allowed_pytest_failure: JsonSource | AllowedFailures | None = None


class Optimisation(ConfigModel):
    """A speed-up that a model relies on: the files that carry it, and what a log shows when it ran (PRF-02, PRF-03).

    ``files`` are globs below the repository root (``**`` for any depth). ``evidence`` is searched in the pytest logs of
    ``tests``, line by line; without ``tests`` in those of every test file.
    """

    files: tuple[RelativePath, ...] = ()
    evidence: Regex | None = None
    tests: tuple[FileName, ...] = ()

    @model_validator(mode="after")
    def _says_something(self) -> Optimisation:
        if not self.files and self.evidence is None:
            what = "an optimisation needs files, evidence, or both: with neither there is nothing to look for"
            raise wrong(what, "PRF-02")
        return self


class RequiredFile(ConfigModel):
    """A file that a test loads and that is no repository of a hub cache: weights of a score, a marker, a license.

    ``path`` is absolute once its variables (``$HOME``, ``${X:-$HOME/.cache}``) have the values of a launch;
    ``min_bytes`` is what a whole one has at least. ``fetch`` is the command that a person runs to get it: ``{python}``
    and ``{repo}`` stand for the project's interpreter and its checkout. Without ``tests`` every test needs it.
    """

    path: Annotated[str, Field(pattern=r"^[/$~]")]
    min_bytes: Annotated[int, Field(ge=0)] = 1
    tests: tuple[FileName, ...] = ()
    fetch: Public = ""


class ModelConfig(ConfigModel):
    """One model. Keys of the per-test mappings are names of test files, without folders.

    ``tree`` is a path of the repository; a folder ``models/<name>@<state>`` counts where it exists.
    ``default_venv_python`` and ``test_globs`` are relative to the repository root where they are not absolute;
    ``hf_datasets_by_test`` names the data sets of a test where it does not need all ``hf_datasets``;
    ``requires_speaker_sim_by_test`` says which tests load the checkpoints of speaker similarity,
    ``requires_speaker_sim`` for the others; without both, they are needed where a model or host names the folder.
    ``timeout_s`` limits one pytest in seconds; ``cache_wipes`` are folders below OMNI_CI_HOME emptied before each.
    ``thresholds`` names the numbers of a test file that bound a metric, by the expression that reads each; an empty
    mapping says that the file has none. ``metrics`` describes metrics as metrics.yaml does.
    ``allowed_pytest_failure`` are tests that may fail for another reason than a threshold.
    ``venv_imports`` are modules that precheck loads; without the key it is the repository's own package.
    ``ci_env_file`` is the script that CI sources before every test, which ``auto_env`` is compared with.
    ``ci_attempts`` is how often CI runs a failing test before it is red, ``ci_false_alarms`` the share of red runs of a
    clean commit that is wished for; both only enter what a report says.
    ``needs_lane``: the thresholds hold for a launch with CPUs of its own, so the host profile must have lanes.
    ``tests_end_processes`` says in words which processes the tests themselves kill; the report repeats it.
    ``test_outputs`` are globs of tracked data files that the tests rewrite; no test, threshold or source file is one.

    ``hf_files`` limits a repository of weights or data to the files that the tests load (globs; ``[]`` takes whatever
    its snapshot has). ``required_files`` are files outside a hub cache, ``console_scripts`` commands that must be in
    the interpreter's ``bin``. ``dependency_extras`` names extras or dependency groups of pyproject.toml that the tests
    need as well; ``optional_dependencies`` declared packages whose absence is only a warning.
    """

    name: Name
    description: str = ""
    tree: RelativePath | None = None
    hf_model_id: str | None = None
    hf_model_ids_by_test: dict[FileName, Strings] = Field(default_factory=dict)
    hf_datasets: Strings = ()
    hf_datasets_by_test: dict[FileName, Strings] = Field(default_factory=dict)
    requires_speaker_sim: bool | None = None
    requires_speaker_sim_by_test: dict[FileName, bool] = Field(default_factory=dict)
    omni_ci_home: str | None = None
    default_venv_python: Strings = ()
    auto_env: Env = Field(default_factory=dict)
    extra_env: dict[FileName, Env] = Field(default_factory=dict)
    gpus_per_test: dict[FileName, Gpus] = Field(default_factory=dict)
    pytest_extra_args: dict[FileName, Arguments] = Field(default_factory=dict)
    test_globs: Annotated[tuple[RelativePath, ...], BeforeValidator(one_or_more), Field(min_length=1)]
    stage_base_strip_prefix: str = ""
    stage_base_strip_suffix: str = ""
    stage_base_docs_override: Name | None = None
    metric_sources: dict[FileName, FileSource] = Field(default_factory=dict)
    thresholds: dict[FileName, dict[str, Name]] = Field(default_factory=dict)
    metrics: Annotated[MetricsFile, BeforeValidator(inline_form)] = Field(default_factory=MetricsFile)
    timeout_s: dict[FileName, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    cache_wipes: Annotated[tuple[RelativePath, ...], BeforeValidator(one_or_more)] = ()
    optimisations: dict[Name, Optimisation] = Field(default_factory=dict)
    allowed_pytest_failure: AllowedFailures = Field(default_factory=dict)
    venv_imports: tuple[ModuleName, ...] | None = None
    ci_machine: CiMachine = Field(default_factory=CiMachine)
    ci_env_file: RelativePath | None = None
    ci_attempts: Annotated[int, Field(ge=1, le=10)] = 1
    ci_false_alarms: Annotated[float, Field(gt=0, lt=1)] = 0.01
    hf_files: dict[str, tuple[RelativePath, ...]] = Field(default_factory=dict)
    required_files: tuple[RequiredFile, ...] = ()
    console_scripts: tuple[FileBaseName, ...] = ()
    dependency_extras: tuple[Name, ...] = ()
    optional_dependencies: tuple[Name, ...] = ()
    test_outputs: tuple[RelativePath, ...] = ()
    tests_end_processes: str = ""
    needs_lane: bool = False

    @model_validator(mode="before")
    @classmethod
    def _older_keys(cls, value: Yaml) -> Yaml:
        """Without what is ignored, and without the entries by test file or variable that were left blank."""
        if not isinstance(value, dict):
            return value
        kept = {key: inner for key, inner in value.items() if key not in IGNORED_KEYS}
        for key in {*_BY_TEST, "auto_env"} & kept.keys():
            inner = kept[key]
            if isinstance(inner, dict):
                kept[key] = {name: one for name, one in inner.items() if one is not None}
        return kept

    def venv_pythons(self, repo_root: Path) -> tuple[Path, ...]:
        """The interpreters to try, best first."""
        return tuple(repo_root / path for path in self.default_venv_python)

    def model_ids(self, test: str, preset: str | None = None) -> tuple[str, ...]:
        """The checkpoints that a test file (and preset) needs (rule MOD-08)."""
        source = self.metric_sources.get(test)
        chosen = source.calibration_presets.get(preset) if source and preset else None
        if chosen and chosen.hf_model_ids:
            return chosen.hf_model_ids
        return self.hf_model_ids_by_test.get(test, (self.hf_model_id,) if self.hf_model_id else ())

    def datasets(self, test: str) -> tuple[str, ...]:
        """The data sets that a test file needs."""
        return self.hf_datasets_by_test.get(test, self.hf_datasets)

    def speaker_sim(self, tests: Iterable[str]) -> bool | None:
        """Whether any of the test files loads the checkpoints of speaker similarity; None where config is silent."""
        said = {self.requires_speaker_sim_by_test.get(test, self.requires_speaker_sim) for test in tests}
        return True if True in said else None if None in said else False if said else None

    def named_tests(self) -> tuple[str, ...]:
        """Every test file name that some key mentions, in a fixed order."""
        names: list[str] = [name for key in _BY_TEST for name in getattr(self, key)]
        names += [name for one in self.optimisations.values() for name in one.tests]
        names += [name for one in self.required_files for name in one.tests]
        return tuple(dict.fromkeys(names))


def globbed_files(repo_root: Path, model: ModelConfig) -> Iterator[str]:
    """The Python files that ``test_globs`` finds, relative to the repository, each once, in the order of the globs."""
    seen: set[str] = set()
    for pattern in model.test_globs:
        for path in sorted(repo_root.glob(pattern)):
            name = path.relative_to(repo_root).as_posix()
            if path.suffix == ".py" and name not in seen:
                seen.add(name)
                yield name

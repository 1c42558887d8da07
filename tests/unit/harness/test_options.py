"""The options' values, read from texts."""

from __future__ import annotations

import pytest

from kvbench.harness.options import OPTIONS, command, parse_seeds, parse_taps
from kvbench.utils.errors import UserError, unknown


@pytest.mark.parametrize(
    ("text", "seeds"), [("", ()), (" ", ()), ("1", (0,)), (" 4 ", (0, 1, 2, 3)), ("5:8", (5, 6, 7))]
)
def test_seeds_are_a_number_or_a_range(text: str, seeds: tuple[int, ...]) -> None:
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["0", "-1", "three", "1.5", "8:5", "5:5", "-2:3", ":", "3:", ":3", "1:2:3"])
def test_other_seeds_are_told_in_a_sentence(text: str) -> None:
    with pytest.raises(UserError, match=r"give a number from 1, such as 3, or a range such as 5:8") as told:
        parse_seeds(text)
    assert repr(text) in str(told.value)


def test_taps_are_module_paths_with_commas_between() -> None:
    assert parse_taps("layer3.1, layer4.0 ,layer4.1,") == ("layer3.1", "layer4.0", "layer4.1")
    assert parse_taps("") == ()


def test_a_tap_that_is_named_twice_is_a_sentence() -> None:
    with pytest.raises(UserError, match=r"The tap 'layer4' is named 2 times"):
        parse_taps("layer3,layer4, layer4")


def test_the_command_names_what_is_not_the_default_and_decides_what_is_trained() -> None:
    given = {row.name: row.default for row in OPTIONS}
    assert command(given) == "pytest benchmarks/"
    given |= {"workload": "folder", "root": "my images", "seeds": "5", "cache": "elsewhere"}
    assert command(given) == "pytest benchmarks/ --kvbench-workload folder --kvbench-root 'my images'"
    assert command(given, paths=False) == "pytest benchmarks/ --kvbench-workload folder --kvbench-root ROOT"


def test_options_have_one_prefix_an_ini_twin_and_no_double() -> None:
    assert all(row.flag == f"--kvbench-{row.name}" for row in OPTIONS)
    assert all(row.ini == "kvbench_" + row.name.replace("-", "_") for row in OPTIONS)
    assert len({row.name for row in OPTIONS}) == len(OPTIONS)


def test_an_unknown_value_names_the_nearest_and_all_valid_ones() -> None:
    assert str(unknown("student", "Modle3", ["Model3", "Teacher"])) == (
        "Unknown student 'Modle3'. Did you mean Model3? Valid: Model3, Teacher."
    )
    assert str(unknown("student", "zzz", ["Model3"])) == "Unknown student 'zzz'. Valid: Model3."
    assert str(unknown("student", "zzz", [])) == "Unknown student 'zzz'. Valid: none."


def test_a_bucket_is_no_cache() -> None:
    (row,) = (row for row in OPTIONS if row.name == "cache")
    sentence = r"^The cache is a folder of this machine, not s3://a/b: share banks by --kvbench-bucket s3://a/b\.$"
    with pytest.raises(UserError, match=sentence):
        row.parse("s3://a/b")
    assert row.path


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("s3://", "Cannot read the bucket 's3://': valid are URLs such as s3://NAME/FOLDER."),
        ("a folder", "Cannot read the bucket 'a folder'"),
        ("s3://KEY:SECRET@host/a", r"holds a password, which reports would show: write s3://host and give credentials"),
    ],
)
def test_a_bucket_has_a_name_and_no_password(url: str, sentence: str) -> None:
    (row,) = (row for row in OPTIONS if row.name == "bucket")
    with pytest.raises(UserError, match=sentence) as raised:
        row.parse(url)
    assert "SECRET" not in str(raised.value)
    assert (row.parse(""), row.parse("s3://name/folder"), row.parse("memory://x")) == (
        "", "s3://name/folder", "memory://x"
    )  # fmt: skip

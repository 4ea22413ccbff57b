import pytest

from manifests import chart_readmes
from manifests.chart_readmes import Value, readme, values
from manifests.charts import CHARTS
from streetvision.errors import SettingsError
from tests.charts.render import NAMES

TEXT = """
# Not about a value.

# -- How many.
replicas: 1
image:
  # -- Where it comes from,
  # in two lines.
  registry: docker.io
  # -- Its tag | empty: the chart's.
  tag: ""
# -- Processor and memory.
resources:
  requests: {cpu: 1}
  limits:
    memory: 1Gi
"""


@pytest.mark.parametrize("chart", NAMES)
def test_each_readme_is_what_the_comments_say(chart):
    file = CHARTS / chart / "README.md"
    assert file.read_text() == readme(CHARTS / chart), "stale: run `python -m manifests.chart_readmes`"


def test_a_comment_describes_the_value_or_the_block_below_it():
    assert values(TEXT) == [
        Value("replicas", 1, "How many."),
        Value("image.registry", "docker.io", "Where it comes from, in two lines."),
        Value("image.tag", "", "Its tag | empty: the chart's."),
        Value("resources", {"requests": {"cpu": 1}, "limits": {"memory": "1Gi"}}, "Processor and memory."),
    ]


@pytest.mark.parametrize(
    ("text", "key"),
    [("a: 1\n", "a"), ("# -- A block.\na:\n  # -- One.\n  b: 1\n  c: 2\n", "a.c"), ("# no mark\na: 1\n", "a")],
)
def test_a_value_without_a_comment_is_refused_by_name(text, key):
    with pytest.raises(SettingsError, match=f"`{key}` in line"):
        values(text)


def test_check_names_a_stale_readme_and_leaves_it(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "one"
    folder.mkdir()
    (folder / "Chart.yaml").write_text('name: one\ndescription: d\nversion: 0.1.0\nkubeVersion: ">=1.31.0-0"\n')
    (folder / "values.yaml").write_text("# -- A | b.\na: 1\n")
    monkeypatch.setattr(chart_readmes, "CHARTS", tmp_path)
    assert chart_readmes.main(["--check"]) == 1
    assert not (folder / "README.md").exists()
    assert chart_readmes.main([]) == 0
    assert "| `a` | int | `1` | A \\| b. |" in (folder / "README.md").read_text()
    assert chart_readmes.main(["--check"]) == 0
    assert "stale" in capsys.readouterr().out

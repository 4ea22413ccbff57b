"""Where imports may point, read from the source, and what the light modules really load."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BASE = {
    "streetvision.errors",
    "streetvision.atomic",
    "streetvision.imaging",
    "streetvision.json_input",
    "streetvision.evaluation",
    "streetvision.evidence",
    "streetvision.forecast",
    "streetvision.statistics",
    "streetvision.subnet.btauth",
    "streetvision.subnet.protocol",
    "streetvision.subnet.reward",
    "streetvision.subnet.regimes",
    "streetvision.subnet.deck",
    "streetvision.subnet.replay",
    "streetvision.subnet.sentinel",
    "streetvision.subnet.upstream",
    "streetvision.registry.decision",
    "streetvision.registry.gate",
    "streetvision.registry.paired",
    "streetvision.inference.threshold",
}
BASE_THIRD_PARTY = {"numpy", "PIL", "pydantic", "simplejpeg"}
OURS = {"streetvision", "components", "pipelines", "serving", "tests"}
HEAVY = ("torch", "kfp", "mlflow", "kserve", "bittensor", "transformers", "pyarrow", "cv2", "matplotlib")


def modules(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def module_name(path: Path) -> str:
    relative = path.relative_to(ROOT / "src" if "src" in path.parts else ROOT).with_suffix("")
    return ".".join(part for part in relative.parts if part != "__init__")


def imports(path: Path, *, top_level_only: bool = False) -> set[str]:
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level_only else list(ast.walk(tree))
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            package = node.module or ""
            # `from components import images` names a module
            found |= {f"{package}.{alias.name}" for alias in node.names} if package in OURS else {package}
    return found


def roots(names: set[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


def third_party(names: set[str]) -> set[str]:
    return roots(names) - set(sys.stdlib_module_names) - OURS


@pytest.mark.parametrize("path", modules("src"), ids=module_name)
def test_the_library_imports_nothing_else_of_the_repository(path: Path):
    assert roots(imports(path)) & OURS <= {"streetvision"}


@pytest.mark.parametrize("path", modules("src"), ids=module_name)
def test_the_library_imports_at_the_top_of_the_module(path: Path):
    if path.parent.name != "commands":  # a command loads only what it runs
        assert imports(path) == imports(path, top_level_only=True)


@pytest.mark.parametrize("path", [p for p in modules("src") if module_name(p) in BASE], ids=module_name)
def test_base_modules_import_only_light_packages(path: Path):
    assert third_party(imports(path)) <= BASE_THIRD_PARTY
    assert {name for name in imports(path) if name.startswith("streetvision.")} <= BASE


@pytest.mark.parametrize("path", modules("components"), ids=module_name)
def test_components_import_only_kfp_and_their_images_at_module_level(path: Path):
    top = imports(path, top_level_only=True)
    assert third_party(top) <= {"kfp"}
    assert {name for name in top if name.split(".")[0] in OURS} <= {"components.images"}


@pytest.mark.parametrize("path", modules("components"), ids=module_name)
def test_component_bodies_have_at_most_15_lines(path: Path):
    for function in (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)):
        body = function.body[1:] if ast.get_docstring(function) else function.body
        assert body[-1].end_lineno is not None
        assert body[-1].end_lineno - body[0].lineno + 1 <= 15, f"{path.name}: {function.name}"


@pytest.mark.parametrize("path", modules("pipelines"), ids=module_name)
def test_pipelines_import_components_and_the_library(path: Path):
    assert roots(imports(path)) & OURS <= {"components", "pipelines", "streetvision"}


@pytest.mark.parametrize("path", modules("serving"), ids=module_name)
def test_serving_imports_the_library_and_itself(path: Path):
    assert roots(imports(path)) & OURS <= {"serving", "streetvision"}


@pytest.mark.parametrize("path", modules("serving/miner"), ids=module_name)
def test_the_miner_decodes_no_pictures_and_loads_no_model(path: Path):
    assert not roots(imports(path)) & {"PIL", "cv2", "onnxruntime", "torch", "kserve", "mlflow", "kfp", "pyarrow"}
    assert "streetvision.imaging" not in imports(path)


def test_base_modules_load_nothing_heavy():
    code = f"import sys\nfor name in {sorted(BASE)}: __import__(name)\nprint(*(set({HEAVY}) & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == []

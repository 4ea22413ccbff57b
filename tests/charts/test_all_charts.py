"""What holds for every chart, in every supported way to install it."""

import json
import re
import subprocess
from collections import Counter
from typing import Any

import pytest
import yaml

from manifests.chart_readmes import values as documented_values
from manifests.charts import CHARTS, UMBRELLA
from manifests.tools import helm
from tests.charts import schemas
from tests.charts.cases import CASES, cases, pods, unique
from tests.charts.pod_security import containers, violations
from tests.charts.render import NAMES, Object, Rendered, RenderError, folder, render

PART = "app.kubernetes.io"
SELECTOR = {f"{PART}/name", f"{PART}/instance", f"{PART}/component"}
LABELS = SELECTOR | {f"{PART}/version", f"{PART}/part-of", f"{PART}/managed-by", "helm.sh/chart"}
OURS = "docker.io/streetvision/"
COMPILED = {"PersistentVolumeClaim streetvision-workspace"}  # the pipelines know it by this name: one a namespace
LONG = "a-release-name-that-has-forty-characters"

every_case = pytest.mark.parametrize("case", CASES, ids=str)
every_chart = pytest.mark.parametrize("chart", NAMES)


def _chart(chart: str) -> Object:
    return yaml.safe_load((CHARTS / chart / "Chart.yaml").read_text())


def _schema(chart: str) -> Object:
    return json.loads((CHARTS / chart / "values.schema.json").read_text())


# Helm itself


@every_chart
def test_each_chart_has_files_for_its_supported_ways(chart):
    assert cases(chart), f"charts/{chart}/ci/*-values.yaml"


@pytest.mark.parametrize("major", [3, 4])
@every_case
def test_helm_lints_each_way_without_a_warning(case, major):
    done = subprocess.run(
        [str(helm(major)), "lint", "--strict", str(folder(case.chart)), *case.arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[WARNING]" not in done.stdout, done.stdout


@every_case
def test_helm_3_renders_what_helm_4_does(case):
    assert case.rendered(major=3) == case.rendered(major=4)


@every_chart
def test_rendering_twice_gives_the_same(chart):
    case = cases(chart)[0]
    assert render(case.chart, files=case.files) == case.rendered()


# What an API server would say


@pytest.mark.parametrize("version", schemas.KUBERNETES)
@every_chart
def test_each_object_is_valid_in_each_kubernetes_release(chart, version):
    found = [one for case in cases(chart) for one in case.rendered() if not schemas.is_custom(one)]
    wrong = {_called(one): error for one in unique(found) if (error := schemas.error(one, version))}
    assert not wrong


@every_chart
def test_each_custom_resource_fits_its_own_definition(chart):
    found = [one for case in cases(chart) for one in case.rendered() if schemas.is_custom(one)]
    wrong = {_called(one): errors for one in unique(found) if (errors := schemas.custom_errors(one))}
    assert not wrong


def test_a_custom_resource_with_an_unknown_field_is_refused():
    service = {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": "sv-roadwork"},
        "spec": {"predictor": {"minReplicas": "1", "nodeSelectr": {}, "model": {"modelFormat": {"name": "onnx"}}}},
    }
    errors = schemas.custom_errors(service)
    assert any("nodeSelectr" in error for error in errors)
    assert any("minReplicas" in error and "integer" in error for error in errors)
    assert schemas.custom_errors(service | {"kind": "InferenceServce"}) == [
        "there is no kind InferenceServce in serving.kserve.io/v1beta1"
    ]


def test_a_kind_that_no_release_has_is_refused():
    assert schemas.error({"apiVersion": "apps/v1", "kind": "Deploymnt", "metadata": {"name": "a"}}, "1.35")


@every_case
def test_no_two_objects_share_kind_and_name(case):
    counted = Counter(_called(one) for one in case.rendered())
    assert [name for name, count in counted.items() if count > 1] == []


@every_case
def test_every_object_is_named_after_its_release_or_chosen(case):
    given = json.dumps(case.values)
    strange = {
        _called(one)
        for one in case.rendered()
        if not one["metadata"]["name"].startswith("sv") and one["metadata"]["name"] not in given
    }
    assert strange <= COMPILED


@every_case
def test_two_releases_in_one_namespace_do_not_meet(case):
    first, second = case.rendered(), case.rendered(release="other")
    assert {_called(one) for one in first} & {_called(one) for one in second} <= COMPILED


@every_case
def test_names_fit_even_where_the_release_has_forty_characters(case):
    assert len(LONG) == 40
    # the umbrella's parts ask each other by names that may not be shortened: it refuses a longer one
    rendered = case.rendered(release=LONG[:35].rstrip("-") if case.chart == UMBRELLA else LONG)
    limits = {"CronJob": 52, "InferenceService": 63 - len("-predictor")}
    too_long = [
        (one["kind"], name, len(name))
        for one in rendered
        if len(name := one["metadata"]["name"]) > limits.get(one["kind"], 63)
    ]
    labels = [
        (_called(one), key, value)
        for one in rendered
        for key, value in one["metadata"].get("labels", {}).items()
        if len(value) > 63
    ]
    assert too_long == []
    assert labels == []
    assert [name for name, count in Counter(map(_called, rendered)).items() if count > 1] == []


# Pods


@every_case
def test_every_pod_passes_pod_security_restricted(case):
    broken = {
        name: found
        for name, metadata, spec in pods(case.rendered())
        if (found := violations(spec, metadata.get("annotations")))
    }
    assert broken == {}


@every_case
def test_every_container_has_a_read_only_root_and_resources(case):
    for name, _, spec in pods(case.rendered()):
        for container in containers(spec):
            where = f"{name}, {container['name']}"
            assert container["securityContext"]["readOnlyRootFilesystem"] is True, where
            assert container["resources"]["requests"].keys() >= {"cpu", "memory"}, where
            assert "memory" in container["resources"]["limits"], where


@every_case
def test_every_scratch_volume_has_a_limit(case):
    for name, _, spec in pods(case.rendered()):
        for volume in spec.get("volumes", []):
            if "emptyDir" in volume:
                assert volume["emptyDir"].get("sizeLimit"), f"{name}, {volume['name']}"


@every_case
def test_every_mount_names_a_volume_of_its_pod(case):
    claimed = {one["metadata"]["name"]: one for one in case.rendered().of("StatefulSet")}
    assert not claimed, "volumeClaimTemplates would count as volumes"
    for name, _, spec in pods(case.rendered()):
        volumes = {volume["name"] for volume in spec.get("volumes", [])}
        for container in containers(spec):
            mounted = {mount["name"] for mount in container.get("volumeMounts", [])}
            assert mounted <= volumes, f"{name}, {container['name']}"


@every_case
def test_no_environment_variable_is_set_twice(case):
    for name, _, spec in pods(case.rendered()):
        for container in containers(spec):
            counted = Counter(variable["name"] for variable in container.get("env", []))
            assert [key for key, count in counted.items() if count > 1] == [], f"{name}, {container['name']}"


@every_case
def test_only_pods_with_rights_of_their_own_get_a_token(case):
    rendered = case.rendered()
    bound = {
        subject["name"]
        for kind in ("RoleBinding", "ClusterRoleBinding")
        for one in rendered.of(kind)
        for subject in one["subjects"]
    }
    for name, _, spec in pods(rendered):
        if name.startswith("InferenceService"):
            continue  # KServe's storage initializer needs the account, and the pod has no rights
        assert spec.get("automountServiceAccountToken", True) is (spec.get("serviceAccountName") in bound), name
        assert spec.get("enableServiceLinks") is False, name


@every_case
def test_long_running_pods_say_when_they_are_ready_and_when_they_hang(case):
    for kind in ("Deployment", "ServingRuntime"):
        for one in case.rendered().of(kind):
            spec = one["spec"]["template"]["spec"] if kind == "Deployment" else one["spec"]
            main = spec["containers"][0]
            assert {"readinessProbe", "livenessProbe"} <= main.keys(), _called(one)


@every_case
def test_hook_pods_are_removed_before_the_next_and_when_they_succeed(case):
    for one in case.rendered():
        annotations = one["metadata"].get("annotations", {})
        if "helm.sh/hook" in annotations:
            policy = set(annotations["helm.sh/hook-delete-policy"].split(","))
            assert "before-hook-creation" in policy, _called(one)
        if annotations.get("helm.sh/hook") == "test":
            assert "hook-succeeded" in policy, _called(one)


@pytest.mark.parametrize("chart", [name for name in NAMES if name != "monitoring"])  # which has no pod to ask
def test_each_chart_proves_itself_by_helm_test(chart):
    for case in cases(chart):
        if not case.values.get("upload", {}).get("enabled", True):
            continue  # nothing is in Kubeflow, and the rollout is asked for by kubectl
        hooks = [one["metadata"].get("annotations", {}).get("helm.sh/hook") for one in case.rendered()]
        assert "test" in hooks, str(case)


# Labels and selectors


@every_case
def test_every_object_has_all_labels(case):
    for one in case.rendered():
        labels = one["metadata"].get("labels", {})
        assert labels.keys() >= LABELS, (_called(one), LABELS - labels.keys())
        assert labels[f"{PART}/instance"] == "sv", _called(one)
        assert labels[f"{PART}/part-of"] == "streetvision", _called(one)


@every_case
def test_every_selector_names_its_release_and_finds_its_pods(case):
    rendered = case.rendered()
    labels = [metadata.get("labels", {}) for _, metadata, _ in pods(rendered)]
    for where, selector in _pod_selectors(rendered):
        assert _of_this_release(selector, rendered), f"{where}: {selector}"
        assert any(selector.items() <= one.items() for one in labels), f"{where} finds no pod: {selector}"


@every_case
def test_no_selector_finds_pods_of_another_release(case):
    others = [metadata.get("labels", {}) for _, metadata, _ in pods(case.rendered(release="other"))]
    for where, selector in _pod_selectors(case.rendered()):
        assert not any(selector.items() <= one.items() for one in others), f"{where}: {selector}"


@every_case
def test_each_deployment_selects_the_pods_of_its_own_template_alone(case):
    rendered = case.rendered()
    for one in rendered.of("Deployment"):
        selector = one["spec"]["selector"]["matchLabels"]
        found = [name for name, metadata, _ in pods(rendered) if selector.items() <= metadata.get("labels", {}).items()]
        assert found == [_called(one)]
        assert selector.keys() == SELECTOR


@every_case
def test_each_monitor_finds_a_service_of_its_release(case):
    rendered = case.rendered()
    services = [one["metadata"]["labels"] for one in rendered.of("Service")]
    services += [  # KServe's own Service has the labels of the InferenceService
        one["metadata"]["labels"] | {"serving.kserve.io/inferenceservice": one["metadata"]["name"]}
        for one in rendered.of("InferenceService")
    ]
    for one in rendered.of("ServiceMonitor"):
        selector = one["spec"]["selector"]["matchLabels"]
        assert _of_this_release(selector, rendered), _called(one)
        if case.chart == UMBRELLA or services:
            assert any(selector.items() <= labels.items() for labels in services), (_called(one), selector)


def _pod_selectors(rendered: Rendered) -> list[tuple[str, dict[str, str]]]:
    """Every selector of pods of the release's own namespace, with where it stands."""
    found: list[tuple[str, dict[str, str]]] = []
    for one in rendered:
        where, spec = _called(one), one.get("spec", {})
        match one["kind"]:
            case "Service":
                found.append((where, spec.get("selector", {})))
            case "Deployment" | "StatefulSet" | "DaemonSet":
                found.append((where, spec["selector"]["matchLabels"]))
            case "PodDisruptionBudget":
                found.append((where, spec["selector"]["matchLabels"]))
            case "PodMonitor":
                found.append((where, spec["selector"]["matchLabels"]))
            case "NetworkPolicy":
                found.append((where, spec["podSelector"].get("matchLabels", {})))
            case _:
                pass
    return found


def _of_this_release(selector: dict[str, str], rendered: Rendered) -> bool:
    services = {one["metadata"]["name"] for one in rendered.of("InferenceService")}
    return (
        selector.get(f"{PART}/instance") == "sv"
        or selector.get("serving.kserve.io/inferenceservice") in services
        or selector.get("app") in {f"isvc.{name}-predictor" for name in services}
    )


# Secrets, images, references


@every_case
def test_no_chart_renders_a_secret(case):
    assert case.rendered().of("Secret") == []


@every_case
def test_what_is_named_after_the_release_is_rendered(case):
    rendered = case.rendered()
    made = {(one["kind"], one["metadata"]["name"]) for one in rendered}
    for name, _, spec in pods(rendered):
        wanted = {("ServiceAccount", spec.get("serviceAccountName", "default"))}
        for volume in spec.get("volumes", []):
            wanted |= {("ConfigMap", volume["configMap"]["name"])} if "configMap" in volume else set()
            if "persistentVolumeClaim" in volume:
                wanted.add(("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]))
        missing = {one for one in wanted - made if one[1].startswith("sv-")}
        assert not missing, name


@every_case
def test_every_image_has_a_tag_of_its_own(case):
    for name, _, spec in pods(case.rendered()):
        for container in containers(spec):
            tag = container["image"].rpartition("/")[2].partition(":")[2]
            assert "@sha256:" in container["image"] or tag not in ("", "latest"), f"{name}, {container['image']}"


@every_chart
def test_the_images_that_are_listed_are_those_that_are_rendered(chart):
    listed = yaml.safe_load(_chart(chart).get("annotations", {}).get("artifacthub.io/images", "[]"))
    rendered = {
        container["image"]
        for case in cases(chart)
        for _, _, spec in pods(case.rendered())
        for container in containers(spec)
        if container["image"].startswith(OURS)  # a mirror or a digest of a scenario is no image of the chart's
    }
    assert {one["image"] for one in listed} == {image for image in rendered if "@" not in image}


@every_chart
def test_a_private_registry_and_its_secret_reach_every_pod(chart):
    case = cases(chart)[0]
    values = {"global": {"imageRegistry": "registry.example.com", "imagePullSecrets": [{"name": "mirror"}]}}
    for name, _, spec in pods(render(chart, values, files=case.files)):
        assert {"name": "mirror"} in spec["imagePullSecrets"], name
        for container in containers(spec):
            assert container["image"].startswith("registry.example.com/"), name


# Charts as files


@every_chart
def test_the_shared_templates_are_the_same_everywhere(chart):
    first = (CHARTS / NAMES[0] / "templates" / "_common.tpl").read_bytes()
    assert (CHARTS / chart / "templates" / "_common.tpl").read_bytes() == first


def test_no_other_template_is_defined_by_two_charts():
    defined = Counter(
        name
        for chart in NAMES
        for file in (CHARTS / chart / "templates").rglob("*")
        if file.is_file() and file.name != "_common.tpl"
        for name in re.findall(r'{{-?\s*define\s+"([^"]+)"', file.read_text())
    )
    assert [name for name, count in defined.items() if count > 1] == []


@every_chart
def test_nothing_is_looked_up_in_the_cluster_while_rendering(chart):
    for file in (CHARTS / chart / "templates").rglob("*"):
        if file.is_file():
            assert not re.search(r"{{[^}]*\blookup\b", file.read_text()), file


@every_chart
def test_chart_yaml_says_what_people_look_for(chart):
    about = _chart(chart)
    assert about["name"] == chart
    assert about["apiVersion"] == "v2"
    assert about["version"] == about["appVersion"] == _chart(UMBRELLA)["version"]
    assert about["kubeVersion"] == ">=1.31.0-0"
    assert about["type"] == "application"
    assert {"description", "home", "icon", "sources", "keywords", "maintainers"} <= about.keys()
    annotations = about["annotations"]
    names = ("category", "changes", "images", "license", "links")
    assert {f"artifacthub.io/{name}" for name in names} - annotations.keys() <= {"artifacthub.io/images"}
    changes = yaml.safe_load(annotations["artifacthub.io/changes"])
    kinds = {"added", "changed", "deprecated", "removed", "fixed", "security"}
    assert changes
    assert all(one["kind"] in kinds and one["description"] for one in changes)


@every_chart
def test_notes_end_in_a_command_that_proves_the_release(chart):
    case = cases(chart)[0]
    done = subprocess.run(
        [
            *(str(helm(4)), "install", "sv", str(folder(chart)), "--dry-run=client", "--namespace", "streetvision"),
            *case.arguments,
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    notes = done.stdout.rpartition("NOTES:\n")[2].strip()
    assert re.match(r"(helm test|kubectl) .*sv", notes.splitlines()[-1].strip()), notes


# Values and their schemas


@every_chart
def test_every_value_has_a_comment(chart):
    rows = documented_values((CHARTS / chart / "values.yaml").read_text(), where=chart)
    assert all(row.description.endswith((".", ")")) or row.description for row in rows)
    assert len({row.key for row in rows}) == len(rows)


@every_chart
def test_every_value_is_in_the_schema(chart):
    schema = _schema(chart)
    values = yaml.safe_load((CHARTS / chart / "values.yaml").read_text())
    assert _not_in(schema, values, "") == []


@every_chart
def test_the_schema_is_closed_below_the_root_and_open_there_to_global_and_x(chart):
    schema = _schema(chart)
    assert schema["$schema"] == "http://json-schema.org/draft-07/schema#"
    assert schema["additionalProperties"] is False
    assert list(schema["patternProperties"]) == ["^x-"]
    assert "global" in schema["properties"]
    below = {key: value for key, value in schema["properties"].items() if key not in ("global", *_parts(chart))}
    assert _open_objects(below) == []


@pytest.mark.parametrize("major", [3, 4])
@every_chart
def test_a_misspelt_value_is_refused_by_name(chart, major):
    case = cases(chart)[0]
    with pytest.raises(RenderError, match="nameOverid"):
        render(chart, {"nameOverid": "x"}, files=case.files, major=major)
    render(chart, {"x-anything": {"a": 1}, "global": {"other": True}}, files=case.files, major=major)


def _parts(chart: str) -> list[str]:
    """Of the umbrella: what the parts' own schemas close."""
    return [one["name"] for one in _chart(chart).get("dependencies", [])]


def _not_in(schema: Any, values: Any, path: str) -> list[str]:
    if not isinstance(values, dict) or not isinstance(schema, dict) or "properties" not in schema:
        return []
    missing = [f"{path}{key}" for key in values if key not in schema["properties"]]
    return missing + [
        deeper
        for key, value in values.items()
        if key in schema["properties"]
        for deeper in _not_in(schema["properties"][key], value, f"{path}{key}.")
    ]


def _open_objects(properties: Any, path: str = "") -> list[str]:
    """Where a schema names keys and lets others in."""
    if isinstance(properties, list):
        return [found for one in properties for found in _open_objects(one, path)]
    if not isinstance(properties, dict):
        return []
    found = [path] if "properties" in properties and properties.get("additionalProperties") is not False else []
    return found + [deeper for key, value in properties.items() for deeper in _open_objects(value, f"{path}/{key}")]


def _called(one: Object) -> str:
    return f"{one['kind']} {one['metadata']['name']}"

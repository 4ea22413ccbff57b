import signal
import subprocess
import threading
import time

import pytest

from manifests.tools import helm
from streetvision.errors import RolloutError, SettingsError
from streetvision.operations.helm import Helm, Release

# Stands in for a helm that hangs; what it writes shows that it was told to stop.
HANGS = """#!/bin/sh
trap 'touch {folder}/stopped; exit 1' TERM
touch {folder}/started
sleep 60 & wait
"""


@pytest.fixture(scope="module", params=[3, 4])
def program(request):
    return str(helm(request.param))


@pytest.fixture
def hanging(tmp_path):
    file = tmp_path / "helm"
    file.write_text(HANGS.format(folder=tmp_path))
    file.chmod(0o755)
    return file


def test_name_and_version_of_a_chart_are_read(program, tmp_path):
    (tmp_path / "Chart.yaml").write_text("apiVersion: v2\nname: streetvision\nversion: 1.2.3\n")
    assert Helm(program, "here").chart(tmp_path) == ("streetvision", "1.2.3")


def test_a_folder_without_a_chart_is_named(program, tmp_path):
    with pytest.raises(SettingsError, match=f"there is no usable chart at `{tmp_path}`: ") as caught:
        Helm(program, "here").chart(tmp_path)
    assert "--chart" in caught.value.hint


def test_helms_own_words_are_the_reason(program, tmp_path, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    with pytest.raises(RolloutError, match=r"`helm get metadata` failed: .*[Kk]ubernetes cluster unreachable"):
        Helm(program, "here").release("r")


def test_a_helm_that_is_not_there_is_named(tmp_path):
    with pytest.raises(SettingsError, match=r"`.*/none` cannot be run: No such file"):
        Helm(str(tmp_path / "none"), "here").chart(tmp_path)


def test_a_helm_that_hangs_is_told_to_stop(hanging, tmp_path, monkeypatch):
    monkeypatch.setattr("streetvision.operations.helm._ANSWER_S", 1.0)
    with pytest.raises(RolloutError, match="`helm rollback r` did not end within 2 s"):
        Helm(str(hanging), "here").rollback("r", 1, timeout_s=1)
    assert (tmp_path / "stopped").exists()


def test_whoever_interrupts_us_interrupts_helm(hanging, tmp_path):
    def interrupt():
        while not (tmp_path / "started").exists():
            time.sleep(0.01)
        signal.pthread_kill(main, signal.SIGINT)

    main = threading.main_thread().ident
    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        Helm(str(hanging), "here").rollback("r", 1, timeout_s=30)
    thread.join()
    assert (tmp_path / "stopped").exists()
    assert subprocess.run(["pgrep", "-f", str(hanging)], check=False, stdout=subprocess.DEVNULL).returncode == 1


def test_a_value_is_found_by_its_key():
    release = Release(
        chart="c", version="1", revision=1, status="deployed", values={"a": {"b": "c", "d": None}, "e": 1}
    )
    assert [release.value(key) for key in ("a.b", "a.d", "a.x.y", "e.f", "e")] == ["c", "", "", "", "1"]

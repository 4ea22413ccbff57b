import json

import bittensor_wallet
import pytest
import yaml

from streetvision.errors import ModelDirectoryError, SettingsError
from streetvision.evaluation import evaluate
from streetvision.registry.gate import Policy, decide
from streetvision.registry.hub import FolderHub
from streetvision.registry.modelcard import ModelCard, check_consistency, push_files, render_readme, ss58

ALICE = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY"  # Substrate's development accounts
BOB = "5FHneW46xGXgs5mUiveU4sbTyGBzmstUspZC92UhjJM694ty"
VALUES = {
    "model_name": "roadwork",
    "description": "Roadwork in street-level pictures",
    "version": "1.20.3",
    "submitted_by": ALICE,
    "submission_time": 1_790_000_000,
}


@pytest.fixture(scope="module")
def card():
    return ModelCard.make(**VALUES)


@pytest.fixture
def report(make_predictions):
    predictions = make_predictions(wrong=range(200), groups=400)
    return evaluate(predictions, resamples=100)


def test_card_has_exactly_the_five_keys(card):
    assert json.loads(card.encode()) == VALUES
    assert ModelCard.read(card.encode()) == card


@pytest.mark.parametrize("address", [ALICE, BOB])
def test_ss58_of_known_accounts_is_accepted(address):
    assert ss58(address) == address


def test_ss58_agrees_with_bittensor():
    keypair = bittensor_wallet.Keypair
    for number in range(20):
        assert ss58(keypair.create_from_uri(f"//{number}").ss58_address)


@pytest.mark.parametrize("position", range(0, 48, 3))
def test_ss58_with_one_character_mistyped_is_refused(position):
    other = "2" if ALICE[position] != "2" else "3"
    with pytest.raises(ValueError, match="checksum|format|characters"):
        ss58(ALICE[:position] + other + ALICE[position + 1 :])


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("", "0 characters"),
        (ALICE[:-1], "checksum|format|characters"),
        (ALICE + "Y", "49 characters"),
        ("0" + ALICE[1:], "holds `0`"),
        ("15oF4uVJwmo4TdGW7VfQxNLavjCXviqxT9S1MgbjMNHr6Sp5", "format 0, expected 42"),  # Alice on Polkadot
        ("z" * 48, "characters"),
    ],
)
def test_other_text_is_no_ss58_address(address, message):
    with pytest.raises(ValueError, match=message):
        ss58(address)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model_name", ""),
        ("version", "1.2"),
        ("version", "v1.2.3"),
        ("version", "1.02.3"),
        ("submitted_by", ALICE[:-1] + "Z"),
        ("submission_time", 1_790_000_000_000),
        ("submission_time", "1790000000"),
        ("submission_time", 0),
        ("accuracy", "0.97"),
    ],
)
def test_unusable_value_is_named(key, value):
    with pytest.raises(SettingsError, match=f"model card: `{key}`: "):
        ModelCard.make(**(VALUES | {key: value}))


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"\xff", json.dumps({"model_name": "a"}).encode()])
def test_unreadable_card_is_one_clear_sentence(data):
    with pytest.raises(SettingsError, match="model card: "):
        ModelCard.read(data)


def test_readme_has_front_matter_figures_and_the_honest_rest(card, report, make_model):
    text = render_readme(make_model(), card, report, data_summary={"pictures": 1200, "source": "procedural"})
    _, front, body = text.split("---\n", 2)
    metadata = yaml.safe_load(front)
    assert metadata["license"] == "apache-2.0"
    assert metadata["pipeline_tag"] == "image-classification"
    accuracy = metadata["model-index"][0]["results"][0]["metrics"][0]
    assert accuracy == {"type": "accuracy", "value": 0.95}
    assert f"| reward a challenge | {report.reward.mean:.3f} [" in body
    assert body.count("\n| real |") == 4
    for heading in ("## Figures", "## Use", "## Training data", "## Limitations", "## Origin"):
        assert heading in body
    assert "* pictures: 1200" in body
    assert "## Gate" not in body
    assert "{{" not in text


def test_readme_tells_the_verdict_and_every_check(card, report, make_model, make_predictions):
    decision = decide(None, make_predictions(wrong=range(200), groups=400), Policy(resamples=100))
    body = render_readme(make_model(), card, report, decision=decision)
    assert "Verdict: **promote**" in body
    assert all(check.sentence in body for check in decision.checks)


def test_hostile_text_stays_inside_its_field(report, make_model):
    name = 'x"\n---\nlicense: evil | <b>'
    card = ModelCard.make(**(VALUES | {"model_name": name, "description": "a\n\n# heading | b"}))
    text = render_readme(make_model(), card, report)
    assert yaml.safe_load(text.split("---\n")[1])["model-index"][0]["name"] == name
    assert "\n# heading" not in text


def test_push_holds_the_model_both_cards_and_the_report(card, report, make_model, tmp_path):
    model = make_model()
    files = push_files(model.path, card, report)
    assert set(files) == {"README.md", "config.json", "model.onnx", "model_card.json", "report.json", "training.json"}
    hub = FolderHub(tmp_path / "hub", "acme/roadwork")
    commit = hub.push(files, message="one", parent=None)
    assert commit.sha256["model.onnx"] == model.sha256
    assert ModelCard.read(hub.read("model_card.json", commit.revision)) == card


def test_altered_model_directory_is_never_pushed(card, report, make_model):
    model = make_model()
    model.model_path.write_bytes(b"altered")
    with pytest.raises(ModelDirectoryError, match="`model.onnx` has sha256"):
        push_files(model.path, card, report)


def test_consistency_is_a_check_for_the_gate(card, make_model):
    model = make_model()
    assert check_consistency(model.path, card, hotkey=ALICE).status == "passed"
    other = check_consistency(model.path, card, hotkey=BOB)
    assert (other.status, BOB in other.sentence) == ("failed", True)
    model.model_path.write_bytes(b"altered")
    assert check_consistency(model.path).status == "failed"


def test_consistency_looks_at_the_card_that_lies_in_the_directory(card, make_model):
    path = make_model().path
    (path / "model_card.json").write_bytes(card.encode())
    assert check_consistency(path).status == "passed"
    assert check_consistency(path, hotkey=BOB).status == "failed"
    (path / "model_card.json").write_bytes(card.encode().replace(b'"version"', b'"edition"'))
    found = check_consistency(path)
    assert (found.status, found.sentence.startswith("model card: `version`")) == ("failed", True)

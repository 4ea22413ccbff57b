from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from streetvision.errors import EngineError, ImageError, ModelDirectoryError
from streetvision.imaging import encode_jpeg, model_input
from streetvision.inference.classifier import Classifier, fixture_jpeg
from streetvision.inference.onnx import OnnxEngine
from tests.brightness import describe, write_model


def grey(value: int, height: int = 32, width: int = 32) -> NDArray[np.uint8]:
    return np.full((height, width, 3), value, dtype=np.uint8)


@pytest.fixture
def classifier(model_dir: Path) -> Classifier:
    classifier = Classifier.open(model_dir, threads=1)
    classifier.warm_up()
    return classifier


def test_encoded_pictures_and_arrays_are_answered_in_order(classifier: Classifier) -> None:
    answers = classifier.predict([encode_jpeg(grey(51, 48, 64)), grey(102, 100, 40), encode_jpeg(grey(255))])
    assert answers.calibrated.tolist() == pytest.approx([0.2, 0.4, 1.0])
    assert answers.probability.tolist() == pytest.approx([0.4, 0.6, 1.0])  # threshold 0.25
    assert answers.probability.dtype == np.float32


def test_more_pictures_than_a_batch_are_answered_as_one_by_one(classifier: Classifier) -> None:
    pictures = np.stack([grey(value) for value in range(0, 250, 10)])
    together = classifier.predict(pictures).probability
    assert together.tolist() == [float(classifier.predict([p]).probability[0]) for p in pictures]
    assert len(pictures) > classifier.engine.batch_sizes[-1]


def test_no_picture_gives_no_answer(classifier: Classifier) -> None:
    assert classifier.predict([]).probability.shape == (0,)


def test_model_input_is_the_one_of_training(classifier: Classifier) -> None:
    data = encode_jpeg(np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8))
    assert np.array_equal(classifier.model_inputs([data])[0], model_input(data, 32))


def test_bad_picture_is_named_by_its_index(classifier: Classifier) -> None:
    good = encode_jpeg(grey(9))
    with pytest.raises(ImageError, match="image 1: 5 bytes are no JPEG"):
        classifier.predict([good, b"hello", good])
    with pytest.raises(ImageError, match="image 0: .*damaged"):
        classifier.predict([good[: len(good) // 2]])
    with pytest.raises(ImageError, match=r"image 0: uint8\[32, 32\], expected"):
        classifier.predict([grey(1)[..., 0]])


def test_decode_limit_is_a_parameter(model_dir: Path) -> None:
    with pytest.raises(ImageError, match="image 0: picture has 50 x 40"):
        Classifier.open(model_dir, threads=1, limit_px=1999).predict([encode_jpeg(grey(1, 40, 50))])


def test_answers_are_the_same_from_several_threads(classifier: Classifier) -> None:
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda v: classifier.predict([grey(v)]).calibrated[0], range(64)))
    assert answers == pytest.approx([value / 255 for value in range(64)])


def test_open_refuses_an_altered_directory(model_dir: Path) -> None:
    with (model_dir / "model.onnx").open("ab") as file:
        file.write(b"!")
    with pytest.raises(ModelDirectoryError, match=r"`model\.onnx` has sha256"):
        Classifier.open(model_dir)


def test_engine_and_directory_must_agree_on_the_size(model_dir: Path) -> None:
    engine = OnnxEngine(model_dir / "model.onnx", size_px=32, threads=1)
    with pytest.raises(EngineError, match="engine takes 32 px pictures, expected 64"):
        Classifier(describe(model_dir, input_size_px=64), engine)


def test_warm_up_fails_where_the_model_answers_nonsense(model_dir: Path) -> None:
    write_model(model_dir / "model.onnx", divisor=1.0)  # black passes, the fixture picture does not
    describe(model_dir)
    with pytest.raises(EngineError, match="expected a number in"):
        Classifier.open(model_dir, threads=1).warm_up()


def test_fixture_picture_is_always_the_same() -> None:
    assert fixture_jpeg(64) == fixture_jpeg(64)

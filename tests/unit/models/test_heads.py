import torch

from streetvision.models.heads import Head


def test_the_head_gives_one_logit_per_picture() -> None:
    assert Head(1280)(torch.rand(5, 1280)).shape == (5,)


def test_the_head_is_a_512_128_1_perceptron_with_dropout() -> None:
    layers = list(Head(7).layers)
    assert [(layer.in_features, layer.out_features) for layer in layers if isinstance(layer, torch.nn.Linear)] == [
        (7, 512),
        (512, 128),
        (128, 1),
    ]
    assert [layer.p for layer in layers if isinstance(layer, torch.nn.Dropout)] == [0.2, 0.1]
    assert sum(isinstance(layer, torch.nn.GELU) for layer in layers) == 2


def test_standardised_features_make_the_head_blind_to_scale() -> None:
    torch.manual_seed(0)
    features = torch.rand(64, 8)
    head = Head(8).eval()
    head.standardise(features)
    expected = head(features)
    head.standardise(features * 1000 + 5)
    torch.testing.assert_close(head(features * 1000 + 5), expected, rtol=1e-3, atol=1e-3)


def test_a_constant_feature_stays_finite() -> None:
    head = Head(3).eval()
    head.standardise(torch.ones(4, 3))
    assert torch.isfinite(head(torch.ones(2, 3))).all()

import torch

from workloads.nn.pixel_statistics import CLIP_MEAN, CLIP_STD
from workloads.nn.timm_encoder import embed_patches, encode_images, encode_patches
from workloads.nn.vision import PixelNormalizer, build_vision_transformer


def test_bytes_are_normalised_as_clip_does() -> None:
    image = torch.randint(256, (2, 3, 4, 4), dtype=torch.uint8)
    expected = (image.double() / 255 - torch.tensor(CLIP_MEAN).view(3, 1, 1)) / torch.tensor(CLIP_STD).view(3, 1, 1)
    normalised = PixelNormalizer()(image)
    assert normalised.dtype == torch.float32
    torch.testing.assert_close(normalised.double(), expected, rtol=1e-5, atol=1e-5)


def test_other_statistics_and_another_epsilon_are_computed_with() -> None:
    normalised = PixelNormalizer((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))(
        torch.tensor([0, 255], dtype=torch.uint8).expand(3, 1, 2)
    )
    torch.testing.assert_close(normalised, torch.tensor([-1.0, 1.0]).expand(3, 1, 2))
    encoder = build_vision_transformer((8, 8), patch=8, width=8, depth=1, heads=1, norm_epsilon=1e-3)
    norms = [module for module in encoder.modules() if isinstance(module, torch.nn.LayerNorm)]
    assert [module.eps for module in norms] == [1e-3] * 3


def test_floats_pass_as_normalised() -> None:
    image = torch.randn(1, 3, 4, 4, dtype=torch.float64)
    assert PixelNormalizer()(image) is image


def test_normaliser_adds_nothing_to_a_checkpoint() -> None:
    assert not PixelNormalizer().state_dict()


def test_all_tokens_come_out_normalised() -> None:
    encoder = build_vision_transformer((32, 32), patch=8, width=24, depth=1, heads=2)
    tokens = encode_images(encoder, torch.randn(2, 3, 32, 32)).tokens_BNC
    assert tokens.shape == (2, 17, 24)
    torch.testing.assert_close(tokens.mean(-1), torch.zeros(2, 17), rtol=0, atol=1e-5)


def test_patch_embeddings_lead_to_the_same_tokens() -> None:
    encoder = build_vision_transformer((32, 32), patch=8, width=24, depth=2, heads=2)
    pixels = torch.randn(2, 3, 32, 32)
    patches = embed_patches(encoder, pixels)
    assert patches.shape == (2, 16, 24)
    expected = encode_images(encoder, pixels)
    torch.testing.assert_close(encode_patches(encoder, patches, pixels), expected, rtol=0, atol=0)
    torch.testing.assert_close(expected.pooled_BP, expected.tokens_BNC[:, 0], rtol=0, atol=0)

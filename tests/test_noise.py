"""Noise by (seed, index): the same bits whatever the batch, Gaussian, and the sources that users hand in."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from pndm import OptionError, solve
from pndm.models.unet import UNet, UNetConfig
from pndm.noise import SampleNoise, as_noise

SHAPE = (2, 3)


@given(seed=st.integers(0, 2**63 - 1), indices=st.lists(st.integers(0, 2**62), min_size=1, max_size=8))
def test_a_sample_has_the_same_bits_in_any_batch(seed, indices):
    source, alone = SampleNoise(seed, indices), [SampleNoise(seed, [i]) for i in indices]
    for _ in range(3):  # the starting noise, and that of later steps
        together = source.draw(SHAPE)
        assert together.shape == (len(indices), *SHAPE)
        assert torch.equal(together, torch.cat([one.draw(SHAPE) for one in alone]))


@given(
    keys=st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 3)) | st.tuples(st.integers(0, 2**63 - 1), st.integers(0, 2**62)),
        min_size=2,
        max_size=16,
        unique=True,
    )
)
def test_no_two_keys_share_their_noise(keys):
    firsts = [tuple(SampleNoise(seed, [i]).draw(SHAPE).flatten().tolist()) for seed, i in keys]
    assert len(set(firsts)) == len(keys)


def test_draws_of_one_sample_differ():
    source = SampleNoise(0, [0])
    assert not torch.equal(source.draw(SHAPE), source.draw(SHAPE))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_dtype_only_rounds(dtype):
    exact = SampleNoise(3, range(5)).draw(SHAPE, torch.float64)
    assert torch.equal(SampleNoise(3, range(5)).draw(SHAPE, dtype), exact.to(dtype))


def test_noise_is_standard_normal():
    """Kolmogorov and Smirnov's test within samples, and across the samples at one place."""
    noise = SampleNoise(0, range(2000)).draw((20,), torch.float64).numpy()
    assert stats.kstest(noise.ravel(), "norm").pvalue > 0.01
    assert stats.kstest(noise[:, 0], "norm").pvalue > 0.01
    covariance = np.cov(noise, rowvar=False)  # 2 000 draws: a standard error of 1 / sqrt(2 000) = 0.022
    np.testing.assert_allclose(covariance, np.eye(20), atol=5 * 0.032)


def test_call_draws_like_the_state():
    state = torch.empty(4, *SHAPE, dtype=torch.float64)
    noise = SampleNoise(1, range(4))(state)
    assert noise.dtype == torch.float64
    assert torch.equal(noise, SampleNoise(1, range(4)).draw(SHAPE, torch.float64))
    with pytest.raises(OptionError, match="the state holds 4 samples, the noise source 3"):
        SampleNoise(1, range(3))(state)


@pytest.mark.parametrize("seed", [-1, 2**63, 1.5, 1.0, "1", None])
def test_refused_seed(seed):
    with pytest.raises(OptionError, match=rf"seed={seed!r} must be a whole number from 0 to 2\^63 - 1"):
        SampleNoise(seed, [0])


@pytest.mark.parametrize("index", [-1, 2**63, 0.5, 2.0, None])
def test_refused_index(index):
    with pytest.raises(OptionError, match=rf"index={index!r} must be a whole number from 0 to 2\^63 - 1"):
        SampleNoise(0, [3, index])


def test_whole_numbers_of_other_kinds_are_whole_numbers():
    noise = SampleNoise(np.int64(4), torch.tensor([2, 7])).draw(SHAPE)
    assert torch.equal(noise, SampleNoise(4, np.array([2, 7], dtype=np.uint8)).draw(SHAPE))
    assert torch.equal(noise, SampleNoise(4, [2, 7]).draw(SHAPE))


def test_noise_of_no_samples_is_empty():
    source = SampleNoise(0, [])
    assert source.draw(SHAPE).shape == (0, *SHAPE)
    assert source(torch.empty(0, *SHAPE, dtype=torch.float64)).dtype == torch.float64


def test_torch_generators():
    state = torch.empty(3, *SHAPE, dtype=torch.float64)
    one = as_noise(torch.Generator().manual_seed(5))(state)
    assert torch.equal(one, torch.randn(3, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(5)))

    each = as_noise([torch.Generator().manual_seed(k) for k in range(3)])(state)
    for k in range(3):
        assert torch.equal(each[k : k + 1], as_noise(torch.Generator().manual_seed(k))(state[:1]))
    with pytest.raises(OptionError, match="generator is a list of 2, but the state holds 3 samples"):
        as_noise([torch.Generator(), torch.Generator()])(state)


def test_no_generator_is_torchs_own():
    state = torch.empty(3, *SHAPE)
    torch.manual_seed(11)
    noise = as_noise(None)(state)
    torch.manual_seed(11)
    assert torch.equal(noise, torch.randn(3, *SHAPE))


SEED_HINT = r"generator=0 must be a torch\.Generator, such as torch\.Generator\(\)\.manual_seed\(0\), a list of one a "


@pytest.mark.parametrize(
    ("generator", "sentence"),
    [
        (0, SEED_HINT),
        ([0, 1, 2], r"generator=\[0, 1, 2\] must be a torch\.Generator, a list of one a sample, or a noise source"),
        ("0", "generator='0' must be a torch"),
        (torch.Generator, "generator=<class .* must be a torch"),
        ({}, "generator={} must be a torch"),
    ],
)
def test_neither_a_generator_nor_a_source(generator, sentence):
    with pytest.raises(OptionError, match=sentence):
        as_noise(generator)


def test_a_source_is_itself():
    source = SampleNoise(0, [0])
    assert as_noise(source) is source


def network(dtype: torch.dtype) -> UNet:
    torch.manual_seed(0)
    unet = UNet(UNetConfig(image_size=8, in_channels=1, channels=(8, 16), blocks=1, attention=(False, True), groups=4))
    for parameter in unet.parameters():
        torch.nn.init.normal_(parameter, std=0.15)  # none at zero, so that every branch takes part
    return unet.eval().to(dtype)


def images(unet: UNet, indices, solver: str, dtype: torch.dtype) -> torch.Tensor:
    noise = SampleNoise(7, indices)
    return solve(unet, noise.draw((1, 8, 8), dtype), solver=solver, steps=5, generator=noise).x


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-9)])
@pytest.mark.parametrize("solver", ["plms", "ddim", "ddpm"])
def test_a_sample_is_the_same_image_in_any_batch(solver, dtype, tolerance):
    unet = network(dtype)
    of_64 = images(unet, range(64), solver, dtype)
    assert of_64.std() > 0.1
    assert (of_64[0] - of_64[1]).abs().max() > 0.1
    torch.testing.assert_close(images(unet, range(7), solver, dtype), of_64[:7], rtol=0, atol=tolerance)
    for i in (0, 5, 63):
        torch.testing.assert_close(images(unet, [i], solver, dtype), of_64[i : i + 1], rtol=0, atol=tolerance)
    assert torch.equal(images(unet, range(64), solver, dtype), of_64)

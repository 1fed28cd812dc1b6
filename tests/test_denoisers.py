"""Denoisers: the same samples from every kind of prediction, guidance, and a network in another schedule's time."""

import pytest
import torch

from pndm import ModelError, OptionError, schedules, solve, solvers
from pndm.denoisers import denoiser, guided, retimed
from pndm.models.mixture import GaussianMixture

PATHS = {name: schedules.create(name) for name in ("linear", "cosine", "vp_linear")}


def at(value: torch.Tensor) -> torch.Tensor:
    return value[:, None]


def on(mixture: GaussianMixture, path) -> GaussianMixture:
    return GaussianMixture(mixture.weights, mixture.means, mixture.deviations, path)


def networks(eps, path):
    """What networks that predict eps, x0 and v would answer, from one and the same eps."""

    def x0(x, t):
        return (x - at(path.sigma(t)) * eps(x, t)) / at(path.alpha(t))

    def v(x, t):
        return at(path.alpha(t)) * eps(x, t) - at(path.sigma(t)) * x0(x, t)

    return {"eps": eps, "x0": x0, "v": v}


@pytest.mark.parametrize("predicts", ["x0", "v"])
@pytest.mark.parametrize("schedule", PATHS)
@pytest.mark.parametrize("solver", ["plms", "ddim", "rk4"])
def test_every_prediction_gives_the_same_samples(mixture, noise, solver, schedule, predicts):
    path = PATHS[schedule]
    eps = on(mixture, path)
    network = networks(eps, path)[predicts]
    options = {"solver": solver, "steps": 12, "schedule": path, "t_start": 0.97 * path.t_noise}
    wanted = solve(eps, noise, **options).x
    torch.testing.assert_close(solve(denoiser(network, predicts, path), noise, **options).x, wanted, rtol=0, atol=1e-10)
    assert (solve(network, noise, **options).x - wanted).abs().max() > 0.01  # unconverted, it is another run


def test_denoiser_of_eps_is_the_network(mixture):
    assert denoiser(mixture, "eps", "vp_linear") is mixture


def test_denoiser_takes_images_and_keeps_their_dtype():
    x, t = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0.1, 0.5, 0.9])
    path = PATHS["vp_linear"]
    for predicts in ("x0", "v"):
        eps = denoiser(lambda x, t: x / 2, predicts, "vp_linear")(x, t)
        assert eps.dtype == torch.float32
        assert eps.shape == x.shape
        for i in range(3):  # each sample at its own time
            alpha, sigma = path.alpha(t[i].item()), path.sigma(t[i].item())
            wanted = (1 - alpha / 2) / sigma if predicts == "x0" else alpha / 2 + sigma
            torch.testing.assert_close(eps[i], wanted * x[i])


def test_unknown_prediction():
    with pytest.raises(OptionError, match=r"unknown prediction 'epsilon'.* known names are eps, v, x0"):
        denoiser(lambda x, t: x, "epsilon", "linear")


WRONG = {
    "one channel": (lambda x, t: x[:, :1] / 2, r"has shape \(6, 1\) where \(6, 2\) was expected"),
    "learned variance": (lambda x, t: torch.cat([x, x], 1), r"has shape \(6, 4\) where \(6, 2\) was expected"),
    "one for all": (lambda x, t: torch.zeros(()), r"has shape \(\) where \(6, 2\) was expected"),
    "a tuple": (lambda x, t: (x,), r"has shape tuple where \(6, 2\) was expected"),
    "complex": (lambda x, t: x * 1j, r"is torch\.complex128 where real numbers were expected"),
}


@pytest.mark.parametrize(("network", "found"), WRONG.values(), ids=WRONG.keys())
def test_an_answer_of_the_wrong_shape_is_an_error_in_every_wrapper(noise, network, found):
    """Arithmetic would broadcast the first of these, and the driver see nothing wrong."""
    path = PATHS["linear"]
    wrapped = [
        denoiser(network, "eps", path),
        denoiser(network, "x0", path),
        denoiser(network, "v", path),
        retimed(network, PATHS["cosine"], path),
        guided(network, lambda x, t: x, 2.0),
        guided(lambda x, t: x, network, 2.0),
    ]
    for model in wrapped:
        with pytest.raises(ModelError, match=rf"the model's answer {found}: solver ddim, step 1, evaluation 1 of 4, "):
            solve(model, noise, solver="ddim", steps=4, schedule=path)


def test_guidance_of_scale_1_is_the_conditional_and_of_0_the_unconditional(mixture, noise):
    t = torch.full((6,), 0.4, dtype=torch.float64)
    other = GaussianMixture(mixture.weights, -mixture.means, mixture.deviations)
    torch.testing.assert_close(guided(mixture, other, 1.0)(noise, t), mixture(noise, t), rtol=0, atol=1e-14)
    assert torch.equal(guided(mixture, other, 0.0)(noise, t), other(noise, t))


def test_guidance_of_two_gaussians_is_a_gaussian(vp, noise):
    """With unit deviations eps is linear in the mean, so the guided run samples around m_u + w (m_c - m_u)."""

    def gaussian(mean):
        return GaussianMixture(torch.ones(1), torch.tensor([mean], dtype=torch.float64), torch.ones(1))

    model = guided(gaussian([1.0, 0.0]), gaussian([0.0, 1.0]), 3.0)
    wanted = solve(gaussian([3.0, -2.0]), noise, solver="plms", steps=20, schedule=vp).x
    torch.testing.assert_close(solve(model, noise, solver="plms", steps=20, schedule=vp).x, wanted, rtol=0, atol=1e-10)


@pytest.mark.parametrize("solver", solvers.names())
def test_a_linear_model_serves_on_the_cosine_path(mixture, noise, solver):
    """Down from a noise level that both paths have, the retimed model is the one that belongs to the path."""
    trained, used = PATHS["linear"], PATHS["cosine"]
    results = [
        solve(model, noise, solver=solver, steps=10, schedule=used, t_start=980.0, generator=torch.Generator()).x
        for model in (retimed(on(mixture, trained), trained, used), on(mixture, used))
    ]
    torch.testing.assert_close(*results, rtol=0, atol=1e-8)


@pytest.mark.parametrize("trained", [PATHS["linear"], PATHS["vp_linear"]], ids=lambda s: s.name)
def test_noise_beyond_the_trained_gets_the_x0_of_the_nearest_trained(trained, noise):
    used, asked = schedules.create("vp_linear", beta_max=40.0), []

    def model(x, t):
        asked.append(t)
        return torch.cos(x)

    eps = retimed(model, trained, used)(noise, torch.ones(6, dtype=torch.float64))
    assert torch.all(asked[0] == trained.t_noise)
    x0 = (noise - trained.sigma(trained.t_noise) * torch.cos(noise)) / trained.alpha(trained.t_noise)
    torch.testing.assert_close(eps, (noise - used.alpha(1.0) * x0) / used.sigma(1.0), rtol=0, atol=1e-12)
    for dtype in (torch.float32, torch.float64):
        retimed(model, trained, used)(noise.to(dtype), torch.ones(6, dtype=dtype))
        assert asked[-1].dtype == dtype

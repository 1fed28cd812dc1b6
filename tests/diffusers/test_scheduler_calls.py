"""Our schedulers called out of turn, and with what they cannot use: a sentence for each."""

import pytest
import torch
from diffusers import EDMEulerScheduler, FlowMatchEulerDiscreteScheduler, PNDMScheduler
from their_loops import STABLE_DIFFUSION, run

from pndm import OptionError, solvers
from pndm.diffusers import scheduler

ADAPTIVE = [name for name in solvers.names() if solvers.create(name).evaluations_per_step is None]


def test_runs_do_not_touch_each_other(pixels, noise):
    ours = scheduler("plms")
    expected = run(ours, 10, pixels, noise)
    ours.set_timesteps(10)
    for t in ours.timesteps[:5]:  # a run that is given up
        ours.step(noise, t, noise)
    assert torch.equal(run(ours, 10, pixels, noise), expected)


def _stepped(ours, count):
    ours.set_timesteps(10)
    for t in ours.timesteps[:count]:
        ours.step(torch.zeros(1, 2), t, torch.zeros(1, 2))


@pytest.mark.parametrize("kind", ["tensor", "number"])
def test_steps_out_of_order_say_so(kind):
    ours = scheduler("ddim", timestep_spacing="leading")
    zero = torch.zeros(1, 2)

    def at(k):
        return ours.timesteps[k] if kind == "tensor" else ours.timesteps[k].item()

    with pytest.raises(OptionError, match="step: call set_timesteps first"):
        ours.step(zero, 980, zero)
    _stepped(ours, 3)
    for k in (2, 4):
        with pytest.raises(
            OptionError, match=rf"out of order: timestep {900 - 100 * k}, where 600 .number 4 of 10. is due"
        ):
            ours.step(zero, at(k), zero)
    _stepped(ours, 10)
    with pytest.raises(OptionError, match="step at timestep 900: all 10 of this run are answered; call set_timesteps"):
        ours.step(zero, at(0), zero)
    ours.set_timesteps(10)
    with pytest.raises(OptionError, match="step at timestep 555: it is not one of this run's timesteps, 900, 800, 700"):
        ours.step(zero, 555, zero)
    ours.set_begin_index(2)
    with pytest.raises(OptionError, match="out of order: timestep 900, where 700"):
        ours.step(zero, at(0), zero)
    with pytest.raises(OptionError, match="begin_index=11 must lie between 0 and 10"):
        ours.set_begin_index(11)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: scheduler("plsm"), "unknown solver 'plsm': did you mean 'plms'"),
        (lambda: scheduler("plms", ordr=2), "scheduler 'plms' has no option 'ordr': known are order, transfer"),
        (lambda: scheduler("plms", order=9), "order=9 must be one of 1, 2, 3, 4"),
        (lambda: scheduler("plms", timestep_spacing="kerras"), "unknown grid 'kerras': did you mean 'karras'"),
        (lambda: scheduler("plms", {"beta_shedule": "linear"}), "scheduler configuration: field 'beta_shedule'"),
        (lambda: scheduler("plms", prediction_type="eps"), "unknown prediction_type 'eps': .* epsilon, sample, v_pred"),
        (lambda: scheduler("plms", beta_schedule="sigmoid"), "unknown beta_schedule 'sigmoid'"),
        (lambda: scheduler("plms", beta_start=0.5), "beta_start=0.5 and beta_end=0.02 must satisfy"),
        (lambda: scheduler("plms", trained_betas=[0.1, 2.0]), "trained_betas must be a list of numbers"),
        (lambda: scheduler("plms", trained_betas="linear"), "trained_betas must be a list of numbers"),
        (lambda: scheduler(solvers.create("plms")), "scheduler takes a solver by its name, and its options beside it"),
        (lambda: scheduler("plms", PNDMScheduler()), "config=PNDMScheduler . must be one itself"),
        (lambda: scheduler("plms", rescale_betas_zero_snr=True), "rescale_betas_zero_snr=True makes ᾱ = 0"),
        (lambda: scheduler("plms", {"use_flow_sigmas": True}), "use_flow_sigmas=True is a path that"),
        (lambda: scheduler("plms", FlowMatchEulerDiscreteScheduler().config), "configuration: field"),
        (lambda: scheduler("plms", EDMEulerScheduler().config), "scheduler configuration: field 'sigma_"),
        (lambda: scheduler("plms", "a/folder"), "config='a/folder' must be one itself"),
        (lambda: scheduler("plms", thresholding=True), "thresholding=True is not supported; only False"),
        (lambda: scheduler("plms").set_timesteps(0), "num_inference_steps=0 must be a whole number of at least 1"),
        (lambda: scheduler("plms").set_timesteps(2.5), "num_inference_steps=2.5 must be a whole number"),
        (lambda: scheduler("plms").set_timesteps(1001), "num_inference_steps=1001 is more than"),
        (lambda: scheduler("plms").set_timesteps(), "set_timesteps: give either num_inference_steps or timesteps"),
        (lambda: scheduler("plms").set_timesteps(timesteps=[5, 9]), "but 5 is followed by 9"),
        (lambda: scheduler("ddim").step(torch.zeros(2), 1, torch.zeros(3)), "model_output has shape"),
        (
            lambda: scheduler("plms", first="analytic").set_timesteps(10),
            "solver 'plms' with these options does not begin with the network's answer .* use pndm.solve",
        ),
        *[
            (lambda name=name: scheduler(name), f"solver '{name}' chooses its own steps, so no list of timesteps")
            for name in ADAPTIVE
        ],
    ],
)  # fmt: skip
def test_refusals(make, sentence):
    with pytest.raises(OptionError, match=sentence):
        make()


def test_a_start_inside_a_step_is_refused(latent, noise):
    with pytest.raises(OptionError, match=r"solver 'prk' cannot start at index 1 .*inside a step; each step has 4"):
        run(scheduler("prk", STABLE_DIFFUSION), 10, latent, noise, begin=1)

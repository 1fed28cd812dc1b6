"""The same folder in an interpreter that has no diffusers: the same images, and files that go both ways."""

import json
import subprocess
import sys

import diffusers
import numpy as np
import pytest
import torch
from their_loops import GENTLE

from pndm.diffusers import SolverScheduler, scheduler
from pndm.diffusers.pipeline import PNDMPipeline

SCRIPT = """
import importlib.abc, json, sys
from pathlib import Path
class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("diffusers", "huggingface_hub", "transformers", "accelerate"):
            raise ImportError(name)
sys.meta_path.insert(0, Blocked())
import numpy as np, torch
torch.set_num_threads(1)
import pndm
from pndm.diffusers import SolverScheduler, scheduler
folder = Path(sys.argv[1])
def images(pipe, **options):
    pipe.set_progress_bar_config(disable=True)
    return pipe(2, 6, generator=torch.Generator().manual_seed(0), output_type="np", **options).images
pipe = pndm.PNDMPipeline.from_pretrained(folder / "theirs")
compat = pndm.PNDMPipeline.from_pretrained(folder / "theirs", compat=True)
np.savez(folder / "images.npz", pipe=images(pipe), compat=images(compat), solver=images(pipe, solver="ddim"))
pipe.to("cpu", torch.float32).save_pretrained(folder / "ours")
assert np.array_equal(images(pndm.PNDMPipeline.from_pretrained(folder / "ours")), images(pipe))
assert isinstance(pipe(1, 2).images[0].size, tuple) and pipe(1, 2)[0]
scheduler("deis", timestep_spacing="karras", trained_betas=np.linspace(1e-4, 0.02, 1000)).save_pretrained(folder / "s")
assert SolverScheduler.from_pretrained(folder / "s").config.solver == "deis"
sentences = []
for call in (
    lambda: pndm.PNDMPipeline.from_pretrained("google/ddpm-cifar10-32"),
    lambda: pndm.PNDMPipeline.from_pretrained(folder / "s"),
    lambda: SolverScheduler.from_pretrained(folder),
    lambda: scheduler("plms", {"tolerance": 1}),
    lambda: pndm.PNDMPipeline.from_pretrained(folder / "ours", variant="fp16"),
    lambda: pipe.save_pretrained(folder / "ours", variant="fp16"),
):
    try:
        call()
    except pndm.OptionError as error:
        sentences.append(str(error))
print(json.dumps(sentences))
"""


@pytest.fixture(scope="module")
def outcome(unet, tmp_path_factory):
    folder = tmp_path_factory.mktemp("without")
    diffusers.DDPMPipeline(unet, diffusers.DDPMScheduler(**GENTLE)).save_pretrained(folder / "theirs")
    run = subprocess.run([sys.executable, "-c", SCRIPT, str(folder)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return folder, json.loads(run.stdout.splitlines()[-1])


def images(pipe, **options):
    pipe.set_progress_bar_config(disable=True)
    return pipe(2, 6, generator=torch.Generator().manual_seed(0), output_type="np", **options).images


def test_images_are_the_same(outcome):
    folder, _ = outcome
    there = np.load(folder / "images.npz")
    pipe, compat = (PNDMPipeline.from_pretrained(folder / "theirs", compat=value) for value in (False, True))
    for name, here in {"pipe": images(pipe), "compat": images(compat), "solver": images(pipe, solver="ddim")}.items():
        np.testing.assert_allclose(there[name], here, rtol=0, atol=1e-5)


def test_diffusers_reads_what_was_written_without_it(outcome):
    folder, _ = outcome
    pipe = diffusers.DiffusionPipeline.from_pretrained(folder / "ours")
    assert isinstance(pipe, diffusers.PNDMPipeline)
    assert isinstance(pipe.unet, diffusers.UNet2DModel)
    own = PNDMPipeline.from_pretrained(folder / "ours")
    np.testing.assert_allclose(images(own), np.load(folder / "images.npz")["pipe"], rtol=0, atol=1e-5)
    loaded = SolverScheduler.from_pretrained(folder / "s").config
    made = scheduler("deis", timestep_spacing="karras", trained_betas=np.linspace(1e-4, 0.02, 1000)).config
    assert {k: loaded[k] for k in made if k not in ("trained_betas", "_use_default_values")} == {
        k: v for k, v in made.items() if k not in ("trained_betas", "_use_default_values")
    }


def test_sentences(outcome):
    _, sentences = outcome
    wanted = [
        "google/ddpm-cifar10-32: there is no such folder, and a name on the hub needs: pip install 'pndm[diffusers]'",
        "there is no model_index.json",
        "there is no",
        "field 'tolerance' (value 1) is not known",
        "from_pretrained of a pndm U-Net has no option 'variant'; known are dtype, unet, scheduler",
        "save_pretrained of a pndm U-Net has no option 'variant'; known is safe_serialization",
    ]
    assert len(sentences) == len(wanted)
    for sentence, part in zip(sentences, wanted, strict=True):
        assert part in sentence

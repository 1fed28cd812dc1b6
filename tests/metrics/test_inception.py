"""Inception features: absent package and weights in a sentence; and torch-fidelity's network on untrained weights."""

import sys
import types

import pytest
import torch
from safetensors.torch import save_file

from pndm.data import to_uint8
from pndm.errors import OptionError
from pndm.metrics import inception


def test_absent_package_is_a_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(OptionError, match=r"torch-fidelity, which cannot be imported: pip install 'pndm\[fid\]'"):
        inception.check_installed()


def test_a_broken_torchvision_is_named(monkeypatch, tmp_path):
    (tmp_path / "torch_fidelity.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    monkeypatch.delitem(sys.modules, "torch_fidelity", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(OptionError, match=r"cannot be imported \(operator torchvision::nms does not exist\)"):
        inception.check_installed()


def test_absent_weights_are_a_sentence(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(
        OptionError, match=r"Inception weights are not at .*: put https://github.com/toshas/.*\.pth there"
    ):
        inception.find(None)
    with pytest.raises(OptionError, match="there is no such file"):
        inception.find(str(tmp_path / "mine.pth"))
    kept = tmp_path / "checkpoints" / inception.FILE
    kept.parent.mkdir()
    kept.write_bytes(b"")
    assert inception.find(None) == kept


def test_other_weights_are_warned_of(tmp_path):
    (tmp_path / "mine.pth").write_bytes(b"mine")
    with pytest.warns(UserWarning, match="does not hold the standard Inception weights"):
        assert len(inception.digest(tmp_path / "mine.pth")) == 64


def test_damaged_weights_are_a_sentence(monkeypatch, tmp_path):
    """Whether torch-fidelity is there or not: a file that cannot be read does not get as far as its network."""
    monkeypatch.setattr(inception, "check_installed", lambda: None)
    theirs = types.ModuleType("torch_fidelity.feature_extractor_inceptionv3")
    theirs.FeatureExtractorInceptionV3 = lambda *_, **__: pytest.fail("a damaged file was read")
    monkeypatch.setitem(sys.modules, "torch_fidelity", types.ModuleType("torch_fidelity"))
    monkeypatch.setitem(sys.modules, theirs.__name__, theirs)
    path = tmp_path / "torn.pth"
    torch.save({"weight": torch.zeros(2)}, path, _use_new_zipfile_serialization=False)
    whole = path.read_bytes()
    # no bytes: EOFError without a word; the others: IndexError
    for content in (b"", b"." + whole[1:], b"q" + whole[1:]):
        path.write_bytes(content)
        with pytest.raises(OptionError, match=r"torn.pth' are not those of torch-fidelity \(.+\)"):
            inception.load(path, torch.device("cpu"))


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """torch-fidelity's own network with untrained weights, and a file of them."""
    module = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3", exc_type=ImportError)
    kind = module.FeatureExtractorInceptionV3
    path = tmp_path_factory.mktemp("inception") / "weights.safetensors"
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(kind, "load_state_dict", lambda self, state: None)
        theirs = kind("inception", ["2048"]).eval()
    save_file({name: tensor.contiguous() for name, tensor in theirs.state_dict().items()}, path)
    return theirs, path


@pytest.mark.parametrize("channels", [1, 3])
def test_features_are_those_of_torch_fidelity(network, channels):
    theirs, path = network
    x = torch.rand(3, channels, 28, 28, generator=torch.Generator().manual_seed(1)) * 2 - 1
    found = inception.load(path, torch.device("cpu"))(x)
    rgb = to_uint8(x).repeat(1, 3 // channels, 1, 1)  # as its data sets do: PIL's convert("RGB")
    assert found.shape == (3, inception.DIMENSION)
    assert torch.allclose(found, theirs(rgb)[0], rtol=1e-4, atol=1e-6)


def test_a_file_of_something_else_is_refused(network, tmp_path):
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    (tmp_path / "torn.pth").write_bytes(b"PK\x03\x04torn")
    for name in ("other.safetensors", "torn.pth"):
        with pytest.raises(OptionError, match="are not those of torch-fidelity"):
            inception.load(tmp_path / name, torch.device("cpu"))
    with pytest.raises(OptionError, match="2 channels: Inception accepts 1 or 3"):
        inception.load(network[1], torch.device("cpu"))(torch.zeros(1, 2, 28, 28))

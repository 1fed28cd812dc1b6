"""Registries: names, presets, options, plug-ins, and the sentence for each mistake."""

import inspect
from types import SimpleNamespace

import numpy as np
import pytest

import pndm
from pndm import OptionError
from pndm.registry import Registry


class Pump:
    """Moves water.

    More about pumps.
    """

    def __init__(self, size: int, speed: float = 1.0):
        self.size, self.speed = size, speed


@pytest.fixture
def pumps() -> Registry[Pump]:
    registry = Registry("pump")
    registry.register("fast", speed=9.0, about="Moves water fast.")(registry.register("plain")(Pump))
    return registry


def test_create_gives_the_class_with_preset_and_options(pumps):
    plain, fast = pumps.create("plain", size=2), pumps.create("fast", size=3)
    assert (type(plain), plain.name, plain.size, plain.speed) == (Pump, "plain", 2, 1.0)
    assert (type(fast), fast.name, fast.size, fast.speed) == (Pump, "fast", 3, 9.0)
    assert pumps.create("fast", size=3, speed=5.0).speed == 5.0


def test_listing(pumps):
    assert pumps.names() == ["fast", "plain"]
    assert pumps.about("plain") == "Moves water."
    assert pumps.about("fast") == "Moves water fast."


def test_options_show_types_and_the_presets_defaults(pumps):
    assert pumps.options("plain") == {"size": (int, inspect.Parameter.empty), "speed": (float, 1.0)}
    assert pumps.options("fast")["speed"].default == 9.0


def test_resolve_takes_names_and_objects(pumps):
    registry = Registry("thing")
    registry.register("plain")(type("Plain", (), {"__init__": lambda self: None}))
    assert registry.resolve("plain").name == "plain"
    pump = Pump(1)
    assert pumps.resolve(pump) is pump
    assert Registry("pump", base=Pump).resolve(pump) is pump


@pytest.mark.parametrize("thing", [Pump, None, 3, ["plain"]])
def test_resolve_refuses_what_is_neither(thing):
    with pytest.raises(OptionError, match=r"pump=.* must be a name or a Pump object"):
        Registry("pump", base=Pump).resolve(thing)


@pytest.mark.parametrize("name", [["a"], {"name": "plain"}, None, 3])
def test_a_name_that_is_not_a_string(pumps, name):
    with pytest.raises(OptionError, match=r"unknown pump .*: .*known names are fast, plain$"):
        pumps.create(name)


def test_mistakes(pumps):
    with pytest.raises(OptionError, match=r"unknown pump 'plian': did you mean 'plain'\? known names are fast, plain$"):
        pumps.create("plian")
    with pytest.raises(OptionError, match=r"unknown pump 'xyz': known names are fast, plain$"):
        pumps.about("xyz")
    with pytest.raises(OptionError, match="pump 'fast' has no option 'sped': its options are size, speed"):
        pumps.create("fast", size=1, sped=2.0)
    with pytest.raises(OptionError, match="pump 'plain' needs its option 'size'"):
        pumps.create("plain", speed=2.0)
    with pytest.raises(OptionError, match="pump name 'plain' is taken by Pump"):
        pumps.register("plain")(type("Other", (), {}))
    assert pumps.create("plain", size=1).size == 1


def test_a_taken_name_is_not_replaced_by_the_same_class_with_another_preset(pumps):
    for preset in ({}, {"speed": 2.0}):
        with pytest.raises(OptionError, match=r"pump name 'fast' is taken by Pump\(speed=9\.0\)$"):
            pumps.register("fast", **preset)(Pump)
    assert pumps.create("fast", size=1).speed == 9.0
    pumps.register("fast", speed=9.0)(Pump)  # a module that is imported twice says the same twice


def test_a_preset_must_be_an_option_of_the_class_and_of_its_type(pumps):
    with pytest.raises(OptionError, match="pump 'slow' has no option 'sped': its options are size, speed"):
        pumps.register("slow", sped=0.1)(Pump)
    assert "slow" not in pumps.names()
    pumps.register("slow", speed="slowly")(Pump)
    with pytest.raises(OptionError, match="pump 'slow': speed='slowly' must be a number"):
        pumps.create("slow", size=1)


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("ddim", {"eta": "a"}, "solver 'ddim': eta='a' must be a number"),
        ("ddim", {"eta": True}, "solver 'ddim': eta=True must be a number"),
        ("deis", {"order": 2.5}, "solver 'deis': order=2.5 must be a whole number"),
        ("deis", {"order": None}, "solver 'deis': order=None must be a whole number"),
        ("deis", {"clock": 3}, "solver 'deis': clock=3 must be a name"),
        ("deis", {"clock": "tau"}, "unknown clock 'tau'"),
        ("deis", {"order": 9}, "order=9 must be one of 1, 2, 3, 4"),
        ("adaptive", {"tol": 0}, "tol=0 must be"),
        ("pf_ode", {"rtol": -1.0}, "rtol=-1.0 must be positive"),
    ],
)
def test_options_of_another_type_or_value(name, options, sentence):
    with pytest.raises(OptionError, match=sentence):
        pndm.solvers.create(name, **options)


def test_numpy_numbers_are_numbers():
    assert pndm.solvers.create("deis", order=np.int64(2)).weights_order == 2
    assert pndm.solvers.create("ddim", eta=np.float32(0.5)).eta == 0.5


def test_plugins_come_from_the_entry_point_group(monkeypatch):
    looked_up = []

    def entry_points(group):
        looked_up.append(group)
        return [SimpleNamespace(name="theirs", load=lambda: Pump)]

    monkeypatch.setattr("pndm.registry.entry_points", entry_points)
    registry = Registry("pump", group="house.pumps")
    registry.register("plain")(Pump)
    registry.create("plain", size=1)
    assert looked_up == []  # known names cost no look-up
    assert registry.create("theirs", size=4).size == 4
    assert registry.names() == ["plain", "theirs"]
    assert looked_up == ["house.pumps"]


def test_a_plugin_may_register_itself_with_a_preset(monkeypatch):
    registry = Registry("pump", group="house.pumps")

    def load():
        return registry.register("theirs", speed=4.0)(Pump)

    monkeypatch.setattr("pndm.registry.entry_points", lambda group: [SimpleNamespace(name="theirs", load=load)])
    assert registry.create("theirs", size=1).speed == 4.0


def test_pndm_names_what_design_names():
    assert {"linear", "scaled_linear", "cosine", "vp_linear", "table"} <= set(pndm.schedules.names())
    assert set(pndm.grids.names()) >= {"uniform", "leading", "trailing", "linspace", "quadratic", "logsnr", "karras"}
    paper = {"ddim", "pseudo_euler", "pseudo_heun", "prk", "s_pndm", "plms", "fon", "euler", "heun", "rk4", "ab4"}
    assert paper | {"ddpm", "pf_ode"} <= set(pndm.solvers.names())


@pytest.mark.parametrize("registry", [pndm.solvers.solvers, pndm.schedules.schedules, pndm.grids.grids])
def test_every_registered_thing_has_its_line_and_a_groups_name(registry):
    assert registry.kind in ("solver", "schedule", "grid")
    for name in registry.names():
        line = registry.about(name)
        assert line.endswith(".")
        assert "\n" not in line
